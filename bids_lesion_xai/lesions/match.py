# SPDX-License-Identifier: Apache-2.0
"""Which lesions of two images of one person are the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def match_lesions(
    first: NDArray[np.integer], second: NDArray[np.integer]
) -> list[tuple[int, int, float]]:
    """Return pairs of lesions that overlap each other more than they overlap any other lesion.

    Of a lesion that splits, the part that overlaps it most (by the Dice coefficient) is its match,
    and the other parts have none; of lesions that merge likewise. So every lesion has one match at
    most, and swapping the images swaps the pairs. Of equal overlaps, the lower number is taken.

    Parameters
    ----------
    first, second : integer arrays of the same shape
        Lesions on one grid, 0 where there is none: the images have been registered, and the labels
        resampled to the nearest voxel.

    Returns
    -------
    list of (int, int, float)
        Number in `first`, number in `second`, Dice coefficient, in the order of `first`.

    Examples
    --------
    >>> first = np.array([1, 1, 1, 1, 0, 2, 2])
    >>> second = np.array([5, 0, 3, 3, 0, 0, 4])
    >>> [(a, b, round(dice, 2)) for a, b, dice in match_lesions(first, second)]
    [(1, 3, 0.67), (2, 4, 0.67)]
    """
    if first.shape != second.shape:
        message = f"labels of the shapes {first.shape} and {second.shape} are not on one grid"
        raise ValueError(message)
    sizes = [np.bincount(labels[labels > 0]) for labels in (first, second)]
    both = (first > 0) & (second > 0)
    shape = (sizes[0].size, sizes[1].size)
    pairs = (first[both], second[both])
    common = sparse.coo_array((np.ones(int(both.sum())), pairs), shape).tocsr().tocoo()
    a, b = common.coords
    dice = 2 * common.data / (sizes[0][a] + sizes[1][b])
    best_of_a, best_of_b = _best(a, b, dice), _best(b, a, dice)
    return sorted(
        (int(i), int(j), float(overlap))
        for i, j, overlap in zip(a, b, dice, strict=True)
        if best_of_a[i] == j and best_of_b[j] == i
    )


def number_lesions(
    lesions: Sequence[Sequence[int]], labels: Sequence[NDArray[np.integer]]
) -> list[dict[int, int]]:
    """Return the number within the person of every lesion: the same for the same lesion.

    Lesions are matched with those of the session before (`match_lesions`). Numbers begin with 1;
    new ones are given by session, then in the order of the labels.

    Parameters
    ----------
    lesions : list of lists of int
        Labels of all lesions of each session, in the order of time.
    labels : list of integer arrays of the same shape
        The sessions on one grid, where a lesion may have been lost.

    Examples
    --------
    >>> number_lesions([[1, 2], [1, 2]], [np.array([1, 2, 2, 0]), np.array([0, 1, 1, 2])])
    [{1: 1, 2: 2}, {1: 2, 2: 3}]
    """
    numbers: list[dict[int, int]] = []
    next_number = count(1)
    for session, own in enumerate(lesions):
        known = {}
        if session:
            pairs = match_lesions(labels[session - 1], labels[session])
            known = {lesion: numbers[-1][before] for before, lesion, _ in pairs}
        numbers.append(
            {
                lesion: known[lesion] if lesion in known else next(next_number)
                for lesion in sorted(own)
            }
        )
    return numbers


def _best(
    own: NDArray[np.integer], other: NDArray[np.integer], overlap: NDArray[np.float64]
) -> dict[int, int]:
    """Return, by number, the other lesion of the largest overlap; of equals the lower number."""
    order = np.lexsort((-other, overlap))
    return dict(zip(own[order].tolist(), other[order].tolist(), strict=True))
