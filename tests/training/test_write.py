# SPDX-License-Identifier: Apache-2.0
"""What a training writes is a MONAI bundle that the app reads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
import torch

from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.models.network import PUBLISHED_UNET, build, load_network
from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.evaluate import Setting
from bids_lesion_xai.training.options import NETWORKS, TrainingOptions
from bids_lesion_xai.training.write import divide_logits, write_bundle
from tests.networks import randomised

CPU = torch.device("cpu")


def test_what_training_writes_is_what_inference_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomised(build("UNet", PUBLISHED_UNET)).float()
    options = TrainingOptions(steps=2)
    write_bundle(
        tmp_path / "bundle",
        network,
        version="1.0.0",
        trained_on=["a/sub-01"],
        masks_of=["a/sub-01", "a/sub-03"],
        mask_checksums=["ab12", "cd34"],
        training=options,
        setting=Setting(0.35),
        evaluation=[{"person": "a/sub-02", "dice": 0.51239, "fdr": math.nan}],
    )
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.trained_on == ("a/sub-01", "a/sub-03")
    assert bundle.trained_masks == ("ab12", "cd34")
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
            version="1.0.0",
            trained_on=["a/sub-01"],
            masks_of=["a/sub-01"],
            mask_checksums=[],
            training=TrainingOptions(network=name),
            setting=Setting(0.5),
            evaluation=[],
        )
    metadata = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, MONAI_SCHEMA)
    assert read_bundle(folder).weights.stat().st_size > 0
