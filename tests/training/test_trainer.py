# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.models.network import PUBLISHED_UNET, build
from bids_lesion_xai.training import trainer
from bids_lesion_xai.training.architectures import ARCHITECTURES, Architecture
from bids_lesion_xai.training.options import NETWORKS, TrainingOptions
from bids_lesion_xai.training.scans import LabelledScan
from bids_lesion_xai.training.trainer import train

CPU = torch.device("cpu")
SMALL_UNET = Architecture("UNet", {**PUBLISHED_UNET, "channels": [4, 4, 4, 4, 8]}, 16, 16)
SMALL_DYNUNET = replace(
    ARCHITECTURES["dynunet"],
    arguments=ARCHITECTURES["dynunet"].arguments | {"filters": [4, 4, 4]},
)
OPTIONS = TrainingOptions(
    steps=6,
    batch_size=2,
    patch_size=16,
    statistics_noise=1.0,
    seed=3,
    workers=0,
    checkpoint_every=2,
)


@pytest.fixture(autouse=True)
def _small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ARCHITECTURES, "unet", SMALL_UNET)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scans(person: str = "a/sub-01") -> list[LabelledScan]:
    """Return one scan without background, with a bright cube on FLAIR."""
    image = np.random.default_rng(0).normal(0, 1, (2, 40, 40, 40)).astype(np.float32)
    lesions = np.zeros((40, 40, 40), bool)
    lesions[16:24, 16:24, 16:24] = True
    image[0][lesions] += 4
    return [LabelledScan(person, "", image, lesions, (1.0, 1.0, 1.0))]


def run(folder: Path, **changed: Any) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    options = replace(OPTIONS, **changed)
    heads = scans("synthetic/sub-0001")
    network = train(scans(), [], heads, options, device=CPU, folder=folder)
    assert not network.training
    return network.state_dict()


def losses(folder: Path) -> list[list[str]]:
    with (folder / "loss.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def stop_after(n_batches: int) -> Any:
    """Return a source of batches that is interrupted."""
    batches = trainer._batches

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for count, batch in enumerate(batches(*arguments)):
            if count == n_batches:
                raise KeyboardInterrupt
            yield batch

    return interrupted


@pytest.mark.parametrize("n_batches", [1, 2, 5], ids=lambda n: f"after {n}")
@pytest.mark.parametrize(
    "of", [{}, {"network": "dynunet", "statistics_noise": 0.0}, {"tissue_weight": 0.5}], ids=str
)
def test_an_interrupted_training_goes_on_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_batches: int, of: dict[str, Any]
) -> None:
    # It has dropout.
    monkeypatch.setitem(ARCHITECTURES, "dynunet", SMALL_DYNUNET)
    expected = run(tmp_path / "whole", **of)
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_batches", stop_after(n_batches))
        with pytest.raises(KeyboardInterrupt):
            run(folder, **of)
    found = run(folder, **of)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert [int(step) for step, *_ in losses(folder)] == list(range(1, OPTIONS.steps + 1))
    assert losses(folder) == losses(tmp_path / "whole")


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_any_number_of_steps_is_trained(tmp_path: Path, steps: int) -> None:
    run(tmp_path, steps=steps)
    assert len(losses(tmp_path)) == steps


def test_a_training_that_is_done_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    written = (tmp_path / "loss.csv").read_text(encoding="utf-8")
    second = run(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "loss.csv").read_text(encoding="utf-8") == written
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "loss.csv"}


def test_weights_change_and_stay_finite(tmp_path: Path) -> None:
    torch.manual_seed(OPTIONS.seed)
    start = SMALL_UNET.build().state_dict()
    trained = run(tmp_path)
    kernels = [name for name, value in trained.items() if value.ndim > 1]
    assert all(torch.isfinite(trained[name]).all() for name in kernels)
    assert all(not torch.equal(trained[name], start[name]) for name in kernels)


def test_batch_norm_ends_its_training_with_the_statistics_it_predicts_with(
    tmp_path: Path,
) -> None:
    seen = [value for name, value in run(tmp_path).items() if name.endswith("batches_tracked")]
    assert seen
    assert all(count == 3 for count in seen)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"steps": 7}, "steps"), ({"loss": "ndice-focal"}, "loss"), ({"seed": 4}, "seed")],
    ids=["steps", "loss", "seed"],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    run(tmp_path)
    with pytest.raises(UsageError, match=f"other {words}"):
        run(tmp_path, **changed)
    run(tmp_path, checkpoint_every=1)


