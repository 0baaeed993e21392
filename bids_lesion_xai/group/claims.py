# SPDX-License-Identifier: Apache-2.0
"""What the explanations of a group say, each claim with its interval and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from bids_lesion_xai.conventions import CHANNELS, FILLS, SHELLS_MM
from bids_lesion_xai.group.models import (
    Estimate,
    contrast_of_outcomes,
    difference_of_levels,
    mean_of_people,
    one_sample,
    slope,
)
from bids_lesion_xai.group.stats import participant_means
from bids_lesion_xai.group.trends import PEAKS, VOLUME_CHANGE, changes

IMAGE = "Does FLAIR outweigh T1w?"
PLACE = "Is saliency positive inside a lesion and negative around it?"
OUTCOMES = "Do right and wrong detections differ in peak saliency?"
CONTEXT = "How much context is needed?"
CHANGE = "Do lesions change between sessions?"
ADJUSTED = "adjusted"

ALPHA = 0.05
# Numbers of people and visits that covariates are compared in; those that are logarithms to base 2
# of one more than themselves, so that no lesion is 0 and a step is a doubling.
OF_PEOPLE = ("flair_share", "flair_mean_inside", "n_lesions", "lesion_volume_mm3")
_DOUBLINGS = ("n_lesions", "lesion_volume_mm3")

_OUTCOME_NAMES = {
    "TP": "right detections (TP)",
    "FP": "false detections (FP)",
    "FN": "missed lesions (FN)",
    "TN": "control regions (TN)",
}
COLUMNS = (
    *("question", "contrast", "measure", "units", "estimate", "low", "high"),
    *("effect_kind", "effect", "effect_low", "effect_high", "p", "p_holm"),
    *("n_participants", "n_lesions", "model", "statement"),
)

_OF_PEOPLE_NAMES = {
    "flair_share": "the FLAIR share",
    "flair_mean_inside": "the mean saliency of FLAIR inside lesions",
    "n_lesions": "the number of lesions",
    "lesion_volume_mm3": "the volume of all lesions",
}
_NO_OVERLAP = "the two have no range of probability in common"
_T = "mean over participants, Student's t"
_DZ = "Cohen's dz"


@dataclass(frozen=True)
class Claim:
    """An answer to a question.

    Parameters
    ----------
    question, contrast : str
        `contrast` tells the claims of a question apart, together with `measure`.
    measure : str
        Column that it is about.
    units : str
    estimate : Estimate
    effect_kind : str
        Empty if there is no effect size.
    model : str
        In words.
    subject : str
        What `estimate` is, in words; a clause that its value follows.
    more, less, none : str
        What is found if `estimate` is above its null value, below it, or neither; `more` is empty
        where nothing is tested.
    remark : str
        A sentence that limits what is said.
    """

    question: str
    contrast: str
    measure: str
    units: str
    estimate: Estimate
    effect_kind: str
    model: str
    subject: str
    more: str = ""
    less: str = ""
    none: str = ""
    remark: str = ""
    null: float = 0.0


def claims(
    lesions: pd.DataFrame,
    visits: pd.DataFrame | None = None,
    covariates: pd.DataFrame | None = None,
    *,
    units: str = "",
    has_sign: bool = True,
) -> pd.DataFrame:
    """Return one row a claim; what the tables have no columns or values for is left out.

    Parameters
    ----------
    lesions : DataFrame
        The output ``group_lesions``. Claims on lesions are made of rows without ``outcome``, or
        with TP or FP; with a column ``match`` also on changes, see `bids_lesion_xai.group.trends`.
    visits : DataFrame
        The output ``group_participants``, for `covariates` and for the sessions of each person;
        without it, sessions are those that show a lesion.
    covariates : DataFrame
        One row a participant with ``participant_id`` as its index. Columns of numbers give slopes,
        others levels that are compared in pairs.
    units : str
        Of saliency.
    has_sign : bool
        Whether its sign says anything of the images; without, nothing is claimed of it.

    Returns
    -------
    DataFrame
        With the columns of the output ``group_claims``. ``p_holm`` is corrected over the claims of
        one question.
    """
    predicted = lesions
    if "outcome" in lesions:
        predicted = lesions[~lesions["outcome"].isin(["FN", "TN"])]
    made = [
        *_claims_of_image(predicted),
        *(_claims_of_place(predicted, units) if has_sign else ()),
        *_claims_of_outcomes(lesions, units),
        *_claims_of_context(predicted),
        *_claims_of_change(predicted, visits, units),
        *_claims_of_covariates(visits, covariates, units),
    ]
    return _table(made)


def _claims_of_image(lesions: pd.DataFrame) -> Iterator[Claim]:
    if not _has(lesions, "flair_share"):
        return
    yield Claim(
        *(IMAGE, "FLAIR share – 0.5", "flair_share", ""),
        *(mean_of_people(lesions, "flair_share", 0.5), _DZ, _T),
        "the share of FLAIR in the absolute saliency of a lesion is",
        "FLAIR outweighs T1w",
        "T1w outweighs FLAIR",
        "either image outweighs the other",
        _left_out(lesions, "flair_share"),
        0.5,
    )


def _claims_of_place(lesions: pd.DataFrame, units: str) -> Iterator[Claim]:
    places = {"mean_inside": ("inside", "inside lesions")}
    for inner, outer in zip((0, *SHELLS_MM), SHELLS_MM, strict=False):
        label = f"{inner}–{outer} mm"
        places[f"mean_shell_{outer}mm"] = (label, f"{inner} to {outer} mm around lesions")
    for channel, name in CHANNELS.items():
        for key, (label, where) in places.items():
            column = f"{channel}_{key}"
            if _has(lesions, column):
                yield Claim(
                    *(PLACE, label, column, units),
                    *(mean_of_people(lesions, column), _DZ, _T),
                    "its mean is",
                    f"saliency of {name} is positive {where}",
                    f"saliency of {name} is negative {where}",
                    f"saliency of {name} {where} differs from 0 on average",
                    _left_out(lesions, column),
                )


def _claims_of_outcomes(lesions: pd.DataFrame, units: str) -> Iterator[Claim]:
    if "outcome" not in lesions:
        return
    table = lesions
    ways = [False]
    if {"volume_mm3", "mean_probability"} <= set(lesions):
        volumes = lesions["volume_mm3"].astype(float)
        table = lesions.assign(log_volume=np.log(volumes.where(volumes > 0)))
        ways = [False, True]
    # A peak has the sign of whatever is largest, which may change with the noise.
    magnitudes = {column: table[column].abs() for column in PEAKS if column in table}
    table = table.assign(**magnitudes)
    found = [name for name in _OUTCOME_NAMES if (lesions["outcome"] == name).any()]
    for channel, name in CHANNELS.items():
        column = f"{channel}_peak"
        for first, second in combinations(found, 2) if _has(lesions, column) else ():
            texts = (_OUTCOME_NAMES[first], _OUTCOME_NAMES[second])
            peak = f"the magnitude of the peak saliency of {name}"
            for adjusted in ways:
                held = ("log_volume", "mean_probability") if adjusted else ()
                alike = " of the same volume and mean probability" if adjusted else ""
                estimate = contrast_of_outcomes(table, column, (first, second), held)
                if adjusted and not _overlap(lesions, (first, second)):
                    # A straight line to where there are no lesions to compare says nothing.
                    counts = (estimate.n_participants, estimate.n_lesions)
                    estimate = Estimate(
                        n_participants=counts[0], n_lesions=counts[1], reason=_NO_OVERLAP
                    )
                yield Claim(
                    OUTCOMES,
                    f"{first} – {second}" + (f", {ADJUSTED}" if adjusted else ""),
                    column,
                    units,
                    estimate,
                    "standardised mean difference",
                    "estimating equations within visits, clusters of people, bias-reduced"
                    + ("; adjusted for log volume and mean probability" if adjusted else ""),
                    "the difference within a visit is",
                    f"{peak} is higher in {texts[0]} than in {texts[1]}" + alike,
                    f"{peak} is lower in {texts[0]} than in {texts[1]}" + alike,
                    f"{peak} differs between {texts[0]} and {texts[1]}{alike}",
                )


def _overlap(lesions: pd.DataFrame, pair: tuple[str, str]) -> bool:
    """Tell whether two outcomes have a range of probability in common."""
    ranges = [
        np.nanquantile(lesions.loc[lesions["outcome"] == one, "mean_probability"], [0.05, 0.95])
        for one in pair
        if lesions.loc[lesions["outcome"] == one, "mean_probability"].notna().any()
    ]
    return len(ranges) < 2 or max(low for low, _ in ranges) < min(high for _, high in ranges)


def _claims_of_context(lesions: pd.DataFrame) -> Iterator[Claim]:
    for channel, name in CHANNELS.items():
        for percent in (50, 90, 95):
            column = f"{channel}_distance_{percent}_mm"
            subject = f"{percent} % of the absolute saliency of {name} lie within"
            yield from _extent(lesions, column, f"{percent} % of saliency", subject)
    for fill, text in FILLS.items():
        for percent in (50, 95):
            column = f"settled_{percent}_{fill}_mm"
            subject = (
                f"with {text} beyond it, a lesion keeps {percent} % of its probability from this "
                "margin of visible tissue on:"
            )
            yield from _extent(lesions, column, f"{percent} % of probability, {fill}", subject)


def _extent(lesions: pd.DataFrame, column: str, contrast: str, subject: str) -> Iterator[Claim]:
    if _has(lesions, column):
        estimate = mean_of_people(lesions, column, np.nan)
        never = _never_settled(lesions, column)
        remark = _left_out(lesions[~never], column)
        if never.any():
            which = f"{_count(int(never.sum()), 'lesion')} for which no margin sufficed"
            told = f"{which}, so that it is too small"
            remark = f"{remark}, and {told}" if remark else f"left out are {told}"
        yield Claim(CONTEXT, contrast, column, "mm", estimate, "", _T, subject, remark=remark)


def _never_settled(lesions: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Return which lesions were studied and need more than the widest of the margins."""
    if not column.startswith("settled") or "full_probability" not in lesions:
        return pd.Series(data=False, index=lesions.index)
    return lesions["full_probability"].notna() & lesions[column].isna()


