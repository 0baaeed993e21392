# SPDX-License-Identifier: Apache-2.0
"""Building the network of a bundle, and the device it runs on."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from monai.networks import nets

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.errors import UnavailableError
from bids_lesion_xai.models.bundle import Bundle

# The network of Spagnolo et al. (2026): five levels, batch norm, PReLU, no residual units.
PUBLISHED_UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 2,
    "channels": [32, 64, 128, 256, 512],
    "strides": [2, 2, 2, 2],
    "num_res_units": 0,
    "norm": "batch",
}
PUBLISHED_MULTIPLE = 16
# What MONAI and torch raise where arguments or weights do not fit.
_MISFITS = (
    AssertionError,
    AttributeError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
# torch lists every tensor that does not fit, a line each.
_SHOWN_CHARACTERS = 300


def build(network: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """Return an untrained network: class `network` of `monai.networks.nets` with `arguments`."""
    module: torch.nn.Module = getattr(nets, network)(**arguments)
    return module


def load_network(bundle: Bundle, device: torch.device) -> torch.nn.Module:
    """Return the trained network of `bundle`, float32, in eval mode, without weight gradients.

    Raises
    ------
    UnavailableError
        The weights differ from their checksum, cannot be read or do not fit the network.
    """
    bundle.verify()
    weights = _read_weights(bundle)
    try:
        module = build(bundle.network, bundle.arguments)
        module.load_state_dict(weights)
    except _MISFITS as error:
        message = f"The weights of model {bundle.name} do not fit its network: {_in_words(error)}"
        raise UnavailableError(message) from error
    return module.to(device).eval().requires_grad_(requires_grad=False)


def check_network(bundle: Bundle) -> None:
    """Refuse a model that would fail at every visit, after its preprocessing.

    The network is applied to two volumes, empty ones and then noise, with sides of three times the
    stated multiple: one would leave instance norm a single voxel, and two would hide that the
    multiple is half of what the network needs.

    Raises
    ------
    UnavailableError
        See `load_network`; or the network does not take volumes of the stated shape, or does not
        return finite logits of background and lesion for each of their voxels.
    """
    network = load_network(bundle, torch.device("cpu"))
    shape = (1, len(CHANNELS), *[3 * bundle.multiple] * 3)
    whose = (
        f"The network of model {bundle.name}, said to take multiples of {bundle.multiple} voxels,"
    )
    # Of weights that are too large, empty volumes may show nothing.
    for what, fill in (("empty volumes", torch.zeros), ("noise", _noise)):
        try:
            with torch.inference_mode():
                logits = network(fill(shape))
        except _MISFITS as error:
            message = f"{whose} fails for a volume of shape {shape[2:]}: {_in_words(error)}"
            raise UnavailableError(message) from error
        if logits.shape != shape or not logits.isfinite().all():
            finite = "" if logits.isfinite().all() else ", not all of them finite,"
            message = (
                f"{whose} returns logits of shape {tuple(logits.shape)}{finite} for {what}; "
                f"finite ones of shape {shape} are expected. Look at its weights "
                "and at spatial_shape in metadata.json."
            )
            raise UnavailableError(message)


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _in_words(error: Exception) -> str:
    words = shorten(str(error), _SHOWN_CHARACTERS, placeholder=" ...")
    return f"{type(error).__name__}: {words}"


def _read_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    path = bundle.weights
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in weights.items()
        }
    except Exception as error:
        # Of a damaged file, unpickling raises anything. The text is left out, for torch advises
        # to switch weights_only off.
        message = (
            f"The weights {path.name} of model {bundle.name} cannot be read as a dict of tensors "
            f"({type(error).__name__}). Save the network's state_dict."
        )
        raise UnavailableError(message) from error


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Write the weights of `module`: matrices and kernels as float16, all else as it is."""
    weights = {
        name: (
            value.half() if value.is_floating_point() and value.ndim > 1 else value
        ).contiguous()
        for name, value in module.state_dict().items()
    }
    # save_file would make a file that only its owner can read.
    path.write_bytes(safetensors.torch.save(weights))


def allow_tf32(*, allowed: bool) -> None:
    """Choose whether GPUs may round what they multiply to 10 bits, which torch lets them."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` takes a CUDA device where one is usable, else the CPU.

    Raises
    ------
    UnavailableError
        A CUDA device was asked for by name and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        message = (
            f"--device {name}: {torch.cuda.device_count()} CUDA devices are visible. Start the "
            "container with --gpus all (docker) or --nv (apptainer), or use --device auto."
        )
        raise UnavailableError(message)
    return device
