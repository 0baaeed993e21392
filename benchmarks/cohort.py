# SPDX-License-Identifier: Apache-2.0
"""Statistics of the group on simulated cohorts: time, memory, and whether intervals hold.

    python -m benchmarks.cohort
    python -m benchmarks.cohort --coverage 400
    python -m benchmarks.cohort --models 200
    python -m benchmarks.cohort --read 300

By default a cohort of the size of the published one: 160,000 lesions or more in 4,000 visits
of 687 people. With --coverage, how many of the 95 % intervals of N small cohorts hold the truth,
with and without a true effect, and how often something is claimed on which image counts and where.
With --models, how many intervals of other models hold the contrast of two outcomes. With --read,
how long it takes to read the tables of N visits.
"""

from __future__ import annotations

import argparse
import gc
import resource
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from bids_lesion_xai.group.claims import ADJUSTED, ALPHA, claims
from bids_lesion_xai.group.models import contrast_of_outcomes

PEOPLE, VISITS, LESIONS = 687, 4000, 160_000
# Outcomes: how common, what they add to the peaks (in standard deviations of the lesions of a
# visit, times the effect), mean of log volume and of probability.
OUTCOMES = {
    "TP": (0.5, 0.0, 4.0, 0.8),
    "FP": (0.2, 1.0, 3.2, 0.65),
    "FN": (0.1, -0.5, 3.0, 0.35),
    "TN": (0.2, -1.0, 4.0, 0.02),
}
# Slopes of the peaks over log volume and probability.
SLOPES = (0.4, 1.5)


def simulate(
    n_people: int,
    seed: int,
    *,
    effect: float = 0.5,
    differing: float = 0.5,
    mean_visits: float = 2.5,
    mean_lesions: float = 25.0,
) -> pd.DataFrame:
    """Return lesions of people who differ, in visits that differ; `truth` has the true values.

    Parameters
    ----------
    n_people, seed : int
    effect : float
        Size of all that the claims ask for; 0 if there is nothing to find.
    differing : float
        Standard deviation over people of the effect of the outcome on the peaks.
    mean_visits, mean_lesions : float
        For each person and each visit. Numbers of lesions are skewed over people, from a few to
        many times the mean.
    """
    draw = np.random.default_rng([seed, n_people])
    n_visits = 1 + draw.poisson(mean_visits - 1, n_people)
    person = np.repeat(np.arange(n_people), n_visits)
    load = np.exp(draw.normal(-0.5, 1, n_people))[person]
    n_lesions = 1 + draw.poisson(load * (mean_lesions - 1))
    visit = np.repeat(np.arange(person.size), n_lesions)
    own = person[visit]
    size = own.size
    common = np.array([row[0] for row in OUTCOMES.values()])
    chances = np.array([draw.dirichlet(10 * common) for _ in range(n_people)]).cumsum(axis=1)
    kind = (draw.random(size)[:, None] > chances[own]).sum(axis=1).clip(max=3)
    _, adds, log_volume, probability = (
        np.array(column)[kind] for column in zip(*OUTCOMES.values(), strict=True)
    )
    log_volume = log_volume + draw.normal(0, 1, size)
    reach = np.minimum(np.minimum(probability, 1 - probability), 0.15)
    probability = probability + draw.uniform(-reach, reach)

    def nested(of_people: float, of_visits: float, of_lesions: float) -> np.ndarray:
        """Return values of mean 0 with these standard deviations."""
        levels = draw.normal(0, of_people, n_people)[own]
        levels += draw.normal(0, of_visits, person.size)[visit]
        return levels + draw.normal(0, of_lesions, size)

    first = np.concatenate([[0], n_visits.cumsum()])[person]
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{number:04d}" for number in own],
            "session_id": [
                f"ses-{number:02d}" for number in (np.arange(person.size) - first)[visit]
            ],
            "outcome": np.array(list(OUTCOMES))[kind],
            "volume_mm3": np.exp(log_volume),
            "mean_probability": probability,
            "flair_share": 0.5 + 0.1 * effect + nested(0.03, 0.02, 0.1),
        }
    )
    for channel in ("flair", "t1w"):
        of_person = effect + draw.normal(0, differing, (n_people, len(OUTCOMES)))
        shift = of_person[own, kind] * adds
        held = SLOPES[0] * log_volume + SLOPES[1] * probability
        # Far from 0, where a peak is its own magnitude.
        table[f"{channel}_peak"] = 20 + shift + held + nested(0.5, 0.3, 1)
        table[f"{channel}_mean_inside"] = 0.05 * effect + nested(0.03, 0.02, 0.1)
        for outer in (1, 2, 3, 5, 10):
            table[f"{channel}_mean_shell_{outer}mm"] = -0.05 * effect + nested(0.03, 0.02, 0.1)
        for percent in (50, 90, 95):
            spread = nested(0.3, 0.2, 0.5)
            table[f"{channel}_distance_{percent}_mm"] = percent / 10 * np.exp(spread)
    return table


