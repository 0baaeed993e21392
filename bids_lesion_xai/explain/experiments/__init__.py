# SPDX-License-Identifier: Apache-2.0
"""Experiments on single lesions: what a network needs to see, and whether a map says so.

`run_experiments` is the function to use. Each module but the shared ones holds one experiment,
under the name it has in `bids_lesion_xai.conventions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bids_lesion_xai.explain.experiments.run import run_experiments
    from bids_lesion_xai.explain.experiments.scan import Scan
    from bids_lesion_xai.explain.experiments.study import Finding

__all__ = ["Finding", "Scan", "run_experiments"]

_HOMES = {"Finding": "study", "Scan": "scan", "run_experiments": "run"}


def __getattr__(name: str) -> Any:
    """Import torch only when needed."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
