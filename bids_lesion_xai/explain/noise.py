# SPDX-License-Identifier: Apache-2.0
"""Replayable noise: any part of it can be drawn alone and is always the same."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.explain.box import Box

# SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195): the distance between its
# states, then shift and factor of each step of its finaliser.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), np.uint64(1)),
)
# Bits of the voxel number for each axis: they reach any image.
_AXIS_BITS = 21
# What is computed at a time, so that it stays in the cache of the processor.
_VOXELS_AT_ONCE = 2**16


class NoiseField:
    """Standard normal noise over an unbounded grid, for any number of samples and channels.

    The number of a voxel is the counter of a counter-based generator, so a box sees the same noise
    whatever is drawn beside it. The 64 random bits of a voxel give the noise of two channels
    (Box and Muller 1958, doi 10.1214/aoms/1177706645).

    Parameters
    ----------
    seed : int
    visit : str
        Name of the visit, so that two scans have different noise.
    """

    def __init__(self, seed: int, visit: str) -> None:
        self._name = f"{seed}/{visit}"

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
        noise = np.empty((n_channels + n_channels % 2, *box.shape), np.float32)
        x, y, z = (
            np.arange(start, stop, dtype=np.uint64)
            for start, stop in zip(box.start, box.stop, strict=True)
        )
        plane = (y[:, None] << np.uint64(_AXIS_BITS)) | z
        step = max(1, _VOXELS_AT_ONCE // plane.size)
        for pair in range(0, n_channels, 2):
            digest = hashlib.sha256(f"{self._name}/{sample}/{pair}".encode()).digest()
            key = np.frombuffer(digest[:8], "<u8")
            for i in range(0, len(x), step):
                bits = plane | (x[i : i + step, None, None] << np.uint64(2 * _AXIS_BITS))
                bits *= _GAMMA
                bits += key
                _normal(_finalise(bits), noise[pair : pair + 2, i : i + step])
        return noise[:n_channels]


def _finalise(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in _STEPS:
        bits ^= bits >> shift
        bits *= factor
    return bits


def _normal(bits: NDArray[np.uint64], noise: NDArray[np.float32]) -> None:
    """Write two standard normal numbers, shape (2, ...), for each 64 random bits."""
    angle, radius = noise
    # The radius comes of a number in (0, 1], so that its logarithm is finite.
    radius[:] = (bits >> np.uint64(32)).astype(np.uint32)
    radius += np.float32(0.5)
    radius *= np.float32(2**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle[:] = bits.astype(np.uint32)
    angle *= np.float32(2 * np.pi * 2**-32)
    cosine = np.cos(angle)
    np.sin(angle, out=angle)
    angle *= radius
    radius *= cosine
