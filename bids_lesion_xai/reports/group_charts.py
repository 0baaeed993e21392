# SPDX-License-Identifier: Apache-2.0
"""Charts of a group: each is drawn from a table, and returned as SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from bids_lesion_xai.conventions import CHANNELS, FILLS, OUTCOMES, session_order
from bids_lesion_xai.group.stats import bootstrap_means
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.colours import (
    CHANNEL_COLOURS,
    CHANNEL_MARKERS,
    OUTCOME_COLOURS,
    OUTCOME_MARKERS,
    PLAIN_COLOUR,
)

_CHART_SIZE = (5.2, 3.2)
# Above these numbers, points become an image inside the chart, and participants lose their names.
_MAX_VECTOR_POINTS = 2000
_MAX_NAMES = 24
# Bars have the width that so many of them have, at most.
_LEAST_ROOM = 5
# Lines and, on the axis, sessions are named up to these numbers.
_MAX_NAMED_LINES = 6
_MAX_SESSIONS = 10
# Of a forest chart, in inches: axis and legend, and each line.
FOREST_FRAME, FOREST_LINE = 0.75, 0.26
_VISIT = ["participant_id", "session_id"]
_NO_REFERENCE = "no reference"


def draw_volumes(lesions: pd.DataFrame) -> str:
    """Return the histogram of the lesions' volumes, in equal steps of the logarithm.

    With a reference mask, right and false detections stand on each other.
    """
    values = lesions["volume_mm3"].to_numpy(float)
    n_bins = int(np.clip(np.sqrt(values.size) * 2, 6, 40))
    edges = np.geomspace(values.min() * 0.95, values.max() * 1.05, n_bins + 1).tolist()
    parts = _by_outcome(lesions)
    with page.chart(*_CHART_SIZE) as (figure, axes):
        axes.hist(
            [own["volume_mm3"].to_numpy(float) for own in parts.values()],
            edges,
            color=[OUTCOME_COLOURS.get(name, PLAIN_COLOUR) for name in parts],
            label=list(parts),
            rwidth=0.92,
            stacked=True,
        )
        if set(parts) != {_NO_REFERENCE}:
            axes.legend()
        axes.set_xscale("log")
        # Names of more than three decades would run into each other.
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if np.ptp(np.log10(values)) < 3 else (1,))
        )
        axes.xaxis.set_major_formatter(lambda value, _: page.number_text(value))
        axes.xaxis.set_minor_formatter("")
        axes.axvline(float(np.median(values)), color=page.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("volume of a lesion, mm³")
        axes.set_ylabel("lesions")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return page.chart_svg(figure)


def _by_outcome(lesions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the lesions of each outcome that there is, and those of visits without a mask."""
    parts = {outcome: lesions[lesions["outcome"] == outcome] for outcome in OUTCOMES}
    parts[_NO_REFERENCE] = lesions[lesions["outcome"].isna()]
    return {name: own for name, own in parts.items() if len(own)}


