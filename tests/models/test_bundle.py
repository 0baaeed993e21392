# SPDX-License-Identifier: Apache-2.0
"""Model bundles are read as data: what does not fit is refused, nothing is run."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import safetensors.torch
import torch

from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.errors import UnavailableError
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.models.network import (
    PUBLISHED_UNET,
    build,
    choose_device,
    load_network,
    save_weights,
)
from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.evaluate import Setting
from bids_lesion_xai.training.options import NETWORKS, TrainingOptions
from bids_lesion_xai.training.write import divide_logits, write_bundle
from tests.bundles import INFERER
from tests.networks import randomised

CPU = torch.device("cpu")
SMALL_UNET = {
    "_target_": "monai.networks.nets.UNet",
    **PUBLISHED_UNET,
    "channels": [3, 4],
    "strides": [2],
}


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = {key: value for key, value in SMALL_UNET.items() if key != "_target_"}
    return randomised(build("UNet", arguments)).float()


def metadata_of(weights: Path) -> dict[str, Any]:
    image = {
        "num_channels": 2,
        "spatial_shape": ["2*n"] * 3,
        "channel_def": {"0": "FLAIR", "1": "T1w"},
    }
    return {
        "name": "small",
        "version": "1.2.3",
        "network_data_format": {"inputs": {"image": image}},
        "weights": {"file": f"models/{weights.name}", "sha256": sha256(weights)},
    }


def write_small(folder: Path, weights: str = "model.safetensors") -> Path:
    """Write a bundle of a small network by hand, and return its folder."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    path = folder / "models" / weights
    if path.suffix == ".pt":
        torch.save(small_network().state_dict(), path)
    else:
        save_weights(small_network(), path)
    write_json(folder / "configs" / "metadata.json", metadata_of(path))
    inference = {"network_def": SMALL_UNET, "threshold": 0.4}
    write_json(folder / "configs" / "inference.json", inference)
    return folder


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


@pytest.mark.parametrize("weights", ["model.safetensors", "model.pt"])
def test_a_good_bundle_is_read(tmp_path: Path, weights: str) -> None:
    bundle = read_bundle(write_small(tmp_path / "bundle", weights))
    assert (bundle.name, bundle.version, bundle.network) == ("small", "1.2.3", "UNet")
    assert (bundle.multiple, bundle.threshold) == (2, 0.4)
    assert bundle.arguments == {key: SMALL_UNET[key] for key in SMALL_UNET if key != "_target_"}
    network = load_network(bundle, CPU)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    assert all(weight.dtype == torch.float32 for weight in network.parameters())


def test_what_training_writes_is_what_inference_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomised(build("UNet", PUBLISHED_UNET)).float()
    options = TrainingOptions(steps=2)
    write_bundle(
        tmp_path / "bundle",
        network,
        trained_on=["a/sub-01"],
        training=options,
        fold_steps=2,
        setting=Setting(0.35),
        evaluation=[{"person": "a/sub-02", "dice": 0.51239, "fdr": math.nan}],
    )
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.trained_on == ("a/sub-01",)
    metadata = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    assert metadata["evaluation"] == [{"person": "a/sub-02", "dice": 0.5124, "fdr": None}]
    assert (bundle.arguments, bundle.multiple) == (PUBLISHED_UNET, 16)
    assert bundle.threshold == 0.35
    found = load_network(bundle, CPU)
    image = torch.randn(1, 2, 16, 16, 16)
    expected = network(image)
    # Half precision rounds each weight by at most 2^-11 of its value.
    peak = float(expected.abs().max())
    torch.testing.assert_close(found(image), expected, rtol=0, atol=2e-2 * peak)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_temperature_divides_all_logits(name: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[name].build().eval()
    image = torch.randn(1, 2, *[ARCHITECTURES[name].smallest] * 3)
    with torch.no_grad():
        expected = network(image) / 1.7
        divide_logits(network, 1.7)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


# The rules of meta_schema_20240725.json, which `monai.bundle verify_metadata` downloads.
TEXTS = (
    "schema version monai_version pytorch_version numpy_version task description authors copyright"
)
MONAI_SCHEMA = {
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in TEXTS.split()},
        **{
            key: {"type": "string"}
            for key in ("data_source", "data_type", "image_classes", "label_classes")
        },
        **{key: {"type": "string"} for key in ("pred_classes", "intended_use")},
        "changelog": {"type": "object"},
        "required_packages_version": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
    },
    "patternProperties": {
        "^[_a-zA-Z0-9]+_data_format$": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": [
                        *("type", "format", "num_channels", "spatial_shape", "dtype"),
                        "value_range",
                    ],
                    "properties": {
                        **{key: {"type": "string"} for key in ("type", "format", "dtype")},
                        "num_channels": {"type": "integer"},
                        "spatial_shape": {
                            "type": "array",
                            "items": {"type": ["string", "integer"]},
                        },
                        "value_range": {"type": "array", "items": {"type": "number"}},
                        "is_patch_data": {"type": "boolean"},
                        "channel_def": {"type": "object"},
                    },
                },
            },
        }
    },
    "required": [*TEXTS.split(), "required_packages_version", "network_data_format"],
}


