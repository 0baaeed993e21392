# SPDX-License-Identifier: Apache-2.0
"""Ways to compute the logits of a box, from the part of the volume that they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.region import Piece, UnboundedError, evaluate, needed


class Engine(Protocol):
    """A way to compute the logits of a box."""

    def region(self, target: Box, extent: Indices) -> Box:
        """Return the part of a volume of shape `extent` that `logits` wants for `target`."""

    def logits(self, piece: Piece, target: Box) -> torch.Tensor:
        """Return the logits, shape (N, K, x, y, z), in the box `target`."""


@dataclass(frozen=True)
class PrunedEngine:
    """Evaluates, layer by layer, only what the target depends on. Exact.

    Parameters
    ----------
    network : torch module
        Of layers whose receptive field is known.
    """

    network: torch.nn.Module

    def region(self, target: Box, extent: Indices) -> Box:
        """Return the receptive field of `target`."""
        return needed(self.network, target).clip(extent)

    def logits(self, piece: Piece, target: Box) -> torch.Tensor:
        """Return the logits in `target`."""
        return evaluate(self.network, piece, target).values


@dataclass(frozen=True)
class WholeEngine:
    """Evaluates the whole volume: for networks of any kind.

    Parameters
    ----------
    network : torch module
    """

    network: torch.nn.Module

    def region(self, target: Box, extent: Indices) -> Box:
        """Return the whole volume."""
        return Box((0,) * len(extent), extent)

    def logits(self, piece: Piece, target: Box) -> torch.Tensor:
        """Return the logits in `target`."""
        logits: torch.Tensor = self.network(piece.values)
        return logits[(..., *target.slices(piece.start))]


def choose_engine(network: torch.nn.Module, name: str) -> Engine:
    """Return the engine called `name` for `network`.

    Parameters
    ----------
    network : torch module
    name : {"auto", "pruned", "whole"}
        ``auto`` is ``pruned`` where the receptive field of the network is known, else ``whole``.

    Raises
    ------
    UsageError
        ``pruned`` was asked for and the receptive field is not known, or the name is not.
    """
    if name == "whole":
        return WholeEngine(network)
    if name not in ("auto", "pruned"):
        message = f"engine {name!r}: auto, pruned or whole is expected."
        raise UsageError(message)
    try:
        needed(network, Box((0, 0, 0), (1, 1, 1)))
    except UnboundedError as error:
        if name == "auto":
            return WholeEngine(network)
        message = f"engine pruned: {error}. Use engine whole."
        raise UsageError(message) from error
    return PrunedEngine(network)
