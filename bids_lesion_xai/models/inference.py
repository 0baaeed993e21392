# SPDX-License-Identifier: Apache-2.0
"""The map image -> logits that both the mask and the saliency come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch.nn import functional

from bids_lesion_xai.conventions import LESION_CLASS
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.models.network import load_network


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return `image`, shape (C, X, Y, Z), with zeros after its end up to multiples of `multiple`.

    Voxel indices stay what they were.
    """
    after = [-side % multiple for side in reversed(image.shape[1:])]
    return functional.pad(image, [n for side in after for n in (0, side)])


@dataclass(frozen=True)
class Predictor:
    """The map image -> logits: a network, and whether it sees the whole volume or windows.

    Parameters
    ----------
    network : torch module
        In eval mode; takes (1, C, X, Y, Z), gives (1, K, X, Y, Z).
    multiple : int
        The network takes sides that are multiples of this many voxels.
    window : sequence of int, or None
        Shape of the sliding windows, which are blended with Gaussian weights; None evaluates the
        whole volume in one pass.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.
    flip : bool
        Whether the logits are the mean of those of the image and of its mirror image, left to
        right.
    name : str
        Of the model, for messages.
    """

    network: torch.nn.Module
    multiple: int
    window: Sequence[int] | None = None
    overlap: float = 0.0
    flip: bool = False
    name: str = "without a name"

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of an image.

        Parameters
        ----------
        image : float tensor, shape (C, X, Y, Z)
            In units of normalised intensity, on any device.

        Returns
        -------
        logits : float tensor, shape (K, X, Y, Z)
            On the device of the network; class 1 is lesion.
        """
        image = image.to(next(self.network.parameters(), image).device)
        logits = self._logits(image)
        if self.flip:
            logits = (logits + self._logits(image.flip(1)).flip(1)) / 2
        return logits

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        if self.window:
            blend: torch.Tensor = sliding_window_inference(
                image[None], tuple(self.window), 1, self.network, self.overlap, mode="gaussian"
            )
            return blend[0]
        padded = pad_to_multiple(image, self.multiple)
        x, y, z = image.shape[1:]
        logits: torch.Tensor = self.network(padded[None])[0]
        return logits[:, :x, :y, :z]


def load_predictor(bundle: Bundle, device: torch.device, *, flip: bool = False) -> Predictor:
    """Return the predictor of a bundle on `device`; for its errors see `load_network`."""
    return Predictor(
        load_network(bundle, device),
        bundle.multiple,
        bundle.window,
        bundle.overlap,
        flip,
        bundle.name,
    )


def lesion_probability(logits: torch.Tensor) -> torch.Tensor:
    """Return the softmax probability of lesion, shape (X, Y, Z), of logits (K, X, Y, Z)."""
    return torch.softmax(logits, dim=0)[LESION_CLASS]


def lesion_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-odds of lesion, shape (X, Y, Z), of logits (K, X, Y, Z)."""
    others = [k for k in range(len(logits)) if k != LESION_CLASS]
    return logits[LESION_CLASS] - logits[others].logsumexp(0)


def require_finite(logits: torch.Tensor, brain: NDArray[np.bool_], model: str) -> None:
    """Do nothing if the log-odds of lesion are finite numbers in the brain.

    Others reach no threshold, and would be taken for a brain without lesions.

    Parameters
    ----------
    logits : float tensor, shape (K, X, Y, Z)
    brain : bool array, shape (X, Y, Z)
    model : str
        Its name.

    Raises
    ------
    DataError
        One is not.
    """
    finite = lesion_log_odds(logits).isfinite().cpu().numpy()
    n_others = int((brain & ~finite).sum())
    if n_others:
        message = (
            f"Model {model} gives logits that are not finite in {n_others} of {int(brain.sum())} "
            "voxels of the brain; finite ones are expected in all. Look at the preprocessed FLAIR "
            "and T1w for extreme values; if there are none, the weights are of no use."
        )
        raise DataError(message)
