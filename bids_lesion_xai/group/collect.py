# SPDX-License-Identifier: Apache-2.0
"""The tables of all visits of an output folder, put together."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES, EXPERIMENT_COLUMNS, Column
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.explain.catalogue import has_sign
from bids_lesion_xai.group.stats import summarise_lesions

MISSING = "n/a"

_ID_COLUMNS = ("participant_id", "session_id")
_LESION_COLUMNS = tuple(DERIVATIVES["group_lesions"].columns)
_PARTICIPANT_COLUMNS = tuple(DERIVATIVES["group_participants"].columns)
# The columns of participants that are means over the lesions of a column of the same name.
_MEANS = {name: name for name in _PARTICIPANT_COLUMNS if name in _LESION_COLUMNS[2:]}

# Columns that hold words even if these look like numbers, or are all missing.
_WORDS: Mapping[str, type] = {"name": str, "outcome": object}

# Sidecar keys; numbers of visits that differ in one of them do not compare.
_SETTINGS = (
    *("BiasCorrection", "Model"),
    *("Threshold", "PeakThreshold", "MinimumVolume_mm3", "Connectivity"),
    *("Method", "Aggregation", "Target", "NumberOfSamples", "TargetError"),
    *("NoiseLevel", "NoiseRule", "Baseline"),
)


@dataclass(frozen=True)
class Collection:
    """What the visits of an output folder add up to.

    Parameters
    ----------
    lesions : DataFrame
        One row a lesion, with the columns of the output ``group_lesions``.
    participants : DataFrame
        One row a visit, with the columns of the output ``group_participants``. A visit without
        lesions has a row with 0 lesions of volume 0; means are missing.
    experiments : mapping of str to DataFrame
        The tables of each experiment, one visit below the other.
    visits : tuple of Visit
        In the order of the rows of `participants`.
    problems : tuple of str
        Why other visits are left out: their files are damaged.
    differences : tuple of str
        Settings that the visits were not all processed with, so that their numbers do not compare.
    units : str
        Of the saliency, or words that say that it has several.
    has_sign : bool
        Whether the sign of the saliency of all visits says anything of the images.
    unfollowed : tuple of str
        Why lesions of some people are not followed from session to session.
    """

    lesions: pd.DataFrame
    participants: pd.DataFrame
    experiments: Mapping[str, pd.DataFrame]
    visits: tuple[Visit, ...]
    problems: tuple[str, ...]
    differences: tuple[str, ...]
    units: str
    has_sign: bool
    unfollowed: tuple[str, ...] = ()


def collect(
    store: Store,
    matches: Mapping[Visit, Mapping[int, int]] | None = None,
    unfollowed: Sequence[str] = (),
) -> Collection:
    """Return the tables of an output folder, in the order of the visits.

    Parameters
    ----------
    store : Store
    matches : mapping of Visit to mapping of int to int
        Of visits whose lesions were followed, by ``index``: the column ``match``.
    unfollowed : sequence of str
        See `Collection`.

    Raises
    ------
    DataError
        The folder holds no complete visit, or all are damaged.
    """
    tables: dict[Visit, pd.DataFrame] = {}
    experiments: dict[str, list[pd.DataFrame]] = {name: [] for name in EXPERIMENTS}
    rows, settings, problems = [], [], []
    units: set[str] = set()
    signs: set[bool] = set()
    for visit in store.visits():
        completed = store.completed_ns(visit)
        try:
            table = visit_lesions(store, visit)
            row, chosen = visit_summary(store, visit, table), visit_settings(store, visit)
            made = visit_experiments(store, visit, table)
        except DataError as error:
            if store.completed_ns(visit) == completed:
                problems.append(f"{visit.name}: {error}")
        else:
            # Another run that processes the visit again may have removed it meanwhile.
            if store.completed_ns(visit) != completed:
                continue
            tables[visit] = table
            for name, rows_of_visit in made.items():
                experiments[name].append(rows_of_visit)
            facts = store.facts("saliency_table", visit)
            units.add(str(facts["Units"]))
            signs.add(has_sign(str(facts["Method"]), str(facts["Aggregation"])))
            rows.append(row)
            settings.append(chosen)
    if not tables:
        message = (
            f"{store.root} holds no complete visit. Run the participant level first, with "
            f"the same output folder. {' '.join(problems)}"
        ).rstrip()
        raise DataError(message)
    filled = [
        table.assign(**visit_ids(visit), match=_matched(table, (matches or {}).get(visit, {})))
        for visit, table in tables.items()
        if len(table)
    ] or [pd.DataFrame(columns=list(_LESION_COLUMNS))]
    return Collection(
        pd.concat(filled, ignore_index=True)[list(_LESION_COLUMNS)],
        pd.DataFrame(rows)[list(_PARTICIPANT_COLUMNS)],
        {name: pd.concat(parts) for name, parts in experiments.items() if parts},
        tuple(tables),
        tuple(problems),
        tuple(_differences(settings)),
        units.pop() if len(units) == 1 else "units that differ between visits",
        all(signs),
        tuple(unfollowed),
    )


def _matched(lesions: pd.DataFrame, numbers: Mapping[int, int]) -> pd.Series[int]:
    """Return the number within the person of each predicted lesion, missing if there is none."""
    predicted = predicted_lesions(lesions)["index"]
    return predicted.map(numbers.get).astype("Int64").reindex(lesions.index)


def visit_ids(visit: Visit) -> dict[str, str]:
    """Return ``participant_id`` and ``session_id`` of a visit.

    >>> visit_ids(Visit("01"))
    {'participant_id': 'sub-01', 'session_id': 'n/a'}
    """
    session = f"ses-{visit.session}" if visit.session else MISSING
    return {"participant_id": f"sub-{visit.participant}", "session_id": session}


def visit_lesions(store: Store, visit: Visit) -> pd.DataFrame:
    """Return the regions of a visit: their table and the saliency table side by side.

    These are the lesions and, with a reference mask, missed lesions and control regions.

    Raises
    ------
    DataError
        A table is missing or damaged, or the two do not list the same lesions.
    """
    compared = is_compared(store, visit)
    lesions, saliency = (
        _read_numbers(store.path(key, visit), DERIVATIVES[key].columns)
        for key in ("region_table" if compared else "lesion_table", "saliency_table")
    )
    keys = ["index", "name"]
    if not lesions[keys].astype(str).equals(saliency[keys].astype(str)):
        message = (
            "the lesion table and the saliency table do not list the same lesions. Process this "
            "visit again."
        )
        raise DataError(message)
    tables = [lesions, saliency.drop(columns=keys), _experiments(store, visit, lesions["index"])]
    return pd.concat(tables, axis="columns")


def _experiments(store: Store, visit: Visit, indices: pd.Series[int]) -> pd.DataFrame:
    """Return what the experiments of a visit say, in the rows of `indices`; all NaN if nothing."""
    columns = DERIVATIVES["experiment_numbers"].columns
    path = store.path("experiment_numbers", visit)
    if not path.is_file():
        names = [name for name in columns if name not in ("index", "name")]
        return pd.DataFrame(np.nan, range(len(indices)), names)
    rows = _read_numbers(path, columns).drop(columns="name").set_index("index").reindex(indices)
    return rows.reset_index(drop=True).astype(float)


def visit_experiments(
    store: Store, visit: Visit, lesions: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the table of each experiment that was made on a visit, with the visit's columns.

    Rows of a lesion have its ``outcome`` too, which is missing without a reference mask.

    Parameters
    ----------
    store : Store
    visit : Visit
    lesions : DataFrame
        Of `visit_lesions`.

    Raises
    ------
    DataError
        A table is damaged.
    """
    outcomes = lesions.set_index("index")["outcome"]
    found = {}
    for name, columns in EXPERIMENT_COLUMNS.items():
        path = store.path(f"experiment_{name}", visit)
        if path.is_file():
            table = _read_numbers(path, columns).assign(**visit_ids(visit))
            of_lesion = table["index"].map(outcomes) if "index" in table else np.nan
            found[name] = table.assign(outcome=of_lesion)
    return found


