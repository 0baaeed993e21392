# SPDX-License-Identifier: Apache-2.0
"""Writes the numbers and figures of docs/example.md anew, from the folder of docs/example.sh.

python docs/example.py FOLDER
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, FILLS, SHELLS_MM
from bids_lesion_xai.group.claims import ALPHA
from bids_lesion_xai.group.collect import Collection, collect, predicted_lesions, read_table
from bids_lesion_xai.group.models import Estimate, mean_of_people
from bids_lesion_xai.imaging import nifti

DOCS = Path(__file__).parent
# Mean probability of the U-Net's lesions by visible margin (read off a figure that was published
# with the code of Spagnolo et al. 2026); the margin grows by voxels there, with zeros beyond.
PUBLISHED_CURVE = dict(
    zip(range(1, 9), (0.03, 0.19, 0.45, 0.63, 0.74, 0.83, 0.88, 0.91), strict=True)
)
PUBLISHED_MARGIN_MM = 7
# Of synthetic lesions that tell what is needed: strong, and of a size that fits into most people.
CONTRAST, DIAMETER_MM = 2.0, 5.0
COLOURS = {"flair": "#0072b2", "t1w": "#d55e00", "both": "#444444"}
OUTCOME_COLOURS = {"TP": "#009e73", "FP": "#d55e00", "FN": "#cc79a7", "TN": "#999999"}


@dataclass(frozen=True)
class Run:
    """What the example left behind."""

    store: Store
    group: Collection
    claims: pd.DataFrame
    flag: Path

    @property
    def predicted(self) -> pd.DataFrame:
        """The lesions that were found."""
        return predicted_lesions(self.group.lesions)

    def experiment(self, name: str) -> pd.DataFrame:
        """Return the rows of an experiment: of lesions that were found, or of no lesion."""
        rows = self.group.experiments[name]
        keys = ["participant_id", "session_id", "index"]
        return rows.merge(self.predicted[keys]) if "index" in rows else rows

    def claim(self, measure: str, contrast: str = "") -> pd.Series:
        """Return the claim on `measure`, the only one or that of `contrast`."""
        rows = self.claims[self.claims["measure"] == measure]
        return (rows[rows["contrast"] == contrast] if contrast else rows).iloc[0]


def read_run(folder: Path) -> Run:
    """Return what is in the folder of docs/example.sh."""
    store = Store(folder / "output")
    claims = read_table(store.path("group_claims"))
    return Run(store, collect(store), claims, folder / "flag")


def markdown(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(value: float, digits: int = 2) -> str:
    """Return a number, or what stands for a missing one."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def interval(found: Estimate, digits: int = 2) -> str:
    """Return an estimate with its interval, if there is one."""
    value = text(found.value, digits)
    if "same value" in found.reason:
        return f"{value} in everybody"
    if found.reason:
        return f"{value} (no interval)"
    return f"{value} ({text(found.low, digits)} to {text(found.high, digits)})"


def stated(claim: pd.Series, digits: int = 2) -> str:
    """Return the estimate of a claim with its interval."""
    reason = "no interval" if np.isnan(claim["low"]) else ""
    limits = (claim["estimate"], claim["low"], claim["high"])
    return interval(Estimate(*limits, reason=reason), digits)


def verdict(claim: pd.Series, *, above: bool, null: float = 0.0) -> str:
    """Return whether a claim is what was published: an estimate `above` its null value or not."""
    sure = claim["p_holm"] < ALPHA
    if (claim["estimate"] > null) != above:
        return "no, the opposite" if sure else "no"
    apart = claim["low"] > null or claim["high"] < null
    return "yes" if sure else "yes, but not corrected" if apart else "direction only"


# The tables of docs/example.md.