@pytest.mark.parametrize("changed", ["image", "lesions"])
@pytest.mark.parametrize("of", ["scan", "head"])
def test_a_checkpoint_of_another_brain_or_lesion_mask_is_refused(
    tmp_path: Path, changed: str, of: str
) -> None:
    run(tmp_path)
    kinds = {"scan": scans(), "head": scans("synthetic/sub-0001")}
    (one,) = kinds[of]
    values = getattr(one, changed).copy()
    values[..., 7, 7, 7] = values[..., 7, 7, 7] == 0
    kinds[of] = [replace(one, **{changed: values})]
    with pytest.raises(UsageError, match="other masks"):
        train(kinds["scan"], [], kinds["head"], OPTIONS, device=CPU, folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02."])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UsageError, match=r"checkpoint\.pt is damaged \(\w+\)"):
        run(tmp_path)


def test_the_pace_and_the_waiting_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run(tmp_path)
    assert re.search(r"step 6 of 6, .* waiting for patches, about 0 min left", caplog.text)


def test_statistics_noise_changes_what_is_learnt(tmp_path: Path) -> None:
    kernels = [
        run(tmp_path / str(noise), statistics_noise=noise)["model.0.conv.weight"]
        for noise in (0.0, 0.5, 1.0)
    ]
    assert not torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[1], kernels[2])


def test_tissues_change_what_is_learnt_and_are_forgotten(tmp_path: Path) -> None:
    found = [run(tmp_path / str(weight), tissue_weight=weight) for weight in (0.0, 0.5, 1.0)]
    shapes = [{name: value.shape for name, value in one.items()} for one in found]
    assert shapes[0] == shapes[1] == shapes[2]
    kernels = [one["model.0.conv.weight"] for one in found]
    assert not torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[1], kernels[2])


def test_what_is_left_without_tissues_are_the_logits_of_background_and_lesion() -> None:
    torch.manual_seed(0)
    network = SMALL_UNET.build(3).eval()
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = network(image)
        trainer._forget_tissues(network)
        assert expected.shape[1] == 5
        torch.testing.assert_close(network(image), expected[:, :2])
    build("UNet", SMALL_UNET.arguments).load_state_dict(network.state_dict())


@pytest.mark.parametrize("edge", [16, 32])
def test_kernels_that_bfloat16_computes_wrongly_on_a_cpu_are_trained_in_float32(
    edge: int,
) -> None:
    torch.manual_seed(0)
    network = build("UNet", PUBLISHED_UNET).eval()
    image = torch.randn(4, 2, edge, edge, edge)

    def gradients(context: Any) -> list[torch.Tensor]:
        with context:
            logits = network(image).float()
        (logits[:, 1] - logits[:, 0]).sigmoid().mean().backward()
        found = [weight.grad for weight in network.parameters() if weight.ndim > 1]
        network.zero_grad(set_to_none=True)
        return found

    options = replace(OPTIONS, patch_size=edge)
    for expected, found in zip(
        gradients(nullcontext()), gradients(trainer._precision(options, CPU)), strict=True
    ):
        assert (found - expected).norm() < 0.2 * expected.norm()


def test_a_loss_that_is_not_finite_ends_a_training_and_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trainer.LOSSES, "nan-at-4", losses_with_nan)
    with pytest.raises(UsageError, match=r"step 4 are not finite.*--learning-rate"):
        run(tmp_path, loss="nan-at-4")
    assert [int(step) for step, *_ in losses(tmp_path)] == [1, 2, 3]
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 2


def test_weights_that_are_not_finite_after_the_last_step_are_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0, with a gradient that is not a number.
    def root(logits: torch.Tensor, lesions: torch.Tensor) -> torch.Tensor:
        return logits.mul(0).sum().sqrt()

    monkeypatch.setitem(trainer.LOSSES, "root-of-0", lambda: root)
    with pytest.raises(UsageError, match="step 1 are not finite"):
        run(tmp_path, loss="root-of-0", steps=1)
    assert [row[:2] for row in losses(tmp_path)] == [["1", "0.00000"]]
    assert not (tmp_path / "checkpoint.pt").exists()


def losses_with_nan() -> Any:
    """Return a loss that is not a number when it is asked for the fourth time."""
    asked = itertools.count(1)

    def loss(logits: torch.Tensor, lesions: torch.Tensor) -> torch.Tensor:
        return logits.mean() * (float("nan") if next(asked) == 4 else 1)

    return loss


def test_every_network_can_be_asked_for() -> None:
    assert tuple(ARCHITECTURES) == NETWORKS


def test_cudnn_convolves_in_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's context of cuDNN options turns cuDNN off unless it is told not to."""
    seen: list[bool] = []
    step = trainer._step

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.enabled)
        return step(*arguments)

    monkeypatch.setattr(trainer, "_step", watched)
    run(tmp_path)
    assert seen == [True] * OPTIONS.steps
