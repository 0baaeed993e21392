# SPDX-License-Identifier: Apache-2.0
"""Whether what a saliency map puts first matters most to the network.

Deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421), per lesion: values of the image are
replaced by, or restored from, the normal-appearing mean, in the order of the magnitude of their
saliency, of their difference from that mean, or at random. The magnitude says how strongly the
logit answers to a value, not in which direction, nor how far the value is from the mean: a curve
along it need not fall all the way, and passes 0 or 1 where values for and against the lesion go
at different times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.scorer import MakeImage, Response
from bids_lesion_xai.explain.experiments.study import Finding, Study, Tell
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.problem import Lesion

SHARES = (0.0, *(10 ** (power / 3) for power in range(-12, 1)))
ORDERS = ("saliency", "random", "intensity")
MODES = ("deletion", "insertion")


def run(study: Study, *, shares: Sequence[float] = SHARES, n_random: int = 3) -> Iterator[Finding]:
    """Yield, for each lesion that has a saliency map, its logit along three orders.

    Features are the values of both images at the voxels of the brain that the lesion's logits
    depend on. Equal ones keep their order in the image.

    Parameters
    ----------
    study : Study
        With attributions.
    shares : sequence of float
        Of the features that are replaced (deletion) or restored (insertion), ascending.
    n_random : int
        Random orders, over which the logit is averaged.

    Yields
    ------
    finding : Finding
        Rows: ``index``, ``mode`` (deletion or insertion), ``order`` (saliency, random or
        intensity), ``share``, ``mean_logit``. Numbers: ``MODE_auc_ORDER``, the mean of the curve
        over the logarithm of the share, from the smallest above 0 to 1, by trapezoids; the curve
        is scaled to be 1 for the image and 0 with all features replaced. On a linear axis the
        values that matter, a thousandth of all, would have no area. NaN if the two do not differ.
    """
    for lesion, attribution, tell in _explained(study):
        yield _finding(study, lesion, attribution, tell, shares, n_random)


def _explained(study: Study) -> Iterator[tuple[Lesion, Attribution, Tell]]:
    """Yield the lesions with their saliency: in its order, or in theirs if it is asked for."""
    given = study.attributions
    every = {lesion.label: lesion for lesion in study.scan.lesions()}
    attributions: Iterable[Attribution]
    attributions = map(given, every) if callable(given) else given or ()
    tells = {lesion.label: tell for lesion, tell in study.one_by_one(every.values())}
    for attribution in attributions:
        yield every[attribution.lesion], attribution, tells[attribution.lesion]


class _Features:
    """Values of the image that are replaced in one of several orders.

    Parameters
    ----------
    scan : Scan
    support : Box
    """

    def __init__(self, scan: Scan, support: Box) -> None:
        self._scan, self._support = scan, support
        self._image = scan.image_in(support)
        self._where = scan.brain_in(support).expand(self._image.shape)
        self.count = int(self._where.sum())

    def ranks(self, first: torch.Tensor) -> torch.Tensor:
        """Return the place, from 0, of each feature by descending values, shape (features,)."""
        order = torch.argsort(first[self._where], descending=True, stable=True)
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(len(order), device=order.device)
        return ranks

    def by_intensity(self) -> torch.Tensor:
        """Return how far each value is from the normal-appearing mean, shape (C, x, y, z)."""
        return (self._image - self._scan.normal_means).abs()

    def by_saliency(self, attribution: Attribution) -> torch.Tensor:
        """Return the magnitude of the saliency, shape (C, x, y, z)."""
        piece = Piece(attribution.values[None], attribution.offset, self._scan.shape)
        return piece.cut(self._support)[0].abs().to(self._image.device)

    def by_chance(self, number: int) -> torch.Tensor:
        """Return noise of the voxels' own, the same for every lesion, shape (C, x, y, z)."""
        field = NoiseField(self._scan.seed, f"{self._scan.visit}/faithfulness")
        noise = field.draw(number, len(self._image), self._support)
        return torch.from_numpy(noise).to(self._image.device)

    def image(self, replaced: torch.Tensor) -> torch.Tensor:
        """Return the image with features, bool, shape (features,), at the normal mean."""
        image = self._image.clone()
        hidden = torch.zeros_like(self._where, memory_format=torch.contiguous_format)
        hidden[self._where] = replaced
        return torch.where(hidden, self._scan.normal_means, image)


def _finding(
    study: Study,
    lesion: Lesion,
    attribution: Attribution,
    tell: Tell,
    shares: Sequence[float],
    n_random: int,
) -> Finding:
    features = _Features(study.scan, study.scorer.support(lesion))
    orders = {
        ("saliency", 0): features.ranks(features.by_saliency(attribution)),
        **{("random", i): features.ranks(features.by_chance(i)) for i in range(n_random)},
        ("intensity", 0): features.ranks(features.by_intensity()),
    }
    counts = {share: round(share * features.count) for share in shares}
    some_ranks = orders["intensity", 0]
    images: dict[Any, MakeImage] = {
        "whole": partial(_image, features, some_ranks, "deletion", 0),
        "empty": partial(_image, features, some_ranks, "insertion", 0),
    }
    for mode, (order, ranks), count in product(MODES, orders.items(), counts.values()):
        if 0 < count < features.count:
            images[mode, order, count] = partial(_image, features, ranks, mode, count)
    found: dict[Any, Response] = {}
    for key, response in zip(images, study.scorer.responses(lesion, images.values()), strict=True):
        found[key] = response
        tell(len(found), len(images))
    ends = {"deletion": ("whole", "empty"), "insertion": ("empty", "whole")}
    for mode, order in product(MODES, orders):
        found[mode, order, 0], found[mode, order, features.count] = (
            found[end] for end in ends[mode]
        )
    curves = {
        (mode, name): {
            share: float(
                np.mean([found[mode, one, count].mean_logit for one in orders if one[0] == name])
            )
            for share, count in counts.items()
        }
        for mode, name in product(MODES, ORDERS)
    }
    rows = [
        {
            "index": lesion.label,
            "mode": mode,
            "order": order,
            "share": share,
            "mean_logit": logit,
        }
        for (mode, order), curve in curves.items()
        for share, logit in curve.items()
    ]
    whole, empty = found["whole"].mean_logit, found["empty"].mean_logit
    areas = {
        f"{mode}_auc_{order}": _area(curve, whole, empty)
        for (mode, order), curve in curves.items()
    }
    return Finding("faithfulness", lesion.label, rows, areas)


def _image(features: _Features, ranks: torch.Tensor, mode: str, count: int) -> torch.Tensor:
    return features.image(ranks < count if mode == "deletion" else ranks >= count)


def _area(curve: Mapping[float, float], whole: float, empty: float) -> float:
    if whole == empty:
        return float("nan")
    points = [(np.log10(share), logit) for share, logit in curve.items() if share > 0]
    x, logits = np.array(points).T
    y = (logits - empty) / (whole - empty)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))