def table_visits(run: Run) -> str:
    """Return one row a visit: lesions by outcome, and their volume."""
    keys = ["participant_id", "session_id"]
    names = ["TP", "FP", "FN", "TN"]
    lesions = run.group.lesions.fillna({"session_id": "n/a"})
    counts = pd.crosstab([lesions[key] for key in keys], lesions["outcome"])
    counts = counts.reindex(columns=names, fill_value=0)
    visits = run.group.participants.fillna({"session_id": "n/a"}).set_index(keys)
    header = ["visit", *names, "volume (mL)", "median lesion (mm³)", "minutes of one core"]
    minutes = _minutes(run)
    rows = (
        [
            " ".join(part for part in visit if part != "n/a"),
            *(str(counts.loc[visit, name]) for name in names),
            text(row["lesion_volume_mm3"] / 1000, 1),
            text(row["median_lesion_volume_mm3"], 0),
            text(minutes["_".join(part for part in visit if part != "n/a")], 1),
        ]
        for visit, row in visits.iterrows()
    )
    model = run.store.facts("lesion_labels", run.group.visits[0])["Model"]
    named = f"Model: {model['Name']} {model['Version']}, SHA-256 {model['SHA256'][:12]}..."
    return f"{markdown(header, rows)}\n\n{named}"


def _minutes(run: Run) -> dict[str, float]:
    """Return the processor time of each visit, from the run that completed it."""
    found = {}
    for path in sorted(run.store.root.glob("logs/*_resources.tsv")):
        for visit, steps in read_table(path).groupby("visit"):
            if "complete" in set(steps["step"]):
                found[visit] = steps["cpu_seconds"].sum() / 60
    return found


def table_findings(run: Run) -> str:
    """Return one row a published finding: what was found here, and whether it is the same."""
    header = ["published", "here", "reproduced"]
    parts = (_image, _place, _outcomes, _standardised, _context, _synthetic, _flag)
    return markdown(header, (row for part in parts for row in part(run)))


def _image(run: Run) -> Iterator[list[str]]:
    claim = run.claim("flair_share")
    flair, t1w = (mean_of_people(run.predicted, f"channel_{name}_drop") for name in CHANNELS)
    yield [
        "FLAIR outweighs T1w",
        f"FLAIR holds {stated(claim)} of the absolute saliency. A lesion loses {interval(flair)} "
        f"of probability without FLAIR, {interval(t1w)} without T1w",
        verdict(claim, above=True, null=0.5),
    ]


def _place(run: Run) -> Iterator[list[str]]:
    inside = run.claim("flair_mean_inside")
    yield [
        "FLAIR saliency is positive inside a lesion",
        f"mean {stated(inside, 3)}",
        verdict(inside, above=True),
    ]
    shells = [run.claim(f"flair_mean_shell_{mm}mm") for mm in SHELLS_MM]
    found = "; ".join(f"{claim['contrast']}: {stated(claim, 4)}" for claim in shells)
    negative = [claim["contrast"] for claim in shells if claim["high"] < 0]
    answer = verdict(shells[0], above=False)
    if answer.startswith("no") and negative:
        answer = f"in part, not corrected: at {', '.join(negative)}"
    yield ["... and negative close around it", found, answer]


def _outcomes(run: Run) -> Iterator[list[str]]:
    """Yield the contrasts of right with false, missed and no lesions, adjusted and not."""
    for contrast in ("TP – FP", "TP – FN", "TP – TN", "FP – FN", "FP – TN", "FN – TN"):
        rows = run.claims[run.claims["contrast"].isin([contrast, f"{contrast}, adjusted"])]
        rows = rows[rows["measure"] == "flair_peak"]
        if rows.empty:
            continue
        plain, adjusted = (
            rows[rows["contrast"].str.endswith("adjusted") == way] for way in (0, 1)
        )
        first, second = contrast.split(" – ")
        medians = _medians(run.group.lesions.assign(peak=run.group.lesions["flair_peak"].abs()))
        both = medians[[first, second]].dropna()
        higher = int((both[first] > both[second]).sum())
        own = plain.iloc[0]
        same = text(adjusted.iloc[0]["estimate"], 3) if len(adjusted) else "–"
        yield [
            f"peak FLAIR saliency of {first} and {second} differs",
            f"difference {stated(own, 3)}; of equal volume and probability {same}; the median of "
            f"{first} is higher in {higher} of {len(both)} people",
            "cannot be told" if np.isnan(own["low"]) else "yes" if own["p_holm"] < ALPHA else "no",
        ]


