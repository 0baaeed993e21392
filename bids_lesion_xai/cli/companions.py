# SPDX-License-Identifier: Apache-2.0
"""What other datasets have of the visits, and how the user is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.companions import (
    BRAIN_MASK,
    LESION_MASK,
    TISSUE_MAP,
    Companion,
    Kind,
    Missing,
    Source,
    find_companions,
    require_any,
)
from bids_lesion_xai.bids.dataset import SkippedVisit, VisitInputs
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import RunConfig

log = logging.getLogger(__name__)

# FLAIR and T1w of each visit.
_Images = Mapping[Visit, tuple[Path, Path]]

# By field of `VisitInputs`.
WORDS = {
    "reference": "reference mask",
    "tissues": "tissue map",
    "brain": "brain mask",
    "lesions": "lesion mask",
}


def with_companions(
    visits: Sequence[VisitInputs], config: RunConfig
) -> tuple[list[VisitInputs], list[SkippedVisit]]:
    """Return the visits with what other datasets have of them, and those that lack what they need.

    Raises
    ------
    NotFoundError, DataError
        A dataset that was named is not there, or has nothing of any visit.
    """
    images = {inputs.visit: (inputs.flair, inputs.t1w) for inputs in visits}
    found: dict[str, dict[Visit, Companion]] = {
        "reference": _of_option("reference-masks", LESION_MASK, images, config)[0],
        "tissues": _of_option("tissue-maps", TISSUE_MAP, images, config)[0],
        **_reused(images, config),
    }
    lesions, missing = _of_option("existing-lesion-mask", LESION_MASK, images, config)
    found["lesions"] |= lesions
    for field, companions in found.items():
        _tell(WORDS[field], companions)
    skipped = [
        SkippedVisit(visit, f"{visit.name}: there is nothing to explain: {why}.")
        for visit, why in missing.items()
    ]
    for skip in skipped:
        log.warning("skipped %s", skip.reason)
    return [_joined(inputs, found) for inputs in visits if inputs.visit not in missing], skipped


def _joined(inputs: VisitInputs, found: Mapping[str, Mapping[Visit, Companion]]) -> VisitInputs:
    own: dict[str, Any] = {name: one.get(inputs.visit) for name, one in found.items()}
    return replace(inputs, **own)


def _of_option(
    link: str, kind: Kind, images: _Images, config: RunConfig
) -> tuple[dict[Visit, Companion], dict[Visit, Missing]]:
    """Return what the dataset of an option has; the option is called like its dataset in URIs."""
    if link not in config.links:
        return {}, {}
    source = Source(f"--{link}", config.links[link], link)
    found, missing = find_companions(source, images, kind)
    is_needed = link == "existing-lesion-mask"
    require_any(found, missing, source, kind, of_anybody=not is_needed)
    if not is_needed:
        for why in missing.values():
            log.warning("there is %s", why)
    return found, missing


def _reused(images: _Images, config: RunConfig) -> dict[str, dict[Visit, Companion]]:
    """Return what is taken of ``--derivatives``; of several datasets, of the one named first."""
    reused: dict[str, dict[Visit, Companion]] = {"brain": {}, "lesions": {}}
    problems: dict[str, list[tuple[Visit, Missing]]] = {name: [] for name in reused}
    for name, path in config.derivatives:
        source = Source("--derivatives", path, name)
        of_dataset: dict[Visit, Companion] = {}
        for field, kind in (("brain", BRAIN_MASK), ("lesions", LESION_MASK)):
            found, missing = find_companions(source, images, kind)
            reused[field] = found | reused[field]
            problems[field] += missing.items()
            of_dataset |= found
        require_any(of_dataset, missing, source, BRAIN_MASK, LESION_MASK, of_anybody=True)
    if "existing-lesion-mask" in config.links:
        problems["lesions"] = []
    for field, some in problems.items():
        for visit, why in some:
            # That a dataset has no such file of a visit is as it should be.
            if visit not in reused[field] and (why.refused or why.closed):
                log.warning("the %s is computed: there is %s", WORDS[field], why)
    return reused


def _tell(what: str, found: dict[Visit, Companion]) -> None:
    for visit, companion in found.items():
        log.info("%s: %s %s", visit.name, what, companion.uri)
        for other in companion.others:
            log.info("%s: not taken as %s: %s", visit.name, what, other)
