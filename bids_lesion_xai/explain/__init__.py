# SPDX-License-Identifier: Apache-2.0
"""Explanations of single lesions: saliency of the network's input images.

`explain_lesions` is the function to use; it needs torch and MONAI, and neither BIDS nor images on
disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bids_lesion_xai.explain.attribution import Attribution
    from bids_lesion_xai.explain.lesions import explain_lesions
    from bids_lesion_xai.explain.presets import published
    from bids_lesion_xai.explain.problem import Progress

__all__ = ["Attribution", "Progress", "explain_lesions", "published"]

_HOMES = {
    "Attribution": "attribution",
    "Progress": "problem",
    "explain_lesions": "lesions",
    "published": "presets",
}


def __getattr__(name: str) -> Any:
    """Import torch only when needed: the command line reads the catalogue of this package."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
