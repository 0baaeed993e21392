# SPDX-License-Identifier: Apache-2.0
"""The tables and the report over all visits of an output folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.sidecar import read_description
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.group.claims import ALPHA, claims
from bids_lesion_xai.group.collect import Collection, collect, predicted_lesions, write_table
from bids_lesion_xai.group.stats import (
    MIN_PARTICIPANTS,
    N_RESAMPLES,
    bootstrap_means,
    participant_means,
)
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.experiments import draw_experiments

# Outputs of each visit that a group table is made from.
_SOURCES = {
    "group_lesions": ("lesion_table", "saliency_table"),
    "group_participants": ("lesion_table", "saliency_table", "brain_mask", "preproc_flair"),
    "group_claims": ("lesion_table", "saliency_table"),
}
_INTERVAL_COLUMNS = (
    "flair_share",
    *(f"{channel}_{key}" for channel in CHANNELS for key, _ in page.PROFILE),
)
_CHART_SIZE = (5.2, 3.2)
# Above these numbers, points become an image inside the chart, and participants lose their names.
_MAX_VECTOR_POINTS = 2000
_MAX_NAMES = 24
# Of a forest chart, in inches: axis and legend, and each line.
_FOREST_FRAME, _FOREST_LINE = 0.75, 0.26


def write_group(
    store: Store,
    covariates: pd.DataFrame | None = None,
    matches: Mapping[Visit, Mapping[int, int]] | None = None,
    unfollowed: Sequence[str] = (),
) -> tuple[list[Path], Collection]:
    """Write the group tables and the group report.

    Parameters
    ----------
    store : Store
    covariates : DataFrame, optional
        What participants are compared by; see `bids_lesion_xai.group.claims.claims`.
    matches, unfollowed
        What came of following lesions; see `bids_lesion_xai.group.collect.collect`.

    Returns
    -------
    written : list of Path
    group : Collection
        What was written, why some visits are left out, and settings that differ.

    Raises
    ------
    DataError
        The folder holds no complete visit, or all are damaged.
    OutputError
        The output folder cannot be written.
    """
    group = collect(store, matches, unfollowed)
    found = claims(group.lesions, group.participants, covariates, units=group.units)
    tables = {
        "group_lesions": group.lesions,
        "group_participants": group.participants,
        "group_claims": found,
    }
    written = [_publish_table(store, key, table, group) for key, table in tables.items()]
    html = page.render("group.html", _content(store, group, found))
    written.append(store.write_text(DERIVATIVES["group_report"].path(), html))
    return written, group


def _publish_table(store: Store, key: str, table: pd.DataFrame, group: Collection) -> Path:
    sources = [store.uri(source, visit) for visit in group.visits for source in _SOURCES[key]]
    with tempfile.TemporaryDirectory() as folder:
        written = write_table(table, Path(folder, "table.tsv"))
        facts = {"Sources": sources, "Units": group.units}
        wanted = {name: facts[name] for name in DERIVATIVES[key].facts}
        return store.publish(key, written, wanted)


def _content(store: Store, group: Collection, found: pd.DataFrame) -> dict[str, Any]:
    """Return the variables of the template."""
    lesions, visits = predicted_lesions(group.lesions), group.participants
    means = bootstrap_means(visits, _INTERVAL_COLUMNS)
    people = participant_means(visits, ("n_lesions", "lesion_volume_mm3"))
    rows: list[dict[str, Any]] = visits.to_dict("records")  # type: ignore[assignment]
    return {
        "dataset": read_description(store.root).get("Name", ""),
        "summary": {
            "n_participants": len(people),
            "n_visits": len(visits),
            "n_lesions": len(lesions),
            "n_without_lesion": int((visits["n_lesions"] == 0).sum()),
            "median_lesions": float(people["n_lesions"].median()),
            "median_volume_mm3": float(people["lesion_volume_mm3"].median()),
        },
        "problems": group.problems,
        "unfollowed": group.unfollowed,
        "differences": group.differences,
        "means": means.to_dict("index"),
        "min_participants": MIN_PARTICIPANTS,
        "n_resamples": N_RESAMPLES,
        "columns": DERIVATIVES["group_participants"].columns,
        "units": group.units,
        "visits": [
            {"row": row, "link": _report_link(store, visit)}
            for row, visit in zip(rows, group.visits, strict=True)
        ],
        "experiments": draw_experiments(group.experiments),
        "n_people": len(people),
        "charts": _charts(lesions, means) if len(lesions) else {},
        "answers": [
            _answer(str(name), own) for name, own in found.groupby("question", sort=False)
        ],
        "alpha": ALPHA,
    }


def _answer(question: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return what the template shows of a question."""
    known = rows[rows["low"].notna()]
    n_lines = known["contrast"].nunique()
    return {
        "question": question,
        "statements": known["statement"].tolist(),
        "untold": rows.loc[rows["low"].isna(), "statement"].tolist(),
        "chart": draw_forest(known) if n_lines else "",
        "height": round(100 * (_FOREST_FRAME + _FOREST_LINE * n_lines)),
    }


def _report_link(store: Store, visit: Visit) -> str:
    """Return the file name of a visit's report, empty if there is none."""
    path = store.path("report", visit)
    return path.name if path.is_file() else ""


