# SPDX-License-Identifier: Apache-2.0
"""Which lesions of the sessions of one person are the same.

The sessions of a person are taken in the order of their labels; numbers count as numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, naming
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid, require_scanner_grid
from bids_lesion_xai.imaging.similarity import MIN_SIMILARITY
from bids_lesion_xai.interfaces.itk import Image, resample_labels
from bids_lesion_xai.interfaces.register import register
from bids_lesion_xai.lesions.match import number_lesions

log = logging.getLogger(__name__)


def follow_lesions(
    store: Store, visits: Iterable[Visit]
) -> tuple[dict[Visit, dict[int, int]], list[str]]:
    """Return a number for each lesion of everybody with several of `visits`.

    The same lesion has the same number: each T1w is registered rigidly to that of the person's
    first session, the lesions are brought there to the nearest voxel, and those of each session
    are matched with those of the session before. A lesion that is seen in one session only has a
    number of its own; so has one that vanishes and appears again.

    Parameters
    ----------
    store : Store
    visits : list of Visit
        Complete ones, in any order.

    Returns
    -------
    numbers : mapping of Visit to mapping of int to int
        Of each visit of a person with several, the number within the person of every lesion, by
        its value in the label image.
    problems : list of str
        Why people are left out: an image is damaged, or cannot be registered.
    """
    groups = [list(own) for _, own in groupby(sorted(visits), key=lambda one: one.participant)]
    people = [own for own in groups if len(own) > 1]
    numbers: dict[Visit, dict[int, int]] = {}
    problems = []
    for place, own in enumerate(people, start=1):
        log.info("following lesions: person %d of %d", place, len(people))
        try:
            numbers |= _follow_person(store, own)
        except DataError as error:
            problems.append(str(error))
    return numbers, problems


def _follow_person(store: Store, visits: Sequence[Visit]) -> dict[Visit, dict[int, int]]:
    """Return the numbers of the lesions of one person.

    Raises
    ------
    DataError
        An image cannot be read, or cannot be registered.
    """
    first = visits[0]
    with naming(first.name):
        t1w = _read_t1w(store, first)
        inside = _read_brain(store, first, t1w.grid)
        found = [_labels_on(t1w.grid, store, first)]
    for visit in visits[1:]:
        with naming(visit.name), TemporaryDirectory() as folder:
            transform_file = Path(folder, "first_to_visit.txt")
            _, score = register(t1w, _read_t1w(store, visit), inside, transform_file)
            _require_match(score, first)
            found.append(_labels_on(t1w.grid, store, visit, transform_file))
    lesions, labels = zip(*found, strict=True)
    return dict(zip(visits, number_lesions(lesions, labels), strict=True))


def _read_t1w(store: Store, visit: Visit) -> Image:
    values, grid = nifti.load(store.path("preproc_t1w", visit))
    return Image(values, require_scanner_grid(grid))


def _read_brain(store: Store, visit: Visit, grid: Grid) -> NDArray[np.bool_]:
    path = store.path("brain_mask", visit)
    mask, own = nifti.load(path, np.bool_)
    if not own.same_as(grid):
        message = f"{path.name} is not on the grid of T1w. Process this visit again."
        raise DataError(message)
    return mask


def _labels_on(
    target: Grid, store: Store, visit: Visit, transform_file: Path | None = None
) -> tuple[list[int], NDArray[np.int32]]:
    """Return all lesions of a visit, and their labels on the grid of the first one."""
    labels, grid = nifti.load(store.path("lesion_labels", visit), np.int32)
    lesions = np.unique(labels[labels > 0]).tolist()
    return lesions, resample_labels(labels, require_scanner_grid(grid), target, transform_file)


def _require_match(score: float, first: Visit) -> None:
    if score < MIN_SIMILARITY:
        message = (
            f"T1w does not match that of {first.name} after registration: similarity {score:.2f}, "
            f"at least {MIN_SIMILARITY} expected. Look at both: are they of the same person?"
        )
        raise DataError(message)
