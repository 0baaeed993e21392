# SPDX-License-Identifier: Apache-2.0
"""The tables and the report over all visits of an output folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.sidecar import read_description
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, FILLS, OUTCOMES
from bids_lesion_xai.group.claims import ALPHA, claims
from bids_lesion_xai.group.collect import (
    MISSING,
    Collection,
    collect,
    is_compared,
    predicted_lesions,
    write_table,
)
from bids_lesion_xai.group.stats import (
    MIN_PARTICIPANTS,
    N_RESAMPLES,
    bootstrap_means,
    participant_means,
)
from bids_lesion_xai.reports import group_charts as charts
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.citation import ways
from bids_lesion_xai.reports.experiments import draw_experiments
from bids_lesion_xai.reports.methods import cited, numbered, reference
from bids_lesion_xai.reports.outliers import (
    LARGEST_DISTANCE,
    LEAST_VISITS,
    MEASURES,
    find_outliers,
)

# Outputs of each visit that a group table is made from, beside the table of its regions.
_SOURCES = {
    "group_lesions": ("saliency_table", "experiment_numbers"),
    "group_participants": ("saliency_table", "brain_mask", "preproc_flair"),
    "group_claims": ("saliency_table", "experiment_numbers"),
}
_INTERVAL_COLUMNS = (
    "flair_share",
    *(f"{channel}_{key}" for channel in CHANNELS for key, _ in page.PROFILE),
)
_BANDS = f"Bands: 95 % interval over participants, from {MIN_PARTICIPANTS} on."
# The table of lesions has so many at most: the largest.
_MAX_LESIONS = 1500


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
    found = claims(
        group.lesions,
        group.participants,
        covariates,
        units=group.units,
        has_sign=group.has_sign,
    )
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
    sources = [uri for visit in group.visits for uri in _sources(store, visit, key)]
    with tempfile.TemporaryDirectory() as folder:
        written = write_table(table, Path(folder, "table.tsv"))
        facts = {"Sources": sources, "Units": group.units}
        wanted = {name: facts[name] for name in DERIVATIVES[key].facts}
        return store.publish(key, written, wanted)


def _sources(store: Store, visit: Visit, key: str) -> list[str]:
    """Return the URIs of the outputs that a visit has and the group table `key` is made from."""
    regions = "region_table" if is_compared(store, visit) else "lesion_table"
    return [
        store.uri(name, visit)
        for name in (regions, *_SOURCES[key])
        if not DERIVATIVES[name].optional or store.path(name, visit).is_file()
    ]


def _content(store: Store, group: Collection, found: pd.DataFrame) -> dict[str, Any]:
    """Return the variables of the template."""
    lesions, visits = predicted_lesions(group.lesions), group.participants
    means = bootstrap_means(visits, _INTERVAL_COLUMNS)
    people = participant_means(visits, ("n_lesions", "lesion_volume_mm3"))
    rows: list[dict[str, Any]] = visits.to_dict("records")  # type: ignore[assignment]
    done = ways(store)
    keys = cited(done)
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
        "outcome_charts": _outcome_charts(group),
        "outcomes": OUTCOMES,
        "time_charts": _time_charts(visits),
        "outliers": _outliers(visits, [visit.name for visit in group.visits]),
        "least_visits": LEAST_VISITS,
        "largest_distance": LARGEST_DISTANCE,
        "compared": bool(group.lesions["outcome"].isin(list(OUTCOMES)).any()),
        "lesion_columns": DERIVATIVES["group_lesions"].columns,
        "lesions": _linked_lesions(store, group),
        "max_lesions": _MAX_LESIONS,
        "answers": [
            _answer(str(name), own) for name, own in found.groupby("question", sort=False)
        ],
        "alpha": ALPHA,
        "methods": [
            {"text": numbered(text, keys), "visits": [visit.name for visit in own]}
            for text, own in done.items()
        ],
        "references": [reference(key) for key in keys],
    }


def _linked_lesions(store: Store, group: Collection) -> list[dict[str, Any]]:
    """Return the largest lesions, each with its visit's name and the address in its report."""
    shown = group.lesions[group.lesions["outcome"] != "TN"]
    shown = shown.sort_values("volume_mm3", ascending=False, kind="stable").head(_MAX_LESIONS)
    visits = {
        (f"sub-{visit.participant}", f"ses-{visit.session}" if visit.session else MISSING): visit
        for visit in group.visits
    }
    links = {visit: _report_link(store, visit) for visit in group.visits}
    rows: list[dict[str, Any]] = shown.to_dict("records")  # type: ignore[assignment]
    found = []
    for row in rows:
        visit = visits[row["participant_id"], row["session_id"]]
        link = links[visit]
        name = f"{visit.name}_{row['name']}"
        found.append({"row": row, "name": name, "link": f"{link}#{row['name']}" if link else ""})
    return found


