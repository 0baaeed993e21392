# SPDX-License-Identifier: Apache-2.0
"""Writing a trained network as a MONAI bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.models.bundle import sha256
from bids_lesion_xai.models.network import PUBLISHED_MULTIPLE, PUBLISHED_UNET, save_weights
from bids_lesion_xai.training.trainer import TrainingOptions

WEIGHTS = "models/model.safetensors"
_SHAPE = [f"{PUBLISHED_MULTIPLE}*n"] * 3


def write_bundle(
    folder: Path,
    network: torch.nn.Module,
    *,
    trained_on: Sequence[str],
    training: TrainingOptions,
    threshold: float,
    evaluation: Sequence[dict[str, Any]],
) -> None:
    """Write `network` as a MONAI bundle into `folder`.

    Parameters
    ----------
    folder : Path
    network : torch module
        The published U-Net, trained.
    trained_on : list of str
        People in the training data.
    training : TrainingOptions
    threshold : float
        Default lesion probability of the bundle.
    evaluation : list of dict
        Figures of people who are not in `trained_on`, from `evaluate`.
    """
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).parent.mkdir(exist_ok=True)
    save_weights(network, folder / WEIGHTS)
    metadata = {
        "version": "0.1.0",
        "changelog": {"0.1.0": "first weights"},
        "name": "flair_t1w_unet",
        "task": "Segmentation of multiple sclerosis lesions in FLAIR and T1w",
        "description": "3D U-Net, architecture of Spagnolo et al. (2026). Research use only.",
        "authors": "The bids_lesion_xai developers",
        "copyright": "The bids_lesion_xai developers",
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "network_data_format": {
            "inputs": {
                "image": _format(
                    "image",
                    dict(enumerate(CHANNELS.values())),
                    modality="MR",
                    value_range=[-10, 10],
                )
            },
            "outputs": {
                "pred": _format(
                    "segmentation", {0: "background", 1: "lesion"}, value_range=[-100, 100]
                )
            },
        },
        "weights": {"file": WEIGHTS, "sha256": sha256(folder / WEIGHTS)},
        "training": {"people": list(trained_on), **asdict(training)},
        "evaluation": list(evaluation),
    }
    inference = {
        "network_def": {"_target_": "monai.networks.nets.UNet", **PUBLISHED_UNET},
        "inferer": {"_target_": "SimpleInferer"},
        "threshold": threshold,
    }
    _write_json(folder / "configs" / "metadata.json", metadata)
    _write_json(folder / "configs" / "inference.json", inference)


def _format(kind: str, channels: dict[int, str], **extra: Any) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": _SHAPE,
        "dtype": "float32",
        "is_patch_data": False,
        "channel_def": {str(index): name for index, name in channels.items()},
        **extra,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