def _claims_of_change(
    lesions: pd.DataFrame, visits: pd.DataFrame | None, units: str
) -> Iterator[Claim]:
    if not _has(lesions, "match"):
        return
    table = changes(lesions, visits)
    names = {
        "flair_share": ("the FLAIR share of matched lesions", ""),
        "flair_peak": ("the magnitude of the peak saliency of FLAIR of matched lesions", units),
        "t1w_peak": ("the magnitude of the peak saliency of T1w of matched lesions", units),
        VOLUME_CHANGE: ("the volume of matched lesions", "doublings"),
    }
    for column, (name, unit) in names.items():
        if column in table:
            known, others = table.dropna(subset=[column]), table[table[column].isna()]
            estimate = one_sample(known[column].to_numpy(float))
            counted = Estimate(**{**asdict(estimate), "n_lesions": int(known["n_lesions"].sum())})
            yield Claim(
                *(CHANGE, f"last – first session: {column}", column, unit),
                *(counted, _DZ, _T),
                "its mean change over participants is",
                f"{name} rises from the first to the last session",
                f"{name} falls from the first to the last session",
                f"{name} changes from the first to the last session",
                _without_change(others["followed"].astype(bool)),
            )


def _without_change(followed: pd.Series[bool]) -> str:
    """Return why people with several sessions are left out, whether they were followed or not."""
    counts = {
        "with several sessions left out: no lesion to compare between the first and the last": (
            int(followed.sum())
        ),
        "whose sessions could not be matched left out": int((~followed).sum()),
    }
    return "; ".join(f"{_count(n, 'participant')} {why}" for why, n in counts.items() if n)


