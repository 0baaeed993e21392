# SPDX-License-Identifier: Apache-2.0
"""The charts of one lesion: its saliency by distance, and what experiments found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bids_lesion_xai.conventions import CHANNELS, FILLS
from bids_lesion_xai.reports.colours import CHANNEL_COLOURS, PLAIN_COLOUR, SERIES_COLOURS
from bids_lesion_xai.reports.curves import Band, Chart, Line, draw

_REACH_MM = 12.0
_PROBABILITY = (0.0, 1.0)


def draw_profile(profile: pd.DataFrame | None, row: Mapping[str, Any]) -> Chart:
    """Return the mean saliency of a lesion by distance from its border.

    Parameters
    ----------
    profile : DataFrame
        The rows of the lesion in the table ``saliency_profile``; None if it has none.
    row : mapping
        The lesion's row of the saliency table, for the mean inside with its standard error.
    """
    lines, bands = [], []
    for channel, name in CHANNELS.items():
        colour = CHANNEL_COLOURS[channel]
        if profile is None:
            continue
        own = profile[(profile["channel"] == channel) & (profile["far_mm"] <= _REACH_MM)]
        own = own.sort_values("near_mm")
        middle = (own["near_mm"] + own["far_mm"]) / 2
        lines.append(Line(name, colour, middle.to_numpy(), own["mean"].to_numpy()))
        inside = min(float(middle.min()), -0.5) if len(own) else -0.5
        mean, error = (float(row[f"{channel}_mean_inside{end}"]) for end in ("", "_se"))
        bands.append(Band(colour, (inside, 0.0), mean, error))
    return draw(
        "Saliency by distance",
        lines,
        "distance from the lesion's border, mm (inside: negative)",
        "mean saliency",
        bands=bands,
        levels=(0.0,),
        places=(0.0,),
    )


def draw_charts(tables: Mapping[str, pd.DataFrame], peak_threshold: float | None) -> list[Chart]:
    """Return the curves of the experiments of one lesion.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        The lesion's rows of each experiment.
    peak_threshold : float or None
        Lesion probability that each lesion reaches, if it was found by one.
    """
    levels = () if peak_threshold is None else (peak_threshold,)
    made = {
        "perilesional": lambda table: _margins(table, levels),
        "channel": lambda table: _channels(table, levels),
        "faithfulness": _faithfulness,
        "randomisation": _randomisation,
    }
    return [draw_one(tables[name]) for name, draw_one in made.items() if name in tables]


def _margins(table: pd.DataFrame, levels: tuple[float, ...]) -> Chart:
    lines = []
    for (fill, label), colour in zip(FILLS.items(), SERIES_COLOURS, strict=True):
        own = table[(table["fill"] == fill) & np.isfinite(table["margin_mm"])]
        own = own.sort_values("margin_mm")
        lines.append(
            Line(label, colour, own["margin_mm"].to_numpy(), own["mean_probability"].to_numpy())
        )
    return draw(
        "How much tissue around it must be seen?",
        lines,
        "visible margin, mm; beyond it:",
        "mean probability",
        y_range=_PROBABILITY,
        levels=levels,
    )


def _channels(table: pd.DataFrame, levels: tuple[float, ...]) -> Chart:
    names = {"none": "none", **CHANNELS, "both": "both"}
    values = table.set_index("replaced")["mean_probability"].reindex(list(names))
    line = Line("", PLAIN_COLOUR, range(len(names)), values.to_numpy(), pointed=True)
    return draw(
        "Which image can the network do without?",
        [line],
        "image replaced by its normal-appearing mean",
        "mean probability",
        x_ticks=list(enumerate(names.values())),
        x_range=(-0.5, len(names) - 0.5),
        y_range=_PROBABILITY,
        levels=levels,
    )


def _faithfulness(table: pd.DataFrame) -> Chart:
    shares = sorted(table["share"].unique())
    lines = []
    for order, colour in zip(("saliency", "intensity", "random"), SERIES_COLOURS, strict=True):
        for mode in ("deletion", "insertion"):
            own = table[(table["order"] == order) & (table["mode"] == mode)]
            logits = own.set_index("share")["mean_logit"].reindex(shares)
            label = order if mode == "deletion" else f"{order}, inserted"
            lines.append(
                Line(label, colour, range(len(shares)), logits.to_numpy(), mode == "insertion")
            )
    ticks = [(place, f"{100 * shares[place]:g} %") for place in (0, len(shares) // 2, -1)]
    shown = [(place % len(shares), text) for place, text in ticks]
    return draw(
        "Do salient voxels matter more?",
        lines,
        "share of values deleted, or inserted (dashed)",
        "mean logit",
        x_ticks=shown,
    )


def _randomisation(table: pd.DataFrame) -> Chart:
    own = table.sort_values("n_layers")
    layers = own["n_layers"].to_numpy()
    return draw(
        "Does the map depend on what was learned?",
        [
            Line("ranks of magnitudes", SERIES_COLOURS[0], layers, own["spearman"].to_numpy()),
            Line("signed values", SERIES_COLOURS[1], layers, own["pearson"].to_numpy()),
        ],
        "layers redrawn, from the output on",
        "correlation with the map before",
        levels=(0.0,),
    )