def _medians(lesions: pd.DataFrame) -> pd.DataFrame:
    """Return the median of ``peak`` of each outcome (columns) in each person."""
    medians = lesions.pivot_table("peak", "participant_id", "outcome", "median")
    return medians.reindex(columns=list(OUTCOME_COLOURS))


def _standardised(run: Run) -> Iterator[list[str]]:
    """Yield the peaks in standard deviations of the whole map, as RadiomXAI takes them."""
    lesions = run.predicted.assign(peak=np.nan)
    for place, row in lesions.iterrows():
        visit = _visit(row)
        grid = nifti.load(run.store.path("lesion_labels", visit))[1]
        path = run.store.path("lesion_saliency_flair", visit, row["name"])
        values = nifti.load(path)[0].astype(np.float64)
        n_voxels = np.prod(grid.shape)
        mean = values.sum() / n_voxels
        deviation = np.sqrt((values**2).sum() / n_voxels - mean**2)
        lesions.loc[place, "peak"] = (values.max() - mean) / deviation
    medians = _medians(lesions)[["TP", "FP"]].dropna()
    higher = int((medians["FP"] > medians["TP"]).sum())
    yield [
        "in standard deviations of the whole map, FLAIR peaks of FP are higher than those of TP "
        "(about 690 and 570)",
        f"mean of people {text(medians['FP'].mean(), 0)} and {text(medians['TP'].mean(), 0)}; "
        f"higher in {higher} of {len(medians)} people",
        "direction only" if medians["FP"].mean() > medians["TP"].mean() else "no",
    ]


def _visit(row: pd.Series) -> Visit:
    session = row["session_id"]
    return Visit(
        row["participant_id"].removeprefix("sub-"),
        session.removeprefix("ses-") if isinstance(session, str) and session != "n/a" else None,
    )


def _context(run: Run) -> Iterator[list[str]]:
    curve = run.experiment("perilesional")
    detected = {
        mm: mean_of_people(
            curve[(curve["fill"] == "zero") & (curve["margin_mm"] == mm)], "detected"
        )
        for mm in (0, 1, PUBLISHED_MARGIN_MM)
    }
    settled = {
        fill: run.claim(f"settled_95_{fill}_mm", f"95 % of probability, {fill}") for fill in FILLS
    }
    zero = settled["zero"]
    margins = "; ".join(
        f"beyond it {name}: {stated(settled[fill], 1)}" for fill, name in FILLS.items()
    )
    answers = {
        "cannot be told": np.isnan(zero["low"]),
        "no, more": zero["low"] > PUBLISHED_MARGIN_MM,
        "no, less": zero["high"] < PUBLISHED_MARGIN_MM,
        "not contradicted": True,
    }
    yield [
        f"{PUBLISHED_MARGIN_MM} mm around the border are required (zeros beyond)",
        f"95 % of the probability from this margin on, in mm: {margins}. Share of lesions "
        "detected, zeros beyond: "
        + "; ".join(f"{mm} mm: {interval(found)}" for mm, found in detected.items()),
        next(answer for answer, holds in answers.items() if holds),
    ]