def truth(question: pd.Series, effect: float) -> float:
    """Return the true value of a claim on a simulated cohort; NaN where there is no simple one."""
    measure, contrast = question["measure"], question["contrast"]
    if measure == "flair_share":
        return 0.5 + 0.1 * effect
    if "mean_inside" in measure:
        return 0.05 * effect
    if "mean_shell" in measure:
        return -0.05 * effect
    if not measure.endswith("_peak"):
        return np.nan
    pair, _, adjusted = contrast.partition(", ")
    first, second = (np.array(OUTCOMES[name][1:]) for name in pair.split(" – "))
    difference = first - second
    value = effect * difference[0]
    return value if adjusted else value + SLOPES[0] * difference[1] + SLOPES[1] * difference[2]


# Questions of which all hypotheses are true where the effect is 0.
_NO_EFFECT = ("flair_share", "mean inside", "mean around")


def _kind(measure: str, contrast: str) -> str:
    """Return which claims are counted together."""
    if measure.endswith("_peak"):
        return "peak, adjusted" if contrast.endswith(ADJUSTED) else "peak"
    if measure == "flair_share":
        return measure
    return "mean inside" if measure.endswith("inside") else "mean around"


def measure_time(seed: int = 0) -> None:
    """Print time and memory of the claims on a cohort of the published size."""
    lesions = simulate(PEOPLE, seed, mean_visits=VISITS / PEOPLE, mean_lesions=LESIONS / VISITS)
    before = _memory_gb()
    started = time.perf_counter()
    table = claims(lesions)
    seconds = time.perf_counter() - started
    visits = lesions.groupby(["participant_id", "session_id"]).ngroups
    print(f"{len(lesions)} lesions, {visits} visits, {PEOPLE} people: {len(table)} claims")
    print(f"{seconds:.0f} s, peak memory {_memory_gb():.2f} GB ({before:.2f} GB before)")