def draw_shares(lesions: pd.DataFrame) -> str:
    """Return the FLAIR shares of each participant's lesions and their mean.

    Participants stand in the order of their means.
    """
    groups = lesions.groupby("participant_id")["flair_share"]
    order = groups.mean().sort_values()
    places = {name: place for place, name in enumerate(order.index)}
    with page.chart(*_CHART_SIZE) as (figure, axes):
        axes.axhline(0.5, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        x = lesions["participant_id"].map(places).to_numpy(float)
        _scatter(axes, x + _jitter(x.size), lesions["flair_share"], CHANNEL_COLOURS["flair"])
        axes.plot(range(len(order)), order, "_", color=page.INK, markersize=12, markeredgewidth=2)
        axes.set_xlabel("participant, in order of the mean")
        if len(order) <= _MAX_NAMES:
            axes.set_xticks(range(len(order)), order.index, rotation=90 if len(order) > 8 else 0)
        else:
            axes.set_xticks([])
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_ylim(0, 1)
        axes.set_ylabel("FLAIR share of saliency")
        return page.chart_svg(figure)


def draw_profile(means: pd.DataFrame) -> str:
    """Return the mean saliency by distance from the lesion, with its intervals.

    Parameters
    ----------
    means : DataFrame
        Of `bootstrap_means`.
    """
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        for channel, name in CHANNELS.items():
            rows = means.loc[[f"{channel}_{key}" for key, _ in page.PROFILE]]
            _line_with_interval(
                axes, rows, CHANNEL_COLOURS[channel], CHANNEL_MARKERS[channel], name
            )
        page.profile_axis(axes)
        axes.legend()
        return page.chart_svg(figure)


def draw_peaks(lesions: pd.DataFrame) -> str:
    """Return the peaks of FLAIR against those of T1w, one point a lesion."""
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        axes.axvline(0, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        parts = _by_outcome(lesions)
        for name, own in parts.items():
            colour, marker = (
                OUTCOME_COLOURS.get(name, PLAIN_COLOUR),
                OUTCOME_MARKERS.get(name, "o"),
            )
            _scatter(axes, own["flair_peak"], own["t1w_peak"], colour, marker, name)
        if set(parts) != {_NO_REFERENCE}:
            axes.legend()
        axes.set_xlabel("peak saliency of FLAIR")
        axes.set_ylabel("peak saliency of T1w")
        return page.chart_svg(figure)


def draw_outcome_profile(lesions: pd.DataFrame, channel: str) -> str:
    """Return the mean saliency of an image by distance, for each outcome, with intervals."""
    columns = [f"{channel}_{key}" for key, _ in page.PROFILE]
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        for outcome in OUTCOMES:
            own = lesions[lesions["outcome"] == outcome]
            if len(own):
                visits = own.groupby(_VISIT)[columns].mean().reset_index()
                rows = bootstrap_means(visits, columns)
                colour, marker = OUTCOME_COLOURS[outcome], OUTCOME_MARKERS[outcome]
                _line_with_interval(axes, rows, colour, marker, f"{outcome} ({len(own)})")
        page.profile_axis(axes)
        axes.legend()
        return page.chart_svg(figure)


def draw_outcome_margins(table: pd.DataFrame, fill: str) -> str:
    """Return the probability by the visible margin, for each outcome, with intervals.

    Parameters
    ----------
    table : DataFrame
        Of the experiment ``perilesional``, with ``outcome``.
    fill : str
        What the brain is filled with beyond the margin.
    """
    shown = table[(table["fill"] == fill) & np.isfinite(table["margin_mm"])]
    with page.chart(*_CHART_SIZE) as (figure, axes):
        for outcome in OUTCOMES:
            own = shown[shown["outcome"] == outcome]
            if not len(own):
                continue
            means = own.pivot_table("mean_probability", _VISIT, "margin_mm")
            margins = list(means.columns)
            visits = means.set_axis([f"{mm:g}" for mm in margins], axis=1).reset_index()
            rows = bootstrap_means(visits, [f"{mm:g}" for mm in margins])
            colour = OUTCOME_COLOURS[outcome]
            _line_with_interval(axes, rows, colour, "", outcome, margins)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"visible margin around the lesion, mm; beyond it: {FILLS[fill]}")
        axes.set_ylabel("mean lesion probability")
        axes.legend()
        return page.chart_svg(figure)


def draw_over_time(visits: pd.DataFrame, column: str, label: str) -> str:
    """Return a number of each visit by session, with a line for each participant.

    Sessions stand in the order of `session_order`.
    """
    sessions = sorted(visits["session_id"].astype(str).unique(), key=session_order)
    places = {name: place for place, name in enumerate(sessions)}
    people = sorted(visits["participant_id"].unique())
    with page.chart(*_CHART_SIZE) as (figure, axes):
        for person in people:
            own = visits[visits["participant_id"] == person]
            x = own["session_id"].astype(str).map(places).to_numpy(float)
            order = np.argsort(x)
            values = own[column].to_numpy(float)[order]
            axes.plot(x[order], values, "o-", color=PLAIN_COLOUR, markersize=4, alpha=0.75)
            if len(people) <= _MAX_NAMED_LINES:
                axes.annotate(
                    person, (x[order][-1], values[-1]), (5, 0), textcoords="offset points", size=8
                )
        if len(sessions) <= _MAX_SESSIONS:
            axes.set_xticks(range(len(sessions)), sessions)
        axes.set_xlim(-0.4, len(sessions) - 0.4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("session")
        axes.set_ylabel(label)
        return page.chart_svg(figure)


def draw_people(visits: pd.DataFrame, column: str, label: str) -> str:
    """Return a number of each participant, the mean of the visits, in ascending order."""
    means = visits.groupby("participant_id")[column].mean().sort_values()
    with page.chart(*_CHART_SIZE) as (figure, axes):
        axes.bar(range(len(means)), means, color=PLAIN_COLOUR, width=0.75)
        if len(means) <= _MAX_NAMES:
            axes.set_xticks(range(len(means)), means.index, rotation=90 if len(means) > 8 else 0)
        else:
            axes.set_xticks([])
        axes.set_xlim(-0.6, max(len(means), _LEAST_ROOM) - 0.4)
        axes.set_xlabel("participant")
        axes.set_ylabel(label)
        return page.chart_svg(figure)


def draw_forest(rows: pd.DataFrame) -> str:
    """Return effect sizes with their intervals, one line a contrast.

    Where nothing is tested, the estimates are drawn.

    Parameters
    ----------
    rows : DataFrame
        Of one question, of `bids_lesion_xai.group.claims.claims`.
    """
    tested = rows["effect"].notna().any()
    names = ("effect", "effect_low", "effect_high") if tested else ("estimate", "low", "high")
    values, low, high = (rows[name].to_numpy(float) for name in names)
    lines = {label: line for line, label in enumerate(dict.fromkeys(rows["contrast"]))}
    place = rows["contrast"].map(lines).to_numpy(float)
    channel = rows["measure"].str.partition("_")[0].to_numpy()
    paired = rows.groupby("contrast")["measure"].nunique().max() > 1
    shifts = {"flair": -0.15, "t1w": 0.15} if paired else {}
    shift_of = [shifts.get(one, 0.0) for one in channel]
    height = FOREST_FRAME + FOREST_LINE * len(lines)
    with page.chart(_CHART_SIZE[0], height) as (figure, axes):
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        if tested:
            axes.axvline(0, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        for shift in sorted(set(shift_of)):
            own = np.equal(shift_of, shift)
            key = channel[own][0] if shift else ""
            y = place[own] + shift
            colour = CHANNEL_COLOURS.get(key, PLAIN_COLOUR)
            axes.hlines(y, low[own], high[own], color=colour, linewidth=1.6)
            marker = CHANNEL_MARKERS.get(key, "o")
            axes.plot(values[own], y, marker, color=colour, markersize=5, label=CHANNELS.get(key))
        axes.set_yticks(list(lines.values()), list(lines))
        axes.set_ylim(len(lines) - 0.4, -0.6)
        kinds = " or ".join(dict.fromkeys(rows["effect_kind"])) if tested else "mm"
        axes.set_xlabel(kinds)
        if paired:
            axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return page.chart_svg(figure)


def _line_with_interval(
    axes: Axes,
    rows: pd.DataFrame,
    colour: str,
    marker: str,
    label: str,
    places: list[float] | None = None,
) -> None:
    x = np.arange(len(rows)) if places is None else np.array(places)
    axes.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
    axes.plot(x, rows["mean"], marker + "-", color=colour, markersize=5, label=label)


def _scatter(
    axes: Axes, x: Any, y: Any, colour: str, marker: str = "o", label: str | None = None
) -> None:
    rasterized = len(x) > _MAX_VECTOR_POINTS
    style: Any = {"s": 16, "color": colour, "alpha": 0.7, "linewidths": 0, "marker": marker}
    axes.scatter(x, y, label=label, rasterized=rasterized, **style)


def _jitter(n: int) -> np.ndarray:
    """Return small shifts that keep points apart, the same in every run."""
    return np.random.default_rng(0).uniform(-0.18, 0.18, n)
