# SPDX-License-Identifier: Apache-2.0
"""What a visit is made from, and whether a run would make anything else than what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bids_lesion_xai import __version__
from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.config import WITHOUT_EFFECT, RunConfig
from bids_lesion_xai.models.bundle import Bundle

# Options that are called otherwise on the command line.
_OWN_NAMES = ("min_lesion_volume_mm3", "flip")


def input_files(inputs: VisitInputs) -> dict[str, tuple[str, Path]]:
    """Return BIDS URI and path of every file that a visit is made from, by what it is."""
    images = {"FLAIR": inputs.flair, "T1w": inputs.t1w}
    found = {name: (inputs.uri(path), path) for name, path in images.items()}
    return found | {name: (one.uri, one.path) for name, one in inputs.companions.items()}


def describe_visit(inputs: VisitInputs, config: RunConfig, bundle: Bundle) -> dict[str, Any]:
    """Return all that the outputs of a visit depend on, as `bids.provenance.changes` takes it.

    Parameters
    ----------
    inputs : VisitInputs
    config : RunConfig
    bundle : Bundle
        Read from ``config.model``.
    """
    return {
        "Version": __version__,
        "Inputs": {
            name: {"URI": uri, "SHA256": sha256(path)}
            for name, (uri, path) in input_files(inputs).items()
        },
        "Model": {
            "Name": bundle.name,
            "Version": bundle.version,
            "Files": _model_files(config, bundle),
        },
        "Options": _options(config, bundle),
    }


def _model_files(config: RunConfig, bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of every file of the model, by its path in the bundle."""
    configs = ("configs/metadata.json", "configs/inference.json")
    return {
        **{name: sha256(config.model / name) for name in configs},
        bundle.weights.relative_to(config.model).as_posix(): bundle.sha256,
    }


def _options(config: RunConfig, bundle: Bundle) -> dict[str, Any]:
    """Return the options that change numbers, by flag."""
    threshold, peak_threshold = bundle.thresholds(config.threshold, config.peak_threshold)
    chosen: Mapping[str, Any] = asdict(config) | {
        "threshold": threshold,
        "peak_threshold": peak_threshold,
        "min_lesion_volume": config.min_lesion_volume_mm3,
        "tta": "flip" if config.flip else "none",
    }
    return {
        f"--{name.replace('_', '-')}": list(value) if isinstance(value, tuple) else value
        for name, value in chosen.items()
        if name not in WITHOUT_EFFECT and name not in _OWN_NAMES
    }


def reasons_to_process(
    store: Store, inputs: VisitInputs, config: RunConfig, bundle: Bundle
) -> list[str]:
    """Return why a visit has to be processed, each reason in words; none if it need not be.

    Parameters
    ----------
    store : Store
        Of the output folder.
    inputs : VisitInputs
    config : RunConfig
    bundle : Bundle
        Read from ``config.model``.
    """
    before = provenance.read(store, inputs.visit)
    if before is None:
        return [provenance.NOT_COMPLETE]
    try:
        now = describe_visit(inputs, config, bundle)
    except OSError as error:
        return [f"{error.filename} cannot be read ({error.strerror})"]
    found = provenance.changes(before, now)
    found += provenance.damages(store, before)
    return [*found, *(["--force"] if config.force else [])]