def _claims_of_covariates(
    visits: pd.DataFrame | None, covariates: pd.DataFrame | None, units: str
) -> Iterator[Claim]:
    if visits is None or covariates is None:
        return
    people = participant_means(visits, [name for name in OF_PEOPLE if _has(visits, name)])
    for name in _DOUBLINGS:
        if name in people:
            people[name] = np.log2(1 + people[name])
    for covariate in map(str, covariates):
        given = covariates[covariate].reindex(people.index)
        for column in map(str, people):
            both = given.notna() & people[column].notna()
            remark = _without_value(covariate, int(given.isna().sum()))
            values, groups = people.loc[both, column], given[both]
            unit = _units_of_people(column, units)
            if pd.api.types.is_numeric_dtype(given):
                yield _claim_of_slope(covariate, column, unit, groups, values, remark)
            else:
                yield from _claims_of_levels(covariate, column, unit, groups, values, remark)


def _claim_of_slope(
    covariate: str,
    column: str,
    unit: str,
    given: pd.Series[float],
    values: pd.Series[float],
    remark: str,
) -> Claim:
    return Claim(
        question_of(covariate),
        f"slope of {column}",
        column,
        f"{unit} per unit of {covariate}".strip(),
        slope(given.to_numpy(float), values.to_numpy(float)),
        "correlation",
        "least squares over participants, HC3",
        f"the slope of {_OF_PEOPLE_NAMES[column]} over {covariate} is",
        f"{_OF_PEOPLE_NAMES[column]} rises with {covariate}",
        f"{_OF_PEOPLE_NAMES[column]} falls with {covariate}",
        f"{_OF_PEOPLE_NAMES[column]} changes with {covariate}",
        remark,
    )


