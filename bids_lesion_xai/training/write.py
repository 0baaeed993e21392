# SPDX-License-Identifier: Apache-2.0
"""Writing a trained network as a MONAI bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.models.network import save_weights
from bids_lesion_xai.training.architectures import ARCHITECTURES, Architecture
from bids_lesion_xai.training.evaluate import Setting
from bids_lesion_xai.training.options import TrainingOptions

WEIGHTS = "models/model.safetensors"
_SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


def write_bundle(
    folder: Path,
    network: torch.nn.Module,
    *,
    version: str,
    trained_on: Sequence[str],
    masks_of: Sequence[str],
    mask_checksums: Sequence[str],
    training: TrainingOptions,
    setting: Setting,
    evaluation: Sequence[dict[str, Any]],
) -> None:
    """Write `network` as a MONAI bundle into `folder`.

    Parameters
    ----------
    folder : Path
        Its name is that of the bundle.
    network : torch module
        Trained, in eval mode. Its last layer is divided by the temperature of `setting`.
    version : str
    trained_on : list of str
        People whose images are in the training data.
    masks_of : list of str
        People whose lesion masks are.
    mask_checksums : list of str
        Of these masks; see `scans.mask_checksum`.
    training : TrainingOptions
    setting : Setting
        Default lesion probabilities of the bundle, and temperature.
    evaluation : list of dict
        Figures of people whom the networks they are figures of were not trained on; see
        `evaluate.figures`. `left_out` says in which way, and `patches` on how many patches such a
        network was trained.
    """
    architecture = ARCHITECTURES[training.network]
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).parent.mkdir(exist_ok=True)
    divide_logits(network, setting.temperature)
    save_weights(network, folder / WEIGHTS)
    sides = [f"{architecture.multiple}*n"] * 3
    metadata = {
        "schema": _SCHEMA,
        "version": version,
        "name": folder.resolve().name,
        "task": "Segmentation of multiple sclerosis lesions in FLAIR and T1w",
        "description": "White-matter lesions of multiple sclerosis. Research use only.",
        "intended_use": "Research only; not a medical device.",
        "authors": "The bids_lesion_xai developers",
        "copyright": "The bids_lesion_xai developers",
        "references": ["Spagnolo et al., Scientific Reports (2026), 10.1038/s41598-026-36560-9"],
        "data_source": "; ".join(sorted({person.partition("/")[0] for person in trained_on})),
        "data_type": "nibabel",
        "image_classes": "FLAIR and T1w, skull-stripped, mean 0 and deviation 1 in the brain",
        "label_classes": "single channel, 1 is lesion",
        "pred_classes": "two channels of logits: background and lesion",
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "network_data_format": {
            "inputs": {
                "image": _format(
                    "image",
                    dict(enumerate(CHANNELS.values())),
                    sides,
                    modality="MR",
                    value_range=[-10, 10],
                )
            },
            "outputs": {
                "pred": _format(
                    "segmentation", {0: "background", 1: "lesion"}, sides, value_range=[-100, 100]
                )
            },
        },
        "weights": {"file": WEIGHTS, "sha256": sha256(folder / WEIGHTS)},
        "training": {
            "people": list(trained_on),
            "masks_of": list(masks_of),
            "mask_checksums": list(mask_checksums),
            **asdict(training),
        },
        "temperature": round(setting.temperature, 4),
        "evaluation": [_plain(row) for row in evaluation],
    }
    inference = {
        "network_def": {
            "_target_": f"monai.networks.nets.{architecture.network}",
            **architecture.arguments,
        },
        "inferer": _inferer(architecture),
        "threshold": setting.threshold,
        "peak_threshold": max(setting.threshold, setting.peak_threshold),
    }
    _write_json(folder / "configs" / "metadata.json", metadata)
    _write_json(folder / "configs" / "inference.json", inference)


def divide_logits(network: torch.nn.Module, temperature: float) -> None:
    """Divide the last layer of a network, in place, so that all logits are divided.

    Parameters
    ----------
    network : torch module
        Its last convolution gives the logits, with nothing after it.
    temperature : float
    """
    convolutions = [
        module
        for module in network.modules()
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d)
    ]
    last = convolutions[-1]
    with torch.no_grad():
        for weights in last.parameters():
            weights.div_(temperature)


def _inferer(architecture: Architecture) -> dict[str, Any]:
    if architecture.window is None:
        return {"_target_": "monai.inferers.SimpleInferer"}
    return {
        "_target_": "monai.inferers.SlidingWindowInferer",
        "roi_size": list(architecture.window),
        "sw_batch_size": 1,
        "overlap": architecture.overlap,
        "mode": "gaussian",
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with rounded numbers, and null for what is not defined."""
    return {
        key: None
        if isinstance(value, float) and math.isnan(value)
        else round(value, 4)
        if isinstance(value, float)
        else value
        for key, value in row.items()
    }


def _format(kind: str, channels: dict[int, str], sides: list[str], **extra: Any) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": sides,
        "dtype": "float32",
        "is_patch_data": False,
        "channel_def": {str(index): name for index, name in channels.items()},
        **extra,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
