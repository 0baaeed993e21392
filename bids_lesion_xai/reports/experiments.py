# SPDX-License-Identifier: Apache-2.0
"""Charts of the experiments: of one visit, or of all, with each participant counting once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bids_lesion_xai.conventions import CHANNELS, EXPERIMENTS, FILLS
from bids_lesion_xai.group.collect import predicted_lesions
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.colours import CHANNEL_COLOURS, PLAIN_COLOUR, SERIES_COLOURS

_CHART_SIZE = (5.2, 3.2)
_LINES = ("-", "--", ":")
_BOTH = "both"
# About that of lesions, in standard deviations of the brain.
_LESION_CONTRAST = 1.0
_LESION = ["participant_id", "session_id", "index"]


def draw_experiments(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """Return the charts of the experiments that have rows.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        The table of each experiment, with ``participant_id`` and ``outcome``; rows of several
        visits may follow each other. Missed lesions and control regions are left out. A
        participant counts once: means over lesions, then over people.

    Returns
    -------
    charts : list of dict
        ``name``, ``title``, ``caption`` and ``svg``.
    """
    found = {name: predicted_lesions(table) for name, table in tables.items()}
    return [
        {
            "name": f"{name}-{number}",
            "title": title,
            "caption": caption,
            "svg": draw(found[name]),
        }
        for name in EXPERIMENTS
        if len(found.get(name, ()))
        for number, (title, caption, draw) in enumerate(_CHARTS[name])
    ]


def people_means(table: pd.DataFrame, keys: list[str], column: str) -> pd.Series[float]:
    """Return the mean of `column` for each value of `keys`: over rows, then over participants."""
    of_people = table.groupby([*keys, "participant_id"], sort=True)[column].mean()
    return of_people.groupby(level=list(range(len(keys)))).mean()


def _draw_margins(table: pd.DataFrame) -> str:
    with page.chart(*_CHART_SIZE) as (figure, axes):
        for (fill, label), colour in zip(FILLS.items(), SERIES_COLOURS, strict=True):
            own = table[table["fill"] == fill]
            for column, line in (("mean_probability", "-"), ("detected", "--")):
                means = people_means(own, ["margin_mm"], column)
                name = label if line == "-" else None
                axes.plot(means.index, means, line, color=colour, label=name)
        _probability_axis(axes, "probability, and share detected (dashed)")
        axes.set_xlabel("visible margin around the lesion, mm")
        axes.legend(title="beyond the margin")
        return page.chart_svg(figure)


def _draw_contrasts(table: pd.DataFrame) -> str:
    whole = table[np.isinf(table["margin_mm"])]
    diameters = sorted(whole["diameter_mm"].unique())
    with page.chart(*_CHART_SIZE) as (figure, axes):
        colours = {**CHANNEL_COLOURS, _BOTH: PLAIN_COLOUR}
        for channel, name in {**CHANNELS, _BOTH: "both"}.items():
            for diameter, line in zip(diameters, _LINES[::-1][-len(diameters) :], strict=False):
                own = whole[(whole["channel"] == channel) & (whole["diameter_mm"] == diameter)]
                means = people_means(own, ["contrast"], "mean_probability")
                label = name if diameter == diameters[-1] else None
                axes.plot(means.index, means, line, color=colours[channel], label=label)
        _probability_axis(axes, "probability")
        axes.set_xlabel("contrast, standard deviations of the brain")
        axes.legend(title="contrast in")
        return page.chart_svg(figure)


def _draw_synthetic_margins(table: pd.DataFrame) -> str:
    shown = table[(table["contrast"] == _LESION_CONTRAST) & (table["channel"] == _BOTH)]
    margins = sorted(shown["margin_mm"].unique())
    with page.chart(*_CHART_SIZE) as (figure, axes):
        diameters = sorted(shown["diameter_mm"].unique())
        for diameter, colour in zip(diameters, SERIES_COLOURS, strict=False):
            own = shown[shown["diameter_mm"] == diameter]
            means = people_means(own, ["margin_mm"], "mean_probability").reindex(margins)
            label = f"{page.number_text(diameter)} mm"
            axes.plot(range(len(margins)), means, "o-", color=colour, label=label)
        texts = ["all" if np.isinf(mm) else page.number_text(mm) for mm in margins]
        axes.set_xticks(range(len(margins)), texts)
        _probability_axis(axes, "probability")
        axes.set_xlabel("visible margin, mm; zeros beyond")
        axes.legend(title="diameter")
        return page.chart_svg(figure)


def scaled_logits(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of faithfulness with ``scaled``: 1 for the image, 0 with all replaced."""
    whole, empty = (
        table[(table["mode"] == "deletion") & (table["share"] == share)]
        .groupby(_LESION)["mean_logit"]
        .first()
        .rename(name)
        for share, name in ((0, "whole"), (1, "empty"))
    )
    ends = table.join(whole, on=_LESION).join(empty, on=_LESION)
    scaled = (ends["mean_logit"] - ends["empty"]) / (ends["whole"] - ends["empty"])
    return table.assign(scaled=scaled)


