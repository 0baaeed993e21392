# SPDX-License-Identifier: Apache-2.0
"""The lesions of several output folders of the app, in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.group.collect import MISSING, read_table, visit_settings

PERSON = "person"
OUTCOME = "outcome"
IDS = (PERSON, "participant_id", "session_id", "index", "name")
_OUTCOMES = ("TP", "FP", "FN", "TN")

Settings = Mapping[str, Sequence[str]]


def read_lesions(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the lesions that were found, and the reference lesions that were missed.

    Parameters
    ----------
    folders : sequence of Path
        Output folders, in which the group level ran.

    Returns
    -------
    lesions : DataFrame
        The columns of ``group_lesions``, and ``person``: dataset and participant. ``outcome`` is
        NaN for runs without reference masks. The rows are ordered by `IDS`.

    Raises
    ------
    NotFoundError
        A folder does not exist.
    DataError
        A folder has no group table, or it is damaged; or no table has a lesion.
    """
    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    tables = [
        _read_folder(path, dataset)
        for path, dataset in zip(paths, _dataset_names(paths), strict=True)
    ]
    filled = [table for table in tables if len(table)]
    if not filled:
        message = f"No lesion is in the group tables of {', '.join(map(str, paths))}."
        raise DataError(message)
    lesions = pd.concat(filled, ignore_index=True)
    found = found_lesions(lesions)
    twice = found.loc[found.duplicated(list(IDS)), [PERSON, "session_id"]].drop_duplicates()
    if len(twice):
        visits = ", ".join(f"{person} {session}" for person, session in twice.to_numpy())
        message = f"Lesions are listed twice: {visits}. Name one output folder for each visit."
        raise DataError(message)
    return lesions.sort_values(list(IDS), kind="stable").reset_index(drop=True)


def found_lesions(lesions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of lesions that were found, true or false or without reference."""
    return lesions[~lesions[OUTCOME].isin(["FN", "TN"])] if OUTCOME in lesions else lesions


def read_settings(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Return each setting of the visits of output folders with its values, in JSON.

    Raises
    ------
    DataError
        A sidecar of a visit is damaged.
    """
    found: dict[str, set[str]] = {}
    for folder in folders:
        store = Store(folder)
        for visit in store.visits():
            for name, value in visit_settings(store, visit).items():
                found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in found.items()}


def differences(settings: Settings, others: Settings) -> list[str]:
    """Return the settings that both know and whose values are not the same, each in words.

    >>> differences({"Model": ['"a"']}, {"Model": ['"b"'], "Target": ['"logit"']})
    ['Model: "a"; here "b"']
    """
    return [
        f"{name}: {', '.join(values)}; here {', '.join(others[name])}"
        for name, values in settings.items()
        if name in others and list(values) != list(others[name])
    ]


def _read_folder(folder: Path, dataset: str) -> pd.DataFrame:
    if not folder.is_dir():
        message = f"{folder} is not a folder; an output folder of bids-lesion-xai is expected."
        raise NotFoundError(message)
    path = folder / DERIVATIVES["group_lesions"].path()
    if not path.is_file():
        message = f"{path} is not there. Run the group level first: bids-lesion-xai ... group."
        raise DataError(message)
    table = _read(path)
    table["session_id"] = table["session_id"].astype(object).fillna(MISSING)
    table[PERSON] = dataset + "/" + table["participant_id"].astype(str)
    if OUTCOME in table:
        unknown = set(table[OUTCOME].dropna()) - set(_OUTCOMES)
        if unknown:
            message = (
                f"{path} has the outcomes {sorted(map(str, unknown))}; {', '.join(_OUTCOMES)} or "
                f"{MISSING} are expected. Run the group level again."
            )
            raise DataError(message)
    return table


def _read(path: Path) -> pd.DataFrame:
    try:
        table = read_table(path)
    except DataError as error:
        message = f"{path} is damaged. Run the group level again. ({error})"
        raise DataError(message) from error
    missing = [name for name in IDS[1:] if name not in table]
    if missing:
        message = f"{path} lacks the columns {', '.join(missing)}. Run the group level again."
        raise DataError(message)
    return table


def _dataset_names(folders: Sequence[Path]) -> list[str]:
    """Return for each output folder the name of the first one of the same raw dataset."""
    datasets = [_dataset(folder) for folder in folders]
    firsts = [folders[datasets.index(dataset)] for dataset in datasets]
    unique = list(dict.fromkeys(firsts))
    names = dict(zip(unique, _short_names(unique), strict=True))
    return [names[first] for first in firsts]


def _dataset(folder: Path) -> str:
    """Return what tells the raw dataset of an output folder; the folder if nothing does."""
    try:
        content: Any = json.loads((folder / "dataset_description.json").read_text("utf-8"))
        url = str(content["SourceDatasets"][0]["URL"])
    except (OSError, ValueError, LookupError, TypeError):
        return str(folder)
    if ":" in url:  # a DOI
        return url
    # In a container, the raw dataset was in another place.
    raw = (folder / url).resolve()
    return str(raw if raw.is_dir() else folder)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths, as many as it takes to tell all apart.

    >>> _short_names([Path("/a/out"), Path("/b/out")])
    ['a/out', 'b/out']
    """
    longest = max(len(path.parts) for path in paths)
    names = [path.name for path in paths]
    for length in range(1, longest + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