def _answer(question: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return what the template shows of a question."""
    known = rows[rows["low"].notna()]
    n_lines = known["contrast"].nunique()
    return {
        "question": question,
        "statements": known["statement"].tolist(),
        "untold": rows.loc[rows["low"].isna(), "statement"].tolist(),
        "chart": charts.draw_forest(known) if n_lines else "",
        "height": round(100 * (charts.FOREST_FRAME + charts.FOREST_LINE * n_lines)),
    }


def _report_link(store: Store, visit: Visit) -> str:
    """Return the file name of a visit's report, empty if there is none."""
    path = store.path("report", visit)
    return path.name if path.is_file() else ""


def _charts(lesions: pd.DataFrame, means: pd.DataFrame) -> dict[str, str]:
    return {
        "volumes": charts.draw_volumes(lesions),
        "shares": charts.draw_shares(lesions),
        "profile": charts.draw_profile(means),
        "peaks": charts.draw_peaks(lesions),
    }


def _outcome_charts(group: Collection) -> list[dict[str, str]]:
    """Return charts of the outcomes beside each other; none without a reference mask."""
    lesions = group.lesions
    if not lesions["outcome"].isin(list(OUTCOMES)).any():
        return []
    made = [
        {
            "name": f"outcome-{channel}",
            "title": f"Saliency of {name} around right and wrong detections",
            "caption": f"Mean saliency of {name} in the regions and in shells around them, by "
            f"outcome. {_BANDS}",
            "svg": charts.draw_outcome_profile(lesions, channel),
        }
        for channel, name in CHANNELS.items()
    ]
    context = group.experiments.get("perilesional")
    if context is not None and len(context):
        made += [
            {
                "name": f"context-{fill}",
                "title": f"Context that right and wrong detections need: {text}",
                "caption": "Mean lesion probability when only the lesion and a margin around it "
                f"are visible, by outcome; beyond the margin: {text}. {_BANDS}",
                "svg": charts.draw_outcome_margins(context, fill),
            }
            for fill, text in FILLS.items()
        ]
    return made


def _time_charts(visits: pd.DataFrame) -> list[dict[str, str]]:
    """Return the load of each participant, by session where somebody has several."""
    follows = visits["participant_id"].duplicated().any()
    draw = charts.draw_over_time if follows else charts.draw_people
    text = (
        "A line is a participant; sessions stand in the order of their names, in which numbers "
        "count as numbers."
        if follows
        else "A bar is a participant."
    )
    return [
        {
            "name": f"load-{column}",
            "title": title,
            "caption": text,
            "svg": draw(visits, column, label),
        }
        for column, title, label in (
            ("n_lesions", "Number of lesions", "lesions of a visit"),
            ("lesion_volume_mm3", "Volume of all lesions", "lesion volume of a visit, mm³"),
        )
    ]


def _outliers(visits: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return visits that stand out, each with its reasons in words."""
    found = find_outliers(visits)
    return [
        {
            "row": row,
            "name": names[row],
            "reasons": [
                f"{MEASURES[one['measure']].name} {page.number_text(one['value'])}, "
                f"{'below' if one['distance'] < 0 else 'above'} the usual (median "
                f"{page.number_text(one['median'])}) by "
                f"{page.number_text(abs(one['distance']), 2)} robust standard deviations"
                for one in own.to_dict("records")
            ],
        }
        for row in found["row"].unique().tolist()
        for own in (found[found["row"] == row],)
    ]
