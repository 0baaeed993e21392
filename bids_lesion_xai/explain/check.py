# SPDX-License-Identifier: Apache-2.0
"""Whether the arguments of `explain_lesions` are what it takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch

from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain.catalogue import AGGREGATIONS, BASELINES, METHODS, TARGETS

# For numbers that must be above 0.
SMALLEST = sys.float_info.min
_KNOWN: dict[str, Mapping[str, Any]] = {
    "method": METHODS,
    "aggregation": AGGREGATIONS,
    "target": TARGETS,
    "baseline": BASELINES,
}


def check_names(**names: str) -> None:
    """Refuse a name that is not in the catalogue."""
    for argument, name in names.items():
        known = _KNOWN[argument]
        if name not in known:
            message = f"{argument} {name!r}: one of {', '.join(known)} is expected."
            raise UsageError(message)


def check_number(name: str, value: Any, kind: type[Any], least: float, below: float) -> None:
    """Refuse what is no number of a kind, from `least` on and below a bound."""
    if not (isinstance(value, kind) and least <= value < below):
        whole = "whole number" if kind is Integral else "number"
        bound = "" if below == torch.inf else f" and below {below}"
        start = "above 0" if least == SMALLEST else f"of at least {least}"
        message = f"{name} {value!r}: a {whole} {start}{bound} is expected."
        raise UsageError(message)


def check_numbers(
    name: str,
    values: Any,
    kind: type[Any],
    count: int,
    least: float,
) -> tuple[Any, ...]:
    """Return `values` as a tuple; refuse what is not so many numbers of a kind."""
    found = tuple(values) if isinstance(values, Iterable) else ()
    is_right = all(isinstance(value, kind) and least <= value < torch.inf for value in found)
    if len(found) != count or not is_right:
        whole = "whole numbers" if kind is Integral else "numbers"
        message = f"{name} {values!r}: {count} {whole} of at least {least} are expected."
        raise UsageError(message)
    return found


def check_images(network: Any, image: Any, labels: Any) -> None:
    """Refuse a network, an image and labels that do not go together.

    Raises
    ------
    DataError
        The image or the labels are at fault.
    UsageError
        The network is, or something is no tensor.
    """
    _check_types(network, image, labels)
    if any(module.training for module in network.modules()):
        message = "The network is in train mode; call network.eval() first."
        raise UsageError(message)
    if image.ndim != 4 or image.dtype not in (torch.float32, torch.float64):
        message = (
            f"image of shape {tuple(image.shape)} and type {image.dtype}; (C, X, Y, Z) and "
            "float32 or float64 are expected."
        )
        raise DataError(message)
    if image.shape[1:] != labels.shape:
        message = (
            f"labels of shape {tuple(labels.shape)} for an image of shape {tuple(image.shape)}; "
            "the same X, Y, Z are expected."
        )
        raise DataError(message)
    _check_contents(network, image, labels)


def _check_types(network: Any, image: Any, labels: Any) -> None:
    for name, value, kind in (
        ("network", network, torch.nn.Module),
        ("image", image, torch.Tensor),
        ("labels", labels, torch.Tensor),
    ):
        if not isinstance(value, kind):
            message = f"{name} is a {type(value).__name__}; a torch {kind.__name__} is expected."
            raise UsageError(message)


def _check_contents(network: torch.nn.Module, image: torch.Tensor, labels: torch.Tensor) -> None:
    is_whole = not (labels.is_floating_point() or labels.is_complex())
    if not is_whole or labels.dtype is torch.bool or labels.device != image.device:
        message = (
            f"labels of {labels.dtype} on {labels.device}; whole numbers on {image.device} are "
            "expected."
        )
        raise DataError(message)
    if not torch.isfinite(image).all():
        message = "The image has NaN or infinite voxels; finite values are expected."
        raise DataError(message)
    for weight in network.parameters():
        if (weight.dtype, weight.device) != (image.dtype, image.device):
            message = (
                f"image of {image.dtype} on {image.device}, network of {weight.dtype} on "
                f"{weight.device}; the same are expected."
            )
            raise UsageError(message)
