# SPDX-License-Identifier: Apache-2.0
"""A small model on disk that finds what is bright in FLAIR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.models.network import PUBLISHED_UNET, build, save_weights
from tests.networks import randomised

MULTIPLE = 2
ARGUMENTS: dict[str, Any] = {**PUBLISHED_UNET, "channels": [2, 4], "strides": [2]}
# A logit depends on no voxel further away along any axis: one step of a convolution at full, two
# at half and one at full resolution.
REACH = 4
# Of sliding windows that divide neither the phantoms nor each other evenly.
INFERER = {
    "_target_": "monai.inferers.SlidingWindowInferer",
    "roi_size": [12, 14, 10],
    "sw_batch_size": 1,
    "overlap": 0.3,
    "mode": "gaussian",
}
# FLAIR, in standard deviations of the brain and averaged over 3 voxels, where lesion begins.
BRIGHT = 2.5


def bright_unet() -> torch.nn.Module:
    """Return a U-Net of two levels with random weights and, above them, a path for bright FLAIR.

    The path averages FLAIR (and takes away a part of T1w) in the first convolution and
    interpolates the average in the last one.
    """
    torch.manual_seed(6)
    network = build("UNet", ARGUMENTS)
    randomised(network).float()
    first, last = network.model[0], network.model[-1].conv
    line = torch.tensor([0.5, 1.0, 0.5])
    with torch.no_grad():
        for module in (*first.modules(), last):
            if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                module.weight.mul_(0.3)
                module.bias.zero_()
        first.conv.weight[0, 0], first.conv.weight[0, 1] = 1 / 27, -0.2 / 27
        first.adn.N.reset_running_stats()
        torch.nn.init.ones_(first.adn.N.weight)
        torch.nn.init.zeros_(first.adn.N.bias)
        last.weight[0, 1] += 4 * torch.einsum("x,y,z->xyz", line, line, line)
        last.bias[1] = -4 * BRIGHT
    return network


def write_small_bundle(
    folder: Path,
    threshold: float = 0.5,
    inferer: Mapping[str, Any] | None = None,
    *,
    file: str = "model.safetensors",
) -> Path:
    """Write `bright_unet` as a MONAI bundle with weights called `file`, and return its folder."""
    (folder / "configs").mkdir(parents=True)
    weights = folder / "models" / file
    weights.parent.mkdir()
    if weights.suffix == ".pt":
        torch.save(bright_unet().state_dict(), weights)
    else:
        save_weights(bright_unet(), weights)
    image = {
        "num_channels": len(CHANNELS),
        "spatial_shape": [f"{MULTIPLE}*n"] * 3,
        "channel_def": {str(i): channel for i, channel in enumerate(CHANNELS.values())},
    }
    metadata = {
        "name": "small",
        "version": "1.2.3",
        "network_data_format": {"inputs": {"image": image}},
        "weights": {"file": f"models/{weights.name}", "sha256": sha256(weights)},
    }
    inference = {
        "network_def": {"_target_": "monai.networks.nets.UNet", **ARGUMENTS},
        "threshold": threshold,
        **({"inferer": dict(inferer)} if inferer else {}),
    }
    for name, content in (("metadata", metadata), ("inference", inference)):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def multiply_weights(folder: Path, factor: float) -> None:
    """Multiply the kernels of a bundle with safetensors, and state the checksum they have then."""
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    weights = folder / metadata["weights"]["file"]
    content = {
        name: value.float() * factor if value.ndim > 1 else value
        for name, value in safetensors.torch.load_file(weights).items()
    }
    weights.write_bytes(safetensors.torch.save(content))
    metadata["weights"]["sha256"] = sha256(weights)
    path.write_text(json.dumps(metadata), encoding="utf-8")
