# SPDX-License-Identifier: Apache-2.0
"""Replayable noise: any part of it can be drawn alone and is always the same."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.explain.box import Box

_EDGE = 16


class NoiseField:
    """Standard normal noise over an unbounded grid, for any number of samples and channels.

    The grid is divided into blocks of 16^3 voxels. Each block of each channel and sample has its
    own stretch of one counter-based generator (Philox, Salmon et al. 2011,
    doi 10.1145/2063384.2063405), so a box sees the same noise whatever is drawn beside it.

    Parameters
    ----------
    seed : int
    visit : str
        Name of the visit, so that two scans have different noise.
    """

    def __init__(self, seed: int, visit: str) -> None:
        digest = hashlib.sha256(f"{seed}/{visit}".encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")

    def draw(self, sample: int, n_channels: int, box: Box) -> NDArray[np.float32]:
        """Return the noise of one sample in a box.

        Parameters
        ----------
        sample : int
        n_channels : int
        box : Box
            With indices from 0 on.

        Returns
        -------
        noise : float32 array, shape (C, x, y, z)
            Mean 0, standard deviation 1, independent between voxels, channels and samples.
        """
        noise = np.empty((n_channels, *box.shape), np.float32)
        blocks = [
            range(start // _EDGE, (stop - 1) // _EDGE + 1)
            for start, stop in zip(box.start, box.stop, strict=True)
        ]
        for block in itertools.product(*blocks):
            origin = tuple(_EDGE * index for index in block)
            whole = Box(origin, tuple(index + _EDGE for index in origin))
            common = Box(
                tuple(map(max, whole.start, box.start)), tuple(map(min, whole.stop, box.stop))
            )
            for channel in range(n_channels):
                values = self._block(sample, channel, block)
                noise[(channel, *common.slices(box.start))] = values[common.slices(origin)]
        return noise

    def _block(self, sample: int, channel: int, block: tuple[int, ...]) -> NDArray[np.float32]:
        # Word 0 counts within the block; the 21 bits an axis in word 1 reach any image.
        place = block[0] << 42 | block[1] << 21 | block[2]
        generator = np.random.Philox(key=self._key, counter=[0, place, channel, sample])
        shape = (_EDGE, _EDGE, _EDGE)
        return np.random.Generator(generator).standard_normal(shape, np.float32)