def _draw_faithfulness(table: pd.DataFrame) -> str:
    scaled = scaled_logits(table)
    with page.chart(*_CHART_SIZE) as (figure, axes):
        for order, colour in zip(("saliency", "intensity", "random"), SERIES_COLOURS, strict=True):
            for mode, line in (("deletion", "-"), ("insertion", "--")):
                own = scaled[(scaled["order"] == order) & (scaled["mode"] == mode)]
                means = people_means(own[own["share"] > 0], ["share"], "scaled")
                label = order if mode == "deletion" else None
                axes.plot(means.index, means, line, color=colour, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("share of values deleted, or inserted (dashed)")
        axes.set_ylabel("logit, from all replaced to none")
        axes.legend(title="order")
        return page.chart_svg(figure)


def _draw_randomisation(table: pd.DataFrame) -> str:
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        for column, colour in (("spearman", SERIES_COLOURS[0]), ("pearson", SERIES_COLOURS[1])):
            means = people_means(table, ["n_layers"], column)
            label = "ranks of magnitudes" if column == "spearman" else "signed values"
            axes.plot(means.index, means, "o-", color=colour, label=label)
        axes.set_ylim(min(axes.get_ylim()[0], -0.05), 1.02)
        axes.set_xlabel("layers redrawn, from the output on")
        axes.set_ylabel("correlation with the map before")
        axes.legend()
        return page.chart_svg(figure)


def _draw_channels(table: pd.DataFrame) -> str:
    names = {"none": "none", **CHANNELS, _BOTH: "both"}
    means = people_means(table, ["replaced"], "mean_probability").reindex(list(names))
    with page.chart(*_CHART_SIZE) as (figure, axes):
        colours = [page.INK, *CHANNEL_COLOURS.values(), PLAIN_COLOUR]
        axes.bar(list(names.values()), means, color=colours, width=0.6)
        _probability_axis(axes, "probability")
        axes.set_xlabel("image replaced by its normal-appearing mean")
        return page.chart_svg(figure)


def _probability_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(label)


_Chart = tuple[str, str, Callable[[Any], str]]
_CHARTS: dict[str, tuple[_Chart, ...]] = {
    "perilesional": (
        (
            "How much tissue around a lesion must be seen?",
            "The lesion and a margin stay; the rest of the brain is replaced. Mean lesion "
            "probability and, dashed, share of lesions detected.",
            _draw_margins,
        ),
    ),
    "synthetic": (
        (
            "Which contrast makes a lesion?",
            "Spheres put into normal-appearing white matter: brighter on FLAIR, darker on T1w, or "
            "both. Solid: the largest diameter; dashed and dotted: smaller ones.",
            _draw_contrasts,
        ),
        (
            "What does a synthetic lesion need around it?",
            "The spheres with a contrast of 1 SD in both images, by the visible margin.",
            _draw_synthetic_margins,
        ),
    ),
    "faithfulness": (
        (
            "Do salient voxels matter more than others?",
            "The lesion's logit when values are deleted in an order (a faithful one falls early), "
            "or inserted in it (rises early). By magnitude: in which direction a value acts is "
            "not asked.",
            _draw_faithfulness,
        ),
    ),
    "randomisation": (
        (
            "Do the maps depend on what the network has learned?",
            "Correlation of maps before and after the weights of layers are redrawn. Ranks of "
            "magnitudes stay alike in part, since every map fades with distance.",
            _draw_randomisation,
        ),
    ),
    "channel": (
        (
            "Which image can the network do without?",
            "Mean lesion probability with an image replaced.",
            _draw_channels,
        ),
    ),
}