@pytest.mark.parametrize("name", ["shipped", *NETWORKS])
def test_metadata_follow_the_schema_of_monai(name: str, tmp_path: Path) -> None:
    folder = DEFAULT_BUNDLE
    if name != "shipped":
        folder = tmp_path / "bundle"
        write_bundle(
            folder,
            ARCHITECTURES[name].build(),
            trained_on=["a/sub-01"],
            training=TrainingOptions(network=name),
            fold_steps=1,
            setting=Setting(0.5),
            evaluation=[],
        )
    metadata = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, MONAI_SCHEMA)
    assert read_bundle(folder).weights.stat().st_size > 0


def test_weights_come_back_within_half_precision_and_all_else_exactly(tmp_path: Path) -> None:
    network = small_network()
    found = load_network(read_bundle(write_small(tmp_path / "bundle")), CPU).state_dict()
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
    bundle = read_bundle(write_small(tmp_path / "bundle"))
    content = bytearray(bundle.weights.read_bytes())
    content[-1] ^= 1
    bundle.weights.write_bytes(bytes(content))
    with pytest.raises(UnavailableError, match=r"model\.safetensors.*SHA-256.*Restore"):
        load_network(bundle, CPU)


@pytest.mark.parametrize(
    "file", ["configs/metadata.json", "configs/inference.json", "models/model.safetensors"]
)
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = write_small(tmp_path / "bundle")
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
    folder = write_small(tmp_path / "bundle")
    change(folder, "inference", ("inferer",), INFERER | more)
    bundle = read_bundle(folder)
    assert (bundle.window, bundle.overlap) == ((12, 14, 10), overlap)


@pytest.mark.parametrize("inferer", [None, {}, {"_target_": "monai.inferers.SimpleInferer"}])
def test_without_windows_the_whole_volume_is_evaluated(
    tmp_path: Path, inferer: dict[str, Any] | None
) -> None:
    folder = write_small(tmp_path / "bundle")
    if inferer is not None:
        change(folder, "inference", ("inferer",), inferer)
    assert read_bundle(folder).window is None