def _claims_of_levels(
    covariate: str,
    column: str,
    unit: str,
    given: pd.Series[str],
    values: pd.Series[float],
    remark: str,
) -> Iterator[Claim]:
    name = _OF_PEOPLE_NAMES[column]
    if given.nunique() < 2:
        reason = "these participants do not have two levels of it"
        yield Claim(
            *(question_of(covariate), column, column, unit),
            *(Estimate(n_participants=len(values), reason=reason), "", "", ""),
            none=f"{name} differs by {covariate}",
            remark=remark,
        )
    for first, second in combinations(sorted(given.unique()), 2):
        groups = (values[given == level].to_numpy(float) for level in (first, second))
        where = f"with {covariate} {first} than with {second}"
        yield Claim(
            question_of(covariate),
            f"{first} – {second}: {column}",
            column,
            unit,
            difference_of_levels(*groups),
            "Cohen's d",
            "means of participants, Welch's t",
            "the difference is",
            f"{name} is higher {where}",
            f"{name} is lower {where}",
            f"{name} differs between {covariate} {first} and {second}",
            remark,
        )


def question_of(covariate: str) -> str:
    """Return the question that a covariate asks.

    >>> question_of("sex")
    'Does it depend on sex?'
    """
    return f"Does it depend on {covariate}?"


def _units_of_people(column: str, units: str) -> str:
    if column in _DOUBLINGS:
        return "doublings"
    return units if column == "flair_mean_inside" else ""


def _without_value(covariate: str, n: int) -> str:
    return f"{_count(n, 'participant')} without {covariate} left out" if n else ""


def _has(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _left_out(lesions: pd.DataFrame, column: str) -> str:
    n = int(lesions[column].isna().sum())
    return f"{_count(n, 'lesion')} without a value left out" if n else ""


def _table(made: Sequence[Claim]) -> pd.DataFrame:
    own = ("question", "contrast", "measure", "units", "effect_kind", "model")
    rows = [
        {name: getattr(claim, name) for name in own}
        | asdict(claim.estimate)
        | {"estimate": claim.estimate.value}
        for claim in made
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS[:-1]])
    table["p_holm"] = table.groupby("question")["p"].transform(holm)
    texts = [statement(claim, p) for claim, p in zip(made, table["p_holm"], strict=True)]
    return table.assign(statement=pd.Series(texts, dtype=str))


def holm(p: pd.Series[float]) -> pd.Series[float]:
    """Return p corrected by Holm over all that are not missing."""
    known = p.notna()
    corrected = p.astype(float)
    if known.any():
        corrected[known] = multipletests(p[known], method="holm")[1]
    return corrected


def statement(claim: Claim, p_holm: float) -> str:
    """Return what was found, in one plain sentence, and a second one for its limits.

    A difference is claimed if `p_holm` is below `ALPHA`.
    """
    found = claim.estimate
    if found.reason:
        told = f"cannot be told{claim.none and ' whether '}{claim.none}: {found.reason}"
        if np.isfinite(found.value):
            told += f"; {claim.subject} {_number(found.value)}{_unit(claim)}, without an interval"
    else:
        told = f"{claim.subject} {_number(found.value)}{_unit(claim)} ({_basis(found)})"
        if claim.more:
            told = f"{_verdict(claim, p_holm)}: {told}"
    parts = [part for part in (told, claim.remark) if part]
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _verdict(claim: Claim, p_holm: float) -> str:
    if not p_holm < ALPHA:
        corrected = (
            ", corrected for the number of comparisons," if claim.estimate.p < ALPHA else ""
        )
        return f"no evidence{corrected} that {claim.none}"
    return claim.more if claim.estimate.value > claim.null else claim.less


def _basis(found: Estimate) -> str:
    who = _count(found.n_participants, "participant")
    what = f", {_count(found.n_lesions, 'lesion')}" if found.n_lesions else ""
    return f"95 % interval {_number(found.low)} to {_number(found.high)}; {who}{what}"


def _unit(claim: Claim) -> str:
    return f" {claim.units}" if claim.units in ("mm", "doublings") else ""


def _number(value: float) -> str:
    return format(value, ".3g")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