def visit_summary(store: Store, visit: Visit, lesions: pd.DataFrame) -> dict[str, Any]:
    """Return a visit's row of the output ``group_participants``.

    Parameters
    ----------
    store : Store
    visit : Visit
    lesions : DataFrame
        Of `visit_lesions`.
    """
    return {
        **visit_ids(visit),
        **summarise_lesions(predicted_lesions(lesions), _MEANS),
        **count_outcomes(lesions, compared=is_compared(store, visit)),
        "brain_volume_mm3": store.facts("brain_mask", visit)["BrainVolume_mm3"],
        "registration_similarity": store.facts("preproc_flair", visit)["RegistrationSimilarity"],
    }


def predicted_lesions(lesions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are predicted lesions: no missed lesions, no control regions."""
    return lesions[~lesions["outcome"].isin(["FN", "TN"])]


def is_compared(store: Store, visit: Visit) -> bool:
    """Tell whether a visit was compared with a reference mask."""
    return store.path("region_table", visit).is_file()


def count_outcomes(lesions: pd.DataFrame, *, compared: bool) -> dict[str, float]:
    """Return ``n_true_positive``, ``n_false_positive`` and ``n_missed``, NaN if nobody knows."""
    names = {"TP": "n_true_positive", "FP": "n_false_positive", "FN": "n_missed"}
    return {
        name: int((lesions["outcome"] == outcome).sum()) if compared else np.nan
        for outcome, name in names.items()
    }


def visit_settings(store: Store, visit: Visit) -> dict[str, str]:
    """Return the settings that a visit's numbers depend on, as text."""
    sidecars = ("preproc_flair", "lesion_labels", "saliency_table")
    facts = {key: value for one in sidecars for key, value in store.facts(one, visit).items()}
    return {name: json.dumps(facts[name], sort_keys=True) for name in _SETTINGS}


def _differences(settings: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield each setting that has several values, with the number of visits for each value."""
    for name in _SETTINGS:
        counts = Counter(chosen[name] for chosen in settings)
        if len(counts) > 1:
            values = (
                f"{value} ({count} of {len(settings)} visits)"
                for value, count in sorted(counts.items())
            )
            yield f"{name}: {', '.join(values)}"


def _read_numbers(path: Path, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Read the table of a visit: all `columns`, with numbers in all but names and words."""
    table = read_table(path)
    missing = [name for name in columns if name not in table]
    if missing:
        message = f"{path.name} lacks the columns {missing}. Process this visit again."
        raise DataError(message)
    wrong = [
        name
        for name, column in columns.items()
        if len(table)
        and not (column.kind == "string" or column.levels)
        and not pd.api.types.is_numeric_dtype(table[name])
    ]
    if wrong:
        message = f"{path.name} has no numbers in the columns {wrong}. Process this visit again."
        raise DataError(message)
    return table


def read_table(path: Path) -> pd.DataFrame:
    """Read a TSV file; every number is the very one that its text states.

    pandas has a parser that is exact in all its versions, but it takes more than twice the time.

    Raises
    ------
    DataError
        There is no such file, or it is no table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines, delimiter="\t", strict=True)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
        named = dict(zip(header, columns, strict=True))
    except FileNotFoundError as error:
        message = f"{path.name} is missing. Process this visit again."
        raise DataError(message) from error
    except (OSError, ValueError, csv.Error) as error:
        message = f"{path.name} cannot be read as a table ({error}). Process this visit again."
        raise DataError(message) from error
    return pd.DataFrame({name: _values(name, texts) for name, texts in named.items()})


def _values(name: str, texts: Sequence[str]) -> NDArray[Any] | pd.Series[Any]:
    """Return whole numbers, else numbers, else words; NaN where the text says missing."""
    if name not in _WORDS:
        stated = ["nan" if text == MISSING else text for text in texts]
        for kind in (np.int64, np.float64):
            with suppress(ValueError, OverflowError):
                return np.array(stated, kind)
    words = [np.nan if text == MISSING else text for text in texts]
    return pd.Series(words, dtype=_WORDS.get(name, str))


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a TSV file, with ``n/a`` for missing values, and return `path`."""
    table.to_csv(path, sep="\t", index=False, na_rep=MISSING)
    return path