def _synthetic(run: Run) -> Iterator[list[str]]:
    rows = run.experiment("synthetic")
    strong = rows[(rows["contrast"] == CONTRAST) & (rows["diameter_mm"] == DIAMETER_MM)]
    strong = strong.assign(detected=strong["detected"].astype(float))

    def share(channel: str, margin_mm: float) -> Estimate:
        own = strong[(strong["channel"] == channel) & (strong["margin_mm"] == margin_mm)]
        return mean_of_people(own, "detected")

    whole = {name: share(name, np.inf) for name in ("flair", "t1w", "both")}
    alone = {name: share(name, 0.0) for name in ("flair", "both")}
    needs_flair = min(whole["flair"].value, whole["both"].value) - whole["t1w"].value > 0.5
    needs_tissue = min(whole[name].value - alone[name].value for name in alone) > 0.5
    yield [
        "of synthetic lesions, those are detected that are brighter on FLAIR and lie in normal "
        "tissue",
        f"detected ({DIAMETER_MM:.0f} mm, {CONTRAST:.0f} SD): FLAIR {interval(whole['flair'])}, "
        f"T1w {interval(whole['t1w'])}, both {interval(whole['both'])}; with zeros right "
        f"beyond the lesion, FLAIR {interval(alone['flair'])}, both {interval(alone['both'])}",
        "yes"
        if needs_flair and needs_tissue
        else "in part"
        if needs_flair or needs_tissue
        else "no",
    ]


def _flag(run: Run) -> Iterator[list[str]]:
    scores = read_table(run.flag / "scores.tsv")
    overall = scores[scores["fold"].astype(str) == "overall"].set_index("features")
    comparison = read_table(run.flag / "comparison.tsv").set_index("measure")
    numbers = "; ".join(
        f"{name}: F1 {text(overall.loc[name, 'f1_before'], 3)} → "
        f"{text(overall.loc[name, 'f1_after'], 3)}, log loss "
        f"{text(comparison.loc['log_loss', name], 3)}"
        for name in ("baseline", "saliency")
    )
    yield [
        "a classifier of saliency features raises the lesion F1 (0.70 to 0.75; no baseline was "
        "published)",
        f"on people left out, {numbers}",
        (run.flag / "report.md").read_text(encoding="utf-8").split("**")[1].split(":")[0].lower(),
    ]


def table_context(run: Run) -> str:
    """Return mean probability and share detected by visible margin."""
    curve = run.experiment("perilesional")
    header = [
        "visible margin (mm)",
        *(f"probability, {name}" for name in FILLS.values()),
        "published, zeros",
        "detected, zeros",
    ]

    def rows() -> Iterator[list[str]]:
        for mm in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16):
            at = curve[curve["margin_mm"] == mm]
            means = [mean_of_people(at[at["fill"] == fill], "mean_probability") for fill in FILLS]
            detected = mean_of_people(at[at["fill"] == "zero"], "detected")
            published = text(PUBLISHED_CURVE.get(mm, np.nan))
            yield [str(mm), *map(interval, means), published, interval(detected)]

    return markdown(header, rows())


def table_checks(run: Run) -> str:
    """Return what the experiments say of the maps themselves."""
    lesions = run.predicted
    measures = {
        "deletion_auc_saliency": "deletion along the saliency (lower is better)",
        "deletion_auc_intensity": "deletion along the intensity",
        "deletion_auc_random": "deletion at random",
        "insertion_auc_saliency": "insertion along the saliency (higher is better)",
        "insertion_auc_intensity": "insertion along the intensity",
        "insertion_auc_random": "insertion at random",
        "randomisation_spearman_first": "rank correlation, last layer redrawn",
        "randomisation_spearman_all": "rank correlation, all layers redrawn",
    }
    rows = (
        [name, interval(mean_of_people(lesions, column)), str(int(lesions[column].notna().sum()))]
        for column, name in measures.items()
    )
    return markdown(["measure", "mean of people", "lesions"], rows)


def table_claims(run: Run) -> str:
    """Return what the group level says, in its own words, where it has an interval."""
    known = run.claims[run.claims["low"].notna()]
    rows = (
        [claim["question"], claim["contrast"], claim["measure"], claim["statement"]]
        for _, claim in known.iterrows()
    )
    table = markdown(["question", "contrast", "measure", "statement"], rows)
    left = len(run.claims) - len(known)
    return f"{table}\n\n{left} claims more have no interval; `group_claims.tsv` says why."


# The figures of docs/example.md.


