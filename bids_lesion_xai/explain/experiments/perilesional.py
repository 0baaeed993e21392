# SPDX-License-Identifier: Apache-2.0
"""How much tissue around a lesion the network needs to see.

Only the lesion and a margin around it stay as they are; the margin grows. The published form
(Spagnolo et al. 2026, doi 10.1038/s41598-026-36560-9) dilates by voxels and fills with 0. Here the
margin is a Euclidean distance, and what is put outside is a choice: every filling is an image of
its own that the network responds to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from bids_lesion_xai.conventions import FILLS
from bids_lesion_xai.explain.experiments.scorer import MakeImage, Response
from bids_lesion_xai.explain.experiments.study import Finding, Study, Tell
from bids_lesion_xai.explain.experiments.surroundings import Surroundings
from bids_lesion_xai.explain.problem import Lesion

# Beyond the receptive field of the published U-Net, 46 voxels, nothing changes.
MARGINS_MM = (*map(float, range(17)), 18.0, 20.0, 24.0, 28.0, 32.0, 40.0)
# Percentages of the full score whose margins are stated.
_PERCENTAGES = (50, 95)


def run(
    study: Study, *, margins_mm: Sequence[float] = MARGINS_MM, fills: Sequence[str] = tuple(FILLS)
) -> Iterator[Finding]:
    """Yield, for each lesion, its response as a function of the visible margin.

    Parameters
    ----------
    study : Study
    margins_mm : sequence of float
        Ascending.
    fills : sequence of {"zero", "normal", "inpaint"}
        What is put beyond the margin: 0, the mean of the brain (published); each channel's mean
        over normal-appearing white matter; or the visible tissue continued outward.

    Yields
    ------
    finding : Finding
        Rows: ``index``, ``fill``, ``margin_mm``, ``mean_probability``, ``detected``. Numbers:
        ``margin_50_FILL_mm`` and ``margin_95_FILL_mm``, the smallest of the margins at which the
        mean probability reaches 50 and 95 % of that of the unchanged image;
        ``settled_50_FILL_mm`` and ``settled_95_FILL_mm``, the smallest from which on it stays
        there, which is larger where the curve falls again; NaN if there is none;
        ``full_probability``, that of the unchanged image.
    """
    for lesion, tell in study.one_by_one(study.scan.lesions()):
        yield _finding(study, lesion, tell, margins_mm, fills)


def _finding(
    study: Study, lesion: Lesion, tell: Tell, margins_mm: Sequence[float], fills: Sequence[str]
) -> Finding:
    view = Surroundings(study.scan, lesion, study.scorer.support(lesion))
    # Margins that show the same are evaluated once; those that show all, with the whole image.
    shows = {margin: view.n_hidden(margin) for margin in margins_mm}
    firsts = {n_hidden: margin for margin, n_hidden in reversed(shows.items()) if n_hidden}
    images: dict[Any, MakeImage] = {"full": partial(study.scan.image_in, view.support)}
    for fill in fills:
        for n_hidden, margin in firsts.items():
            images[fill, n_hidden] = partial(view.image, margin, fill)
    found: dict[Any, Response] = {}
    for key, response in zip(images, study.scorer.responses(lesion, images.values()), strict=True):
        found[key] = response
        tell(len(found), len(images))
    curves = {
        fill: {
            margin: found[fill, n_hidden] if n_hidden else found["full"]
            for margin, n_hidden in shows.items()
        }
        for fill in fills
    }
    full = found["full"].mean_probability
    rows = [
        {
            "index": lesion.label,
            "fill": fill,
            "margin_mm": margin,
            "mean_probability": response.mean_probability,
            "detected": response.detected,
        }
        for fill, curve in curves.items()
        for margin, response in curve.items()
    ]
    numbers = {
        f"{name}_{percentage}_{fill}_mm": margin_of(curve, percentage / 100 * full)
        for name, margin_of in (("margin", _first_margin), ("settled", _settled_margin))
        for fill, curve in curves.items()
        for percentage in _PERCENTAGES
    }
    numbers["full_probability"] = full
    return Finding("perilesional", lesion.label, rows, numbers)


def _first_margin(curve: dict[float, Response], least: float) -> float:
    """Return the margin at which a curve first reaches a probability, or NaN."""
    reached = (margin for margin, one in curve.items() if one.mean_probability >= least)
    return next(reached, float("nan"))


def _settled_margin(curve: dict[float, Response], least: float) -> float:
    """Return the margin from which on a curve is never below a probability, or NaN."""
    margins = reversed(curve)
    stays = takewhile(lambda margin: curve[margin].mean_probability >= least, margins)
    return min(stays, default=float("nan"))
