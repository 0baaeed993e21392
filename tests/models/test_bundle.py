# SPDX-License-Identifier: Apache-2.0
"""Model bundles are read as data: what does not fit is refused, nothing is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.errors import UnavailableError
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.models.network import check_network, choose_device, load_network
from tests.bundles import ARGUMENTS, INFERER, bright_unet, write_small_bundle

CPU = torch.device("cpu")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def change(folder: Path, file: str, keys: tuple[str, ...], value: Any) -> None:
    """Set an entry of one of the JSON files; None removes it."""
    path = folder / "configs" / f"{file}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    *parents, last = keys
    inner = content
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    write_json(path, content)


def replace_weights(folder: Path, content: bytes) -> None:
    """Put other weights in place, with the checksum that belongs to them."""
    bundle = read_bundle(folder)
    bundle.weights.write_bytes(content)
    change(folder, "metadata", ("weights", "sha256"), sha256(bundle.weights))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None), (0.4, 0.8)),
        ((0.3, None), (0.3, 0.8)),
        ((0.9, None), (0.9, 0.9)),
        ((None, 0.5), (0.4, 0.5)),
        ((0.6, 0.5), (0.6, 0.6)),
    ],
)
def test_a_user_may_state_each_threshold_and_no_peak_is_below_its_lesion(
    given: tuple[float | None, float | None], expected: tuple[float, float], tmp_path: Path
) -> None:
    folder = write_small_bundle(tmp_path / "bundle", 0.4)
    change(folder, "inference", ("peak_threshold",), 0.8)
    assert read_bundle(folder).thresholds(*given) == expected


@pytest.mark.parametrize("weights", ["model.safetensors", "model.pt"])
def test_a_good_bundle_is_read(tmp_path: Path, weights: str) -> None:
    bundle = read_bundle(write_small_bundle(tmp_path / "bundle", 0.4, file=weights))
    assert (bundle.name, bundle.version, bundle.network) == ("small", "1.2.3", "UNet")
    assert (bundle.multiple, bundle.threshold) == (2, 0.4)
    assert bundle.peak_threshold == 0.4
    assert bundle.arguments == ARGUMENTS
    network = load_network(bundle, CPU)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    assert all(weight.dtype == torch.float32 for weight in network.parameters())


def test_weights_come_back_within_half_precision_and_all_else_exactly(tmp_path: Path) -> None:
    network = bright_unet()
    found = load_network(read_bundle(write_small_bundle(tmp_path / "bundle")), CPU).state_dict()
    assert set(found) == set(network.state_dict())
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim > 1:
            assert torch.equal(found[name], value.half().float()), name
        else:
            assert torch.equal(found[name], value), name


def test_the_bundle_of_the_package_is_read_if_it_is_there() -> None:
    if not DEFAULT_BUNDLE.exists():
        pytest.skip("no bundle is shipped yet")
    assert not load_network(read_bundle(DEFAULT_BUNDLE), CPU).training


def test_weights_with_another_checksum_are_refused(tmp_path: Path) -> None:
    bundle = read_bundle(write_small_bundle(tmp_path / "bundle"))
    content = bytearray(bundle.weights.read_bytes())
    content[-1] ^= 1
    bundle.weights.write_bytes(bytes(content))
    with pytest.raises(UnavailableError, match=r"model\.safetensors.*SHA-256.*Restore"):
        load_network(bundle, CPU)


@pytest.mark.parametrize(
    "file", ["configs/metadata.json", "configs/inference.json", "models/model.safetensors"]
)
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    (folder / file).unlink()
    with pytest.raises(UnavailableError, match=Path(file).name):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("more", "overlap"),
    [
        ({}, 0.3),
        ({"overlap": 0}, 0.0),
        ({"_target_": "SlidingWindowInferer", "sw_batch_size": 4, "progress": True}, 0.3),
        ({"sigma_scale": 0.125, "padding_mode": "constant", "cval": 0.0}, 0.3),
    ],
)
def test_the_windows_of_a_bundle_are_read(
    tmp_path: Path, more: dict[str, Any], overlap: float
) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    change(folder, "inference", ("inferer",), INFERER | more)
    bundle = read_bundle(folder)
    assert (bundle.window, bundle.overlap) == ((12, 14, 10), overlap)


@pytest.mark.parametrize(
    "inferer",
    [None, {}, {"_target_": "monai.inferers.SimpleInferer"}, {"_target_": "SimpleInferer"}],
)
def test_without_windows_the_whole_volume_is_evaluated(
    tmp_path: Path, inferer: dict[str, Any] | None
) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    if inferer is not None:
        change(folder, "inference", ("inferer",), inferer)
    assert read_bundle(folder).window is None


def classes(*names: str) -> dict[str, Any]:
    return {"pred": {"channel_def": {str(i): name for i, name in enumerate(names)}}}


OUTPUTS = ("network_data_format", "outputs")
IMAGE = ("network_data_format", "inputs", "image")
REFUSED = {
    "channels swapped": ("metadata", (*IMAGE, "channel_def"), {"0": "T1w", "1": "FLAIR"}, "FLAIR"),
    "classes swapped": ("metadata", OUTPUTS, classes("lesion", "background"), "the classes"),
    "three classes": ("metadata", OUTPUTS, classes("background", "lesion", "cyst"), "the classes"),
    "classes in a list": ("metadata", OUTPUTS, {"pred": {"channel_def": ["0", "1"]}}, "classes"),
    "outputs in a list": ("metadata", OUTPUTS, [], "list"),
    "three channels": ("metadata", (*IMAGE, "num_channels"), 3, "3 channels"),
    "one channel": ("metadata", (*IMAGE, "channel_def"), {"0": "FLAIR"}, "exactly 2 channels"),
    "a channel more": (
        "metadata",
        (*IMAGE, "channel_def"),
        {"0": "FLAIR", "1": "T1w", "2": "T2w"},
        "exactly 2 channels",
    ),
    "channels in a list": ("metadata", (*IMAGE, "channel_def"), ["FLAIR", "T1w"], "exactly 2"),
    "part of a channel": ("metadata", (*IMAGE, "num_channels"), 2.9, "2.9 channels"),
    "channels not counted": ("metadata", (*IMAGE, "num_channels"), 2.0, "2.0 channels"),
    "channels by yes": ("metadata", (*IMAGE, "num_channels"), True, "True channels"),
    "channels by no": ("metadata", (*IMAGE, "num_channels"), False, "False channels"),
    "channels not stated": ("metadata", (*IMAGE, "num_channels"), None, "num_channels"),
    "unequal multiples": ("metadata", (*IMAGE, "spatial_shape"), ["8*n", "16*n"], "spatial_shape"),
    "multiple not a number": ("metadata", (*IMAGE, "spatial_shape"), ["*"] * 3, "not complete"),
    "no multiple": ("metadata", (*IMAGE, "spatial_shape"), ["0*n"] * 3, "at least one voxel"),
    "more channels than any": ("metadata", (*IMAGE, "num_channels"), 1e999, "inf channels"),
    "person not in a list": ("metadata", ("training",), {"people": "a/sub-01"}, "list of names"),
    "person without a name": ("metadata", ("training",), {"masks_of": [1]}, "list of names"),
    "no checksum": ("metadata", ("weights", "sha256"), None, "sha256"),
    "other weights": ("metadata", ("weights", "file"), "models/model.onnx", "safetensors or .pt"),
    "weights above": ("metadata", ("weights", "file"), "../model.pt", "inside the folder"),
    "weights anywhere": ("metadata", ("weights", "file"), "/model.pt", "inside the folder"),
    "weights of a long name": ("metadata", ("weights", "file"), f"{5000 * 'w'}.pt", "not found"),
    "no name": ("metadata", ("name",), None, "name"),
    "no network": ("inference", ("network_def",), None, "network_def"),
    "network not a class": ("inference", ("network_def",), "UNet", "not complete"),
    "other network": (
        "inference",
        ("network_def", "_target_"),
        "monai.networks.nets.SegResNet",
        "UNet, DynUNet, SwinUNETR",
    ),
    "any function": ("inference", ("network_def", "_target_"), "os.system", "os.system"),
    "network elsewhere": (
        "inference",
        ("network_def", "_target_"),
        "os.evil.UNet",
        "UNet, DynUNet, SwinUNETR",
    ),
    "network by expression": ("inference", ("network_def", "_target_"), "$print", "plain values"),
    "unread expression": ("inference", ("imports",), ["$import os"], "imports.0"),
    "unread reference": ("inference", ("evaluator",), {"network": "@net"}, "evaluator.network"),
    "unread class": (
        "inference",
        ("preprocessing",),
        {"transforms": [{"_target_": "LoadImaged"}]},
        "preprocessing.transforms.0._target_",
    ),
    "class of an argument": (
        "inference",
        ("network_def", "norm"),
        {"_target_": "os.system"},
        "network_def.norm._target_",
    ),
    "class of all": ("inference", ("_target_",), "os.system", "os.system"),
    "expression": ("inference", ("network_def", "norm"), "$__import__('os')", "__import__"),
    "inner expression": (
        "inference",
        ("network_def", "norm"),
        ["batch", {"affine": ["$True"]}],
        "plain values",
    ),
    "network of three channels": ("inference", ("network_def", "in_channels"), 3, "network_def"),
    "network of one output": ("inference", ("network_def", "out_channels"), 1, "network_def"),
    "outputs not stated": ("inference", ("network_def", "out_channels"), None, "network_def"),
    "network of slices": ("inference", ("network_def", "spatial_dims"), 2, "network_def"),
    "reference": ("inference", ("network_def", "channels"), ["@width", 4], "@width"),
    "macro": ("inference", ("network_def", "act"), "%other.json::act", "other.json"),
    "threshold by expression": ("inference", ("threshold",), "$0.5", "plain values"),
    "peak threshold of nothing": ("inference", ("peak_threshold",), 1.0, "below 1"),
    "peak threshold by expression": ("inference", ("peak_threshold",), "$0.5", "plain values"),
    "peak threshold as text": ("inference", ("peak_threshold",), "0.8", "peak_threshold 0.8"),
    "threshold not reached": ("inference", ("threshold",), 1.0, "below 1"),
    "threshold of everything": ("inference", ("threshold",), 0, "above 0"),
    "threshold not a number": ("inference", ("threshold",), float("nan"), "probability"),
    "inferer by expression": ("inference", ("inferer",), "$print", "plain values"),
    "inferer not an object": ("inference", ("inferer",), "SimpleInferer", "not complete"),
    "inferer not named": ("inference", ("inferer", "_target_"), None, "_target_"),
    "other inferer": (
        "inference",
        ("inferer", "_target_"),
        "monai.inferers.SliceInferer",
        "SlidingWindowInferer",
    ),
    "inferer elsewhere": (
        "inference",
        ("inferer", "_target_"),
        "os.evil.SimpleInferer",
        "SlidingWindowInferer",
    ),
    "windows elsewhere": (
        "inference",
        ("inferer", "_target_"),
        "os.evil.SlidingWindowInferer",
        "SlidingWindowInferer",
    ),
    "no window": ("inference", ("inferer", "roi_size"), None, "roi_size"),
    "flat window": ("inference", ("inferer", "roi_size"), [12, 12], "multiples of 2"),
    "no side": ("inference", ("inferer", "roi_size"), [12, 0, 12], "multiples of 2"),
    "any side": ("inference", ("inferer", "roi_size"), [12, -2, 12], "multiples of 2"),
    "odd side": ("inference", ("inferer", "roi_size"), [12, 13, 12], "multiples of 2"),
    "side by expression": ("inference", ("inferer", "roi_size"), ["@s"] * 3, "plain values"),
    "side by name": ("inference", ("inferer", "roi_size"), ["12"] * 3, "multiples of 2"),
    "huge side": ("inference", ("inferer", "roi_size"), [12, 1026, 12], "up to 1024"),
    "no overlap": ("inference", ("inferer", "overlap"), None, "overlap"),
    "whole overlap": ("inference", ("inferer", "overlap"), 1.0, "below 1"),
    "negative overlap": ("inference", ("inferer", "overlap"), -0.25, "at least 0"),
    "overlap an axis": ("inference", ("inferer", "overlap"), [0.2, 0.2, 0.2], "not complete"),
    "no mode": ("inference", ("inferer", "mode"), None, "gaussian"),
    "constant blend": ("inference", ("inferer", "mode"), "constant", "gaussian"),
    "other width": ("inference", ("inferer", "sigma_scale"), 0.25, "sigma_scale"),
    "other padding": ("inference", ("inferer", "padding_mode"), "reflect", "padding_mode"),
    "other device": ("inference", ("inferer", "sw_device"), "cuda", "SlidingWindowInferer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_and_fitting_is_refused(tmp_path: Path, name: str) -> None:
    file, keys, value, words = REFUSED[name]
    folder = write_small_bundle(tmp_path / "bundle")
    change(folder, "inference", ("inferer",), INFERER)
    read_bundle(folder)
    change(folder, file, keys, value)
    with pytest.raises(UnavailableError, match=words.replace("$", r"\$")):
        read_bundle(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 10**6])
def test_malformed_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    (folder / "configs" / "metadata.json").write_bytes(content)
    with pytest.raises(UnavailableError, match=r"metadata\.json"):
        read_bundle(folder)


@pytest.mark.parametrize("depth", [40, 600])
@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("inference", ("network_def", "norm")),
        ("inference", ("network_def", "in_channels")),
        ("inference", ("inferer",)),
        ("metadata", (*IMAGE, "channel_def")),
        ("metadata", ("name",)),
    ],
)
def test_values_that_are_nested_too_deep_are_refused_by_file(
    tmp_path: Path, file: str, keys: tuple[str, ...], depth: int
) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    change(folder, "inference", ("inferer",), INFERER)
    change(folder, file, keys, nested)
    with pytest.raises(UnavailableError, match=rf"{file}\.json.*more than 32 levels"):
        read_bundle(folder)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_weights_is_not_run(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle", file="model.pt")
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Code(trace)))  # noqa: S301
    assert trace.exists()
    trace.unlink()
    torch.save({"weight": Code(trace)}, tmp_path / "code.pt")
    for content in (pickle.dumps(Code(trace), protocol=2), (tmp_path / "code.pt").read_bytes()):
        replace_weights(folder, content)
        with pytest.raises(UnavailableError, match="cannot be read"):
            load_network(read_bundle(folder), CPU)
        assert not trace.exists()


@pytest.mark.parametrize("weights", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02."])
def test_unreadable_weights_are_refused(tmp_path: Path, weights: str, content: bytes) -> None:
    folder = write_small_bundle(tmp_path / "bundle", file=weights)
    replace_weights(folder, content)
    with pytest.raises(UnavailableError, match=f"{weights} of model small cannot be read"):
        load_network(read_bundle(folder), CPU)


def test_a_list_instead_of_weights_is_refused(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle", file="model.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    replace_weights(folder, (tmp_path / "list.pt").read_bytes())
    with pytest.raises(UnavailableError, match="dict of tensors"):
        load_network(read_bundle(folder), CPU)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    change(folder, "inference", ("network_def", "channels"), [3, 5])
    with pytest.raises(UnavailableError, match="do not fit its network"):
        load_network(read_bundle(folder), CPU)
    change(folder, "inference", ("network_def", "colour"), "red")
    with pytest.raises(UnavailableError, match="colour"):
        load_network(read_bundle(folder), CPU)


def test_a_network_that_works_passes_the_check(tmp_path: Path) -> None:
    check_network(read_bundle(write_small_bundle(tmp_path / "bundle")))


def test_a_multiple_that_is_too_small_is_told_before_any_image(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    change(folder, "metadata", (*IMAGE, "spatial_shape"), ["1*n"] * 3)
    with pytest.raises(UnavailableError, match=r"multiples of 1 voxels.*\(1, 2, 3, 3, 3\)"):
        check_network(read_bundle(folder))


def test_a_multiple_beyond_all_memory_is_told_before_any_image(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    change(folder, "metadata", (*IMAGE, "spatial_shape"), [f"{10**5}*n"] * 3)
    with pytest.raises(UnavailableError, match="multiples of 100000 voxels, fails"):
        check_network(read_bundle(folder))


def test_logits_that_are_not_finite_are_told_before_any_image(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    network = bright_unet()
    network.model[-1].conv.bias.data.fill_(float("nan"))
    replace_weights(folder, safetensors.torch.save(network.state_dict()))
    with pytest.raises(UnavailableError, match="not all of them finite, for empty volumes"):
        check_network(read_bundle(folder))


def test_weights_whose_logits_are_not_finite_for_images_alone_are_told_before_any(
    tmp_path: Path,
) -> None:
    folder = write_small_bundle(tmp_path / "bundle")
    network = bright_unet()
    network.model[0].conv.weight.data.fill_(3e38)
    replace_weights(folder, safetensors.torch.save(network.state_dict()))
    with pytest.raises(UnavailableError, match="not all of them finite, for noise"):
        check_network(read_bundle(folder))


def test_kernels_are_stored_in_half_precision(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(
        read_bundle(write_small_bundle(tmp_path / "bundle")).weights
    )
    small = {name for name, value in stored.items() if value.dtype == torch.float16}
    assert small == {name for name, value in stored.items() if value.ndim > 1}


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UnavailableError, match="--device auto"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