def draw_lesions(run: Run) -> None:
    """Save what the reports show of a right and of a false detection."""
    lesions = run.predicted
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        # Higher than any article, for the page depends on the height of the window.
        page = browser.new_page(viewport={"width": 1280, "height": 1800}, color_scheme="light")
        for outcome, name in (("TP", "right"), ("FP", "false")):
            own = lesions[lesions["outcome"] == outcome]
            # The upper quartile by volume, so that nothing is picked by hand.
            row = own.sort_values("volume_mm3", kind="stable").iloc[3 * len(own) // 4]
            page.goto(run.store.path("report", _visit(row)).resolve().as_uri())
            # Articles are drawn, and change their height, when they come into view.
            page.add_style_tag(
                content="article {content-visibility: visible !important}"
                f"article:not(#{row['name']}) {{display: none}}"
            )
            shot = page.locator(f"article#{row['name']}").screenshot()
            with Image.open(io.BytesIO(shot)) as image:
                few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
                few.save(DOCS / f"example_{name}.png", optimize=True)
        browser.close()


def draw_numbers(run: Run) -> None:
    """Save the charts."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    charts = (
        _draw_profile,
        _draw_peaks,
        _draw_context,
        _draw_synthetic,
        _draw_orders,
        _draw_layers,
    )
    for axes, draw in zip(figure.subplots(2, 3).ravel(), charts, strict=True):
        draw(run, axes)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "example_numbers.png", dpi=90)


def _people_curve(table: pd.DataFrame, key: str, column: str) -> pd.Series:
    """Return the mean over people of their means, by `key`."""
    return table.groupby([key, "participant_id"])[column].mean().groupby(level=0).mean()


def _draw_profile(run: Run, axes: Axes) -> None:
    for channel, name in CHANNELS.items():
        parts = []
        for visit in run.group.visits:
            profile = read_table(run.store.path("saliency_profile", visit))
            own = run.predicted[_is_of(run.predicted, visit)]["index"]
            rows = profile[(profile["channel"] == channel) & profile["index"].isin(own)]
            middle = (rows["near_mm"] + rows["far_mm"]) / 2
            parts.append(rows.assign(participant_id=visit.participant, middle_mm=middle))
        curve = _people_curve(pd.concat(parts), "middle_mm", "mean")
        curve = curve[curve.index.to_series().between(-3, 10)]
        axes.plot(curve.index, curve, color=COLOURS[channel], label=name)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set(title="saliency", xlabel="distance from the border, mm", ylabel="logit per SD")
    axes.legend(frameon=False)


def _is_of(lesions: pd.DataFrame, visit: Visit) -> pd.Series:
    session = f"ses-{visit.session}" if visit.session else "n/a"
    is_session = lesions["session_id"].fillna("n/a") == session
    return (lesions["participant_id"] == f"sub-{visit.participant}") & is_session


def _draw_peaks(run: Run, axes: Axes) -> None:
    lesions = run.group.lesions
    people = sorted(lesions["participant_id"].unique())
    for place, (outcome, colour) in enumerate(OUTCOME_COLOURS.items()):
        for step, person in enumerate(people):
            own = lesions[(lesions["outcome"] == outcome) & (lesions["participant_id"] == person)]
            peaks = own["flair_peak"].abs()
            x = place + 0.18 * (step - (len(people) - 1) / 2)
            axes.plot(np.full(len(peaks), x), peaks, ".", color=colour, alpha=0.3, markersize=4)
            axes.plot(x, peaks.median(), "_", color="black", markersize=9)
    axes.set_xticks(range(len(OUTCOME_COLOURS)), list(OUTCOME_COLOURS))
    axes.set(title="peak of FLAIR; a column a person", ylabel="logit per SD", yscale="log")


def _draw_context(run: Run, axes: Axes) -> None:
    curve = run.experiment("perilesional")
    for (fill, name), line in zip(FILLS.items(), ("-", "--", ":"), strict=True):
        means = _people_curve(curve[curve["fill"] == fill], "margin_mm", "mean_probability")
        axes.plot(means.index, means, line, color="black", label=name)
    axes.plot(*zip(*PUBLISHED_CURVE.items(), strict=True), "o", color="#cc79a7", label="published")
    axes.set(title="context", xlabel="visible margin, mm", ylabel="probability", xlim=(0, 20))
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="upper right", fontsize=8)


def _draw_synthetic(run: Run, axes: Axes) -> None:
    rows = run.experiment("synthetic")
    rows = rows[rows["diameter_mm"] == DIAMETER_MM]
    for channel, name in {**CHANNELS, "both": "both"}.items():
        for margin_mm, line in ((np.inf, "-"), (0.0, ":")):
            own = rows[(rows["channel"] == channel) & (rows["margin_mm"] == margin_mm)]
            means = _people_curve(own, "contrast", "mean_probability")
            label = name if line == "-" else None
            axes.plot(means.index, means, line, color=COLOURS[channel], label=label)
    axes.set(
        title=f"synthetic, {DIAMETER_MM:.0f} mm (dotted: zeros around)", xlabel="contrast, SD"
    )
    axes.set(ylabel="probability", ylim=(0, 1))
    axes.legend(frameon=False)


def _draw_orders(run: Run, axes: Axes) -> None:
    table = run.experiment("faithfulness")
    ids = ["participant_id", "session_id", "index"]
    table = table.fillna({"session_id": "n/a"})
    ends = table[table["mode"] == "deletion"].set_index(ids)
    whole, empty = (ends[ends["share"] == share]["mean_logit"] for share in (0, 1))
    whole, empty = (end.groupby(level=[0, 1, 2]).first() for end in (whole, empty))
    table = table.join(whole.rename("whole"), on=ids).join(empty.rename("empty"), on=ids)
    table["scaled"] = (table["mean_logit"] - table["empty"]) / (table["whole"] - table["empty"])
    colours = {"saliency": "#0072b2", "intensity": "#d55e00", "random": "0.5"}
    for order, colour in colours.items():
        for mode, line in (("deletion", "-"), ("insertion", "--")):
            own = table[(table["order"] == order) & (table["mode"] == mode) & (table["share"] > 0)]
            means = own.groupby("share")["scaled"].median()
            axes.plot(means.index, means, line, color=colour, label=order if line == "-" else None)
    axes.set(title="deletion, insertion (dashed); medians", xscale="log", xlabel="share of values")
    axes.set(ylabel="logit, 1 of the image", ylim=(-0.1, 1.3))
    axes.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)


def _draw_layers(run: Run, axes: Axes) -> None:
    table = run.experiment("randomisation")
    for column, name in (("spearman", "ranks of magnitudes"), ("pearson", "signed values")):
        means = _people_curve(table, "n_layers", column)
        axes.plot(means.index, means, "o-", markersize=3, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(title="similarity of maps", xlabel="layers redrawn, from the output on")
    axes.set(ylabel="correlation")
    axes.legend(frameon=False)


TABLES: dict[str, Callable[[Run], str]] = {
    "visits": table_visits,
    "findings": table_findings,
    "context": table_context,
    "checks": table_checks,
    "claims": table_claims,
}


def write(tables: Mapping[str, str], page: Path) -> None:
    """Replace what stands between the marks of each table in `page`."""
    content = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin (docs/example.py) -->", f"<!-- {name}: end -->"
        before, found, rest = content.partition(begin)
        if not found:
            message = f"{page} has no place for the table {name}."
            raise ValueError(message)
        content = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    page.write_text(content, encoding="utf-8")


def main() -> None:
    """Write tables and figures."""
    parser = argparse.ArgumentParser(prog="python docs/example.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="what docs/example.sh wrote")
    run = read_run(parser.parse_args().folder)
    draw_lesions(run)
    draw_numbers(run)
    write({name: table(run) for name, table in TABLES.items()}, DOCS / "example.md")


if __name__ == "__main__":
    main()