IMAGE = ("network_data_format", "inputs", "image")
REFUSED = {
    "channels swapped": ("metadata", (*IMAGE, "channel_def"), {"0": "T1w", "1": "FLAIR"}, "FLAIR"),
    "three channels": ("metadata", (*IMAGE, "num_channels"), 3, "3 channels"),
    "one channel": ("metadata", (*IMAGE, "channel_def"), {"0": "FLAIR"}, "not complete"),
    "channels not stated": ("metadata", (*IMAGE, "num_channels"), None, "num_channels"),
    "unequal multiples": ("metadata", (*IMAGE, "spatial_shape"), ["8*n", "16*n"], "spatial_shape"),
    "multiple not a number": ("metadata", (*IMAGE, "spatial_shape"), ["*"] * 3, "not complete"),
    "no checksum": ("metadata", ("weights", "sha256"), None, "sha256"),
    "other weights": ("metadata", ("weights", "file"), "models/model.onnx", "safetensors or .pt"),
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
    "network by expression": ("inference", ("network_def", "_target_"), "$print", "allowed are"),
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
    "threshold by expression": ("inference", ("threshold",), "$0.5", "not complete"),
    "inferer by expression": ("inference", ("inferer",), "$print", "not complete"),
    "inferer not named": ("inference", ("inferer", "_target_"), None, "_target_"),
    "other inferer": (
        "inference",
        ("inferer", "_target_"),
        "monai.inferers.SliceInferer",
        "SlidingWindowInferer",
    ),
    "no window": ("inference", ("inferer", "roi_size"), None, "roi_size"),
    "flat window": ("inference", ("inferer", "roi_size"), [12, 12], "multiples of 2"),
    "no side": ("inference", ("inferer", "roi_size"), [12, 0, 12], "multiples of 2"),
    "any side": ("inference", ("inferer", "roi_size"), [12, -2, 12], "multiples of 2"),
    "odd side": ("inference", ("inferer", "roi_size"), [12, 13, 12], "multiples of 2"),
    "side by expression": ("inference", ("inferer", "roi_size"), ["@s"] * 3, "multiples of 2"),
    "no overlap": ("inference", ("inferer", "overlap"), None, "overlap"),
    "whole overlap": ("inference", ("inferer", "overlap"), 1.0, "below 1"),
    "negative overlap": ("inference", ("inferer", "overlap"), -0.25, "at least 0"),
    "overlap an axis": ("inference", ("inferer", "overlap"), [0.2, 0.2, 0.2], "not complete"),
    "no mode": ("inference", ("inferer", "mode"), None, "gaussian"),
    "constant blend": ("inference", ("inferer", "mode"), "constant", "gaussian"),
    "other width": ("inference", ("inferer", "sigma_scale"), 0.25, "sigma_scale"),
    "other padding": ("inference", ("inferer", "padding_mode"), "reflect", "padding_mode"),
    "other device": ("inference", ("inferer", "sw_device"), "@device", "SlidingWindowInferer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_and_fitting_is_refused(tmp_path: Path, name: str) -> None:
    file, keys, value, words = REFUSED[name]
    folder = write_small(tmp_path / "bundle")
    change(folder, "inference", ("inferer",), INFERER)
    read_bundle(folder)
    change(folder, file, keys, value)
    with pytest.raises(UnavailableError, match=words.replace("$", r"\$")):
        read_bundle(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_malformed_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = write_small(tmp_path / "bundle")
    (folder / "configs" / "metadata.json").write_bytes(content)
    with pytest.raises(UnavailableError, match=r"metadata\.json"):
        read_bundle(folder)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_weights_is_not_run(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "bundle", "model.pt")
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
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_unreadable_weights_are_refused(tmp_path: Path, weights: str, content: bytes) -> None:
    folder = write_small(tmp_path / "bundle", weights)
    replace_weights(folder, content)
    with pytest.raises(UnavailableError, match=f"{weights} of model small cannot be read"):
        load_network(read_bundle(folder), CPU)


def test_a_list_instead_of_weights_is_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "bundle", "model.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    replace_weights(folder, (tmp_path / "list.pt").read_bytes())
    with pytest.raises(UnavailableError, match="dict of tensors"):
        load_network(read_bundle(folder), CPU)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "bundle")
    change(folder, "inference", ("network_def", "channels"), [3, 5])
    with pytest.raises(UnavailableError, match="do not fit its network"):
        load_network(read_bundle(folder), CPU)
    change(folder, "inference", ("network_def", "colour"), "red")
    with pytest.raises(UnavailableError, match="colour"):
        load_network(read_bundle(folder), CPU)


def test_kernels_are_stored_in_half_precision(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(read_bundle(write_small(tmp_path / "bundle")).weights)
    small = {name for name, value in stored.items() if value.dtype == torch.float16}
    assert small == {name for name, value in stored.items() if value.ndim > 1}


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UnavailableError, match="--device auto"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
