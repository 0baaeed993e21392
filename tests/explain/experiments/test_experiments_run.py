# SPDX-License-Identifier: Apache-2.0
"""What all experiments have in common."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain import Progress, explain_lesions
from bids_lesion_xai.explain.experiments import Finding, Scan, run_experiments
from bids_lesion_xai.explain.experiments.run import make_study
from bids_lesion_xai.explain.layers import Piece
from tests.explain.experiments.known import WAYS, experiment, respond, small_scan
from tests.explain.test_lesions import SHAPE, SIGMA, three_lesions
from tests.networks import random_unet

OF_LESIONS = [name for name in EXPERIMENTS if name != "synthetic"]


def found_by(
    name: str, scan: Scan, network: nn.Module | None = None, **explanation: Any
) -> list[Finding]:
    network = network or random_unet()
    attributions = explain_lesions(
        network, scan.image, scan.labels, method="gradient", n_threads=1
    )
    options = {"sigma": SIGMA, "n_threads": 1, **explanation}
    return experiment(name, network, scan, attributions=attributions, explanation=options)


def without_index(found: Finding) -> tuple[Any, ...]:
    rows = [{key: value for key, value in row.items() if key != "index"} for row in found.rows]
    return rows, found.numbers


def test_every_experiment_has_a_module() -> None:
    for name in EXPERIMENTS:
        assert callable(import_module(f"bids_lesion_xai.explain.experiments.{name}").run)


@pytest.mark.parametrize("name", OF_LESIONS)
def test_other_lesions_and_their_order_change_no_bit(name: str) -> None:
    labels = three_lesions()
    everything = {one.lesion: without_index(one) for one in found_by(name, small_scan())}
    for lesion in everything:
        alone = small_scan(labels=(labels == lesion).int())
        (found,) = found_by(name, alone)
        assert without_index(found) == everything[lesion]
    turned = small_scan(labels=torch.where(labels > 0, 4 - labels, labels))
    for found in found_by(name, turned):
        assert without_index(found) == everything[4 - found.lesion]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", OF_LESIONS)
def test_the_number_of_threads_changes_no_bit(name: str, flip: bool) -> None:
    one, three = (found_by(name, small_scan(), n_threads=n, flip=flip) for n in (1, 3))
    assert one == three
    little = found_by(name, small_scan(), n_threads=3, flip=flip, memory_gb=1e-9)
    assert little == one


@pytest.mark.parametrize("name", OF_LESIONS)
def test_no_lesion_gives_nothing(name: str) -> None:
    assert found_by(name, small_scan(labels=torch.zeros(SHAPE, dtype=torch.int32))) == []


@pytest.mark.parametrize("name", OF_LESIONS)
def test_progress_grows_to_the_end(name: str) -> None:
    seen: list[tuple[str, Progress]] = []
    experiment(
        name,
        random_unet(),
        attributions=explain_lesions(
            random_unet(), small_scan().image, three_lesions(), method="gradient"
        ),
        explanation={"sigma": SIGMA},
        progress=lambda *one: seen.append(one),
    )
    assert {told for told, _ in seen} == {name}
    shares = [one.share for _, one in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    last = seen[-1][1]
    assert (last.n_done, last.n_lesions, last.sample) == (3, 3, last.n_samples)


@pytest.mark.parametrize("way", WAYS)
def test_many_images_at_once_give_what_they_give_one_by_one(way: str) -> None:
    network, scan = random_unet(), small_scan()
    scorer = make_study(network, scan, {"n_threads": 1, **WAYS[way]}).scorer
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(scan.image.shape, dtype=torch.float64, generator=generator)
              for _ in range(3)]  # fmt: skip
    for lesion in scan.lesions():
        part = (slice(None), *scorer.support(lesion).slices((0, 0, 0)))
        makers = [partial(image.__getitem__, part) for image in images]
        batch, single = scorer.respond(lesion, makers), scorer.responses(lesion, makers)
        for together, alone, image in zip(batch, single, images, strict=True):
            expected = respond(network, image, scan.labels == lesion.label, WAYS[way])
            assert vars(together) == pytest.approx(expected, rel=1e-10)
            assert vars(alone) == pytest.approx(expected, rel=1e-10)


def test_gradients_are_kept_of_nothing() -> None:
    network = random_unet().requires_grad_()
    for way in WAYS.values():
        scorer = make_study(network, small_scan(), {"n_threads": 1, **way}).scorer
        lesion = next(small_scan().lesions())
        region = scorer.engine.region(lesion.box, SHAPE)
        piece = Piece(scorer.image[None], (0, 0, 0), scorer.engine.extent(SHAPE)).at(region)
        assert not scorer.engine.logits(piece, lesion.box).values.requires_grad


def test_names_and_images_that_do_not_fit_are_refused() -> None:
    network, scan = random_unet(), small_scan()
    with pytest.raises(UsageError, match="experiment 'context'"):
        run_experiments(["context"], network, scan)
    with pytest.raises(UsageError, match="faithfulness"):
        run_experiments(["faithfulness"], network, scan)
    with pytest.raises(DataError, match="normal-appearing"):
        small_scan(normal=torch.zeros(SHAPE, dtype=torch.bool))
    with pytest.raises(DataError, match="brain of shape"):
        small_scan(brain=torch.ones(3, 3, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match="float32"):
        run_experiments(["channel"], network, small_scan(image=scan.image.float()))


def test_a_voxel_at_the_threshold_is_lesion() -> None:
    undecided = random_unet()
    for weight in undecided.parameters():
        weight.zero_()
    for found in found_by("channel", small_scan(), network=undecided):
        assert {row["mean_probability"] for row in found.rows} == {0.5}
        assert {row["detected"] for row in found.rows} == {1}
    above = small_scan(peak_threshold=0.5000001)
    for found in found_by("channel", above, network=undecided):
        assert {row["detected"] for row in found.rows} == {0}
