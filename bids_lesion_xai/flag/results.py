# SPDX-License-Identifier: Apache-2.0
"""Tables, figure and report of what the flag is worth, and the flags of lesions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from bids_lesion_xai import __version__
from bids_lesion_xai.errors import OutputError
from bids_lesion_xai.flag.classifier import Flag, flag_probability, to_json
from bids_lesion_xai.flag.compare import (
    OVERALL,
    PRIMARY,
    Verdict,
    compare,
    false_lesions,
    judge,
    people_rows,
    score_rows,
)
from bids_lesion_xai.flag.features import BASELINE, FEATURES, SALIENCY, SETS
from bids_lesion_xai.flag.runs import IDS, Settings, found_lesions
from bids_lesion_xai.flag.scores import reliability
from bids_lesion_xai.flag.train import FEATURE_SET, FOLD, Cohort, cross_validate, train
from bids_lesion_xai.group.collect import write_table

# Told apart by colour-blind readers (Okabe and Ito, "Color universal design", 2008).
_COLOURS = {BASELINE: "#0072b2", SALIENCY: "#d55e00"}
_FLAG, _FLAGS = "flag.json", "flags.tsv"
# Of the table of scores, in the report.
_SHOWN = {
    "log_loss": "log loss",
    "brier": "Brier score",
    "auc": "area under the ROC curve",
    "average_precision": "average precision for false lesions",
    "calibration_error": "expected calibration error",
    "calibration_slope": "calibration slope (1 is right)",
    "calibration_intercept": "calibration intercept (0 is right)",
    "n_flagged": "flagged lesions",
    "n_flagged_false": "of them false",
    "precision_before": "precision before",
    "precision_after": "precision after",
    "recall_before": "recall before",
    "recall_after": "recall after",
    "f1_before": "F1 before",
    "f1_after": "F1 after",
}


@dataclass(frozen=True)
class Evaluation:
    """What classifiers are worth on people left out.

    Parameters
    ----------
    predictions : DataFrame
        Of `train.cross_validate`.
    scores, people, comparison : DataFrame
        Of `compare.score_rows`, `compare.people_rows` and `compare.compare`.
    verdict : Verdict
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    people: pd.DataFrame
    comparison: pd.DataFrame
    verdict: Verdict


def evaluate(cohort: Cohort, random_seed: int = 0) -> Evaluation:
    """Return what classifiers with both sets of features are worth on people left out.

    Parameters
    ----------
    cohort : Cohort
    random_seed : int
        Of the resampling of people; nothing else is random.
    """
    predictions, choices = cross_validate(cohort)
    people = people_rows(predictions)
    comparison = compare(people, random_seed)
    scores = score_rows(predictions, choices, cohort.missed)
    return Evaluation(predictions, scores, people, comparison, judge(comparison))


def final_flag(cohort: Cohort, evaluation: Evaluation, settings: Settings, seed: int) -> Flag:
    """Return the classifier that is trained on everybody, with what a reader should know of it.

    Parameters
    ----------
    cohort : Cohort
    evaluation : Evaluation
    settings : mapping
        Of the runs; see `runs.read_settings`.
    seed : int
    """
    scores = evaluation.scores
    overall = scores[(scores[FOLD] == OVERALL) & (scores[FEATURE_SET] == SALIENCY)].iloc[0]
    facts = {
        "beats_baseline": evaluation.verdict.beats,
        "verdict": evaluation.verdict.text,
        "trained_on": cohort.people,
        "n_lesions": len(cohort.table),
        "n_false": int(cohort.false.sum()),
        "settings": dict(settings),
        "on_left_out_people": {key: _plain(overall[key]) for key in _SHOWN},
        "random_seed": seed,
        "versions": {
            "bids_lesion_xai": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    return replace(train(cohort, SETS[SALIENCY]), facts=facts)


def _plain(value: float) -> float | int | None:
    """Return a number as JSON knows it; it has no NaN."""
    if np.isnan(value):
        return None
    return int(value) if isinstance(value, (int, np.integer)) else float(value)


def write_evaluation(folder: Path, evaluation: Evaluation, flag: Flag, *, keep: bool) -> None:
    """Write tables, figure and report, and the classifier if it is kept.

    Parameters
    ----------
    folder : Path
        Receives `scores.tsv`, `people.tsv`, `comparison.tsv`, `predictions.tsv`, `flag.png` and
        `report.md`, and `flag.json`; one of an earlier run is removed.
    evaluation : Evaluation
    flag : Flag
    keep : bool

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    tables = {
        "scores": evaluation.scores,
        "people": evaluation.people,
        "comparison": evaluation.comparison.reset_index(),
        "predictions": evaluation.predictions,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FLAG).unlink(missing_ok=True)
        for name, table in tables.items():
            write_table(table, folder / f"{name}.tsv")
        draw(evaluation.predictions).savefig(folder / "flag.png", dpi=150)
        (folder / "report.md").write_text(report(evaluation, flag, keep=keep), encoding="utf-8")
        if keep:
            (folder / _FLAG).write_text(to_json(flag), encoding="utf-8")
    except OSError as error:
        raise _not_written(folder, error) from error


def write_flags(folder: Path, lesions: pd.DataFrame, flag: Flag) -> pd.DataFrame:
    """Write and return the probability of being false of each lesion that was found.

    Parameters
    ----------
    folder : Path
        Receives `flags.tsv`.
    lesions : DataFrame
        Of `runs.read_lesions`.
    flag : Flag

    Raises
    ------
    OutputError
        The folder cannot be written.
    DataError
        A column that the classifier needs is missing.
    """
    found = found_lesions(lesions)
    probability = flag_probability(flag, found)
    table = found[list(IDS)].assign(false_probability=probability, flagged=probability > flag.cut)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_table(table, folder / _FLAGS)
    except OSError as error:
        raise _not_written(folder, error) from error
    return table


def _not_written(folder: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{folder} cannot be written ({reason}). Check folder and free space.")


def draw(predictions: pd.DataFrame) -> Figure:
    """Return the ROC and the reliability curves of both sets of features, on people left out."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    roc, calibration = figure.subplots(1, 2)
    false = false_lesions(predictions)
    for name, colour in _COLOURS.items():
        probability = predictions[f"probability_{name}"].to_numpy(dtype=float)
        true_flagged, false_flagged, _ = roc_curve(false, probability)
        roc.plot(true_flagged, false_flagged, color=colour, label=name)
        bins = pd.DataFrame(reliability(probability, false))
        line = bins["probability"], bins["false_part"]
        calibration.plot(*line, marker="o", color=colour, label=name)
    _finish(roc, "ROC", "part of the true lesions flagged", "part of the false lesions flagged")
    _finish(calibration, "Calibration", "predicted probability", "part of the lesions false")
    return figure


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title, xlabel=x, ylabel=y)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)