def _charts(lesions: pd.DataFrame, means: pd.DataFrame) -> dict[str, str]:
    return {
        "volumes": draw_volumes(lesions["volume_mm3"]),
        "shares": draw_shares(lesions),
        "profile": draw_profile(means),
        "peaks": draw_peaks(lesions),
    }


def draw_volumes(volumes_mm3: Sequence[float] | pd.Series[float]) -> str:
    """Return the histogram of the lesions' volumes, in equal steps of the logarithm, as a URI."""
    values = np.asarray(volumes_mm3, float)
    n_bins = int(np.clip(np.sqrt(values.size) * 2, 6, 40))
    edges = np.geomspace(values.min() * 0.95, values.max() * 1.05, n_bins + 1)
    with page.chart(*_CHART_SIZE) as (figure, axes):
        axes.hist(values, edges.tolist(), color=page.PLAIN_COLOUR, rwidth=0.92)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: page.number_text(value))
        axes.xaxis.set_minor_formatter("")
        axes.axvline(float(np.median(values)), color=page.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("volume of a lesion, mm³")
        axes.set_ylabel("lesions")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return page.chart_uri(figure)


def draw_shares(lesions: pd.DataFrame) -> str:
    """Return the FLAIR shares of each participant's lesions and their mean, as a URI.

    Participants stand in the order of their means.
    """
    groups = lesions.groupby("participant_id")["flair_share"]
    order = groups.mean().sort_values()
    places = {name: place for place, name in enumerate(order.index)}
    with page.chart(*_CHART_SIZE) as (figure, axes):
        axes.axhline(0.5, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        x = lesions["participant_id"].map(places).to_numpy(float)
        _scatter(axes, x + _jitter(x.size), lesions["flair_share"], page.CHANNEL_COLOURS["flair"])
        axes.plot(range(len(order)), order, "_", color=page.INK, markersize=12, markeredgewidth=2)
        axes.set_xlabel("participant, in order of the mean")
        if len(order) <= _MAX_NAMES:
            axes.set_xticks(range(len(order)), order.index, rotation=90 if len(order) > 8 else 0)
        else:
            axes.set_xticks([])
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_ylim(0, 1)
        axes.set_ylabel("FLAIR share of saliency")
        return page.chart_uri(figure)


def draw_profile(means: pd.DataFrame) -> str:
    """Return the mean saliency by distance from the lesion, with its intervals, as a URI.

    Parameters
    ----------
    means : DataFrame
        Of `bootstrap_means`.
    """
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        for channel, name in CHANNELS.items():
            colour = page.CHANNEL_COLOURS[channel]
            rows = means.loc[[f"{channel}_{key}" for key, _ in page.PROFILE]]
            places = np.arange(len(rows))
            axes.fill_between(places, rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
            marker = page.CHANNEL_MARKERS[channel] + "-"
            axes.plot(places, rows["mean"], marker, color=colour, markersize=5, label=name)
        page.profile_axis(axes)
        axes.legend()
        return page.chart_uri(figure)


def draw_forest(rows: pd.DataFrame) -> str:
    """Return effect sizes with their intervals, one line a contrast, as a URI.

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
    height = _FOREST_FRAME + _FOREST_LINE * len(lines)
    with page.chart(_CHART_SIZE[0], height) as (figure, axes):
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        if tested:
            axes.axvline(0, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        for shift in sorted(set(shift_of)):
            own = np.equal(shift_of, shift)
            key = channel[own][0] if shift else ""
            y = place[own] + shift
            colour = page.CHANNEL_COLOURS.get(key, page.PLAIN_COLOUR)
            axes.hlines(y, low[own], high[own], color=colour, linewidth=1.6)
            marker = page.CHANNEL_MARKERS.get(key, "o")
            axes.plot(values[own], y, marker, color=colour, markersize=5, label=CHANNELS.get(key))
        axes.set_yticks(list(lines.values()), list(lines))
        axes.set_ylim(len(lines) - 0.4, -0.6)
        kinds = " or ".join(dict.fromkeys(rows["effect_kind"])) if tested else "mm"
        axes.set_xlabel(kinds)
        if paired:
            axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return page.chart_uri(figure)


def draw_peaks(lesions: pd.DataFrame) -> str:
    """Return the peaks of FLAIR against those of T1w, one point a lesion, as a URI."""
    with page.chart(*_CHART_SIZE) as (figure, axes):
        page.zero_line(axes)
        axes.axvline(0, color=page.INK, linewidth=0.8, alpha=0.5, zorder=1)
        _scatter(axes, lesions["flair_peak"], lesions["t1w_peak"], page.PLAIN_COLOUR)
        axes.set_xlabel("peak saliency of FLAIR")
        axes.set_ylabel("peak saliency of T1w")
        return page.chart_uri(figure)


def _scatter(axes: Axes, x: Any, y: Any, colour: str) -> None:
    axes.scatter(
        x, y, s=16, color=colour, alpha=0.7, linewidths=0, rasterized=len(x) > _MAX_VECTOR_POINTS
    )


def _jitter(n: int) -> np.ndarray:
    """Return small shifts that keep points apart, the same in every run."""
    return np.random.default_rng(0).uniform(-0.18, 0.18, n)