def _memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_coverage(n_cohorts: int) -> None:
    """Print how many intervals hold the truth, by number of people and size of the effect."""
    gc.freeze()  # statsmodels collects garbage at each correction, the slowest part by far
    rows = []
    for n_people in (8, 20, 60):
        for effect in (0.0, 0.5):
            held, claimed = [], []
            for seed in range(n_cohorts):
                table = claims(simulate(n_people, seed, effect=effect))
                true = np.array([truth(row, effect) for _, row in table.iterrows()])
                known = table["low"].notna() & ~np.isnan(true)
                names = zip(table["measure"], table["contrast"], strict=True)
                table["kind"] = [_kind(*pair) for pair in names]
                table["held"] = (table["low"] <= true) & (true <= table["high"])
                own = table[known]
                held.append(own[["kind", "held"]])
                tested = own[own["kind"].isin(_NO_EFFECT)]
                claimed.append((tested["p_holm"] < ALPHA).groupby(tested["question"]).any())
            covered = pd.concat(held).groupby("kind")["held"].mean()
            row = {"people": n_people, "effect": effect, **covered}
            rows.append(row | {"any claim on image or place": pd.concat(claimed).mean()})
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def measure_models(n_cohorts: int) -> None:
    """Print the coverage of the contrast of two outcomes by this and by other models."""
    rows = []
    for n_people in (8, 20, 60):
        for differing in (0.0, 0.5):
            held: dict[str, list[bool]] = {}
            for seed in range(n_cohorts):
                lesions = simulate(n_people, seed, differing=differing, mean_visits=3)
                for name, (low, high) in _intervals(lesions).items():
                    if np.isfinite(low):
                        held.setdefault(name, []).append(low <= 0.5 <= high)
            shares = {name: np.mean(values) for name, values in held.items()}
            rows.append({"people": n_people, "effects differ by": differing, **shares})
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def _intervals(lesions: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the adjusted contrast of false and right detections by several models."""
    rows = lesions[lesions["outcome"].isin(["FP", "TP"])]
    rows = rows.assign(log_volume=np.log(rows["volume_mm3"]), fp=(rows["outcome"] == "FP") * 1.0)
    held = ("log_volume", "mean_probability")
    own = contrast_of_outcomes(rows, "flair_peak", ("FP", "TP"), held)
    X = sm.add_constant(rows[["fp", *held]])
    y, people = rows["flair_peak"], rows["participant_id"]
    reach = stats.t.ppf(0.975, people.nunique() - 1)
    exchangeable = sm.GEE(y, X, people, cov_struct=sm.cov_struct.Exchangeable())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = {
            "least squares of lesions": sm.OLS(y, X).fit(),
            "random intercepts": sm.MixedLM(y, X, people).fit(),
            "exchangeable equations": exchangeable.fit(cov_type="bias_reduced"),
        }
    other = {
        name: (fit.params["fp"] - reach * fit.bse["fp"], fit.params["fp"] + reach * fit.bse["fp"])
        for name, fit in fits.items()
    }
    return {"here": (own.low, own.high), **other}


def measure_reading(n_visits: int) -> None:
    """Print what reading visits takes of one core, each with as many lesions as the mean."""
    from bids_lesion_xai.bids.store import Store
    from bids_lesion_xai.bids.visit import Visit
    from bids_lesion_xai.group.collect import collect, read_table, write_table
    from tests.outputs import VISITS as PHANTOMS
    from tests.outputs import publish_outputs

    with tempfile.TemporaryDirectory() as folder:
        model = publish_outputs(Path(folder, "model"), PHANTOMS[:1])
        store = Store(Path(folder, "cohort"))
        one = range(LESIONS // VISITS)
        for number in range(n_visits):
            visit = Visit(f"{number:04d}", "01")
            (store.root / visit.folder / "anat").mkdir(parents=True)
            for key in ("brain_mask", "preproc_flair", "lesion_labels", "saliency_table"):
                source = model.path(key, PHANTOMS[0]).name.partition(".")[0] + ".json"
                target = store.path(key, visit).name.partition(".")[0] + ".json"
                folders = (model.root / PHANTOMS[0].folder, store.root / visit.folder)
                shutil.copyfile(folders[0] / "anat" / source, folders[1] / "anat" / target)
            for key in ("lesion_table", "saliency_table"):
                table = read_table(model.path(key, PHANTOMS[0]))
                rows = table.iloc[[place % len(table) for place in one]]
                names = [f"L{index:03d}" for index in range(1, len(one) + 1)]
                write_table(rows.assign(index=one, name=names), store.path(key, visit))
        started = time.process_time()
        group = collect(store)
        seconds = time.process_time() - started
    print(
        f"{n_visits} visits, {len(group.lesions)} lesions: {seconds:.1f} s, "
        f"{1000 * seconds / n_visits:.1f} ms a visit"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort", description=__doc__)
    parser.add_argument(
        "--coverage", type=int, metavar="N", help="intervals of N cohorts of a kind"
    )
    parser.add_argument("--models", type=int, metavar="N", help="the same, and of other models")
    parser.add_argument("--read", type=int, metavar="N", help="time to read N visits")
    options = parser.parse_args()
    if options.coverage:
        measure_coverage(options.coverage)
    if options.models:
        measure_models(options.models)
    if options.read:
        measure_reading(options.read)
    if not (options.coverage or options.models or options.read):
        measure_time()


if __name__ == "__main__":
    main()
