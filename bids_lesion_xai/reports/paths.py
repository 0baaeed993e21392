# SPDX-License-Identifier: Apache-2.0
"""Masks as paths of SVG: sharp at any size, and much smaller than images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def outline_path(mask: NDArray[np.bool_]) -> str:
    """Return the border of a mask as the text of a path.

    Parameters
    ----------
    mask : bool array, shape (rows, columns)
        The pixel of row r and column c spans c to c + 1 and r to r + 1.

    Examples
    --------
    >>> outline_path(np.ones((1, 2), bool))
    'M0 0h2M0 1h2M0 0v1M2 0v1'
    """
    across = np.diff(np.pad(mask, ((1, 1), (0, 0))), axis=0)
    along = np.diff(np.pad(mask, ((0, 0), (1, 1))), axis=1)
    return "".join(
        (
            *(f"M{first} {row}h{n}" for row, first, n in runs(across)),
            *(f"M{column} {first}v{n}" for column, first, n in runs(along.T)),
        )
    )


def area_path(mask: NDArray[np.bool_]) -> str:
    """Return the inside of a mask as the text of a path.

    >>> area_path(np.ones((2, 1), bool))
    'M0 0h1v1h-1zM0 1h1v1h-1z'
    """
    return "".join(f"M{first} {row}h{n}v1h-{n}z" for row, first, n in runs(mask))


def runs(rows: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Yield row, first column and length of every run of neighbours that are true.

    >>> list(runs(np.array([[False, True, True], [True, False, True]])))
    [(0, 1, 2), (1, 0, 1), (1, 2, 1)]
    """
    edges = np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    for (row, first), (_, last) in zip(begins.tolist(), ends.tolist(), strict=True):
        yield row, first, last - first