def report(evaluation: Evaluation, flag: Flag, *, keep: bool) -> str:
    """Return the report in Markdown."""
    return "\n".join([*_head(evaluation, keep=keep), *_results(evaluation), *_classifier(flag)])


def _head(evaluation: Evaluation, *, keep: bool) -> Iterator[str]:
    false = false_lesions(evaluation.predictions)
    kept = f"is in `{_FLAG}`" if keep else "is not kept (`--keep-anyway` keeps it)"
    yield "# Are false lesions told by their saliency?"
    yield ""
    yield f"**{evaluation.verdict.text}**"
    yield f"The classifier with saliency that is trained on all people {kept}."
    yield ""
    yield (
        f"{false.size} lesions of {len(evaluation.people)} people, {int(false.sum())} of them "
        "false. Everything below is on people whom a classifier has not seen: each person is "
        "left out with all lesions, and strength of the regularisation and cut are chosen on "
        "people left out among the others. What decides was fixed in advance: the log loss, "
        "averaged over the lesions of a person, then over people; the whole 95 % interval of the "
        "difference (people resampled) must be below 0. The interval does not hold how much a "
        "classifier would change with other people to learn from."
    )
    yield ""


def _results(evaluation: Evaluation) -> Iterator[str]:
    yield "## Saliency against volume and probability alone"
    yield ""
    yield from _row("mean over people", *SETS, "difference", "95 % interval", "people")
    yield from _row(*["---"] * 6)
    for measure, row in evaluation.comparison.to_dict("index").items():
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
        values = (*(f"{row[name]:.4f}" for name in SETS), f"{row['difference']:+.4f}")
        shown = "none" if np.isnan(row["low"]) else interval
        text = _SHOWN[str(measure)] + (" (decides)" if measure == PRIMARY else "")
        yield from _row(text, *values, shown, f"{row['n_people']:.0f}")
    yield ""
    yield "All lesions together; before and after the flagged ones are dropped:"
    yield ""
    together = evaluation.scores[evaluation.scores[FOLD] == OVERALL]
    overall = together.set_index(FEATURE_SET)[list(_SHOWN)].to_dict("index")
    yield from _row("figure", *SETS)
    yield from _row(*["---"] * 3)
    for key, text in _SHOWN.items():
        pattern = ".0f" if key.startswith("n_") else ".3f"
        yield from _row(text, *(_figure(overall[name][key], pattern) for name in SETS))
    yield ""
    yield "![ROC and reliability curves](flag.png)"
    yield ""


def _figure(value: float, pattern: str) -> str:
    return "n/a" if np.isnan(value) else format(value, pattern)


def _classifier(flag: Flag) -> Iterator[str]:
    yield "## The classifier with saliency"
    yield ""
    yield (
        f"Strength C {flag.strength:g}, saliency weighs {flag.weight:g}, intercept "
        f"{flag.intercept:.3f}; lesions are flagged above {flag.cut:g}. Coefficients are changes "
        "of the log-odds of being false for each standard deviation; features that say the same "
        "share theirs."
    )
    yield ""
    yield from _row("feature", "meaning", "coefficient")
    yield from _row(*["---"] * 3)
    pairs = zip(flag.features, flag.coefficients, strict=True)
    for name, coefficient in sorted(pairs, key=lambda pair: -abs(pair[1])):
        yield from _row(f"`{name}`", FEATURES[name].text, f"{coefficient:+.3f}")
    yield ""


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
