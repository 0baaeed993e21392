# SPDX-License-Identifier: Apache-2.0
"""Columns of `participants.tsv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bids_lesion_xai.bids.inheritance import read_object
from bids_lesion_xai.errors import DataError, NotFoundError

# Levels of one column are compared in pairs.
MOST_LEVELS = 6


def read_covariates(bids_dir: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a dataset's `participants.tsv`, one row a participant.

    Parameters
    ----------
    bids_dir : Path
    columns : sequence of str

    Returns
    -------
    DataFrame
        With ``participant_id`` (``sub-01``) as its index. Columns are floats where all values are
        numbers and `participants.json` names no ``Levels`` of them, else text. Missing values are
        missing.

    Raises
    ------
    NotFoundError
        There is no such file, or no such column.
    DataError
        The file is no table of participants, or a column has nothing to compare.
    """
    path = bids_dir / "participants.tsv"
    if not path.is_file():
        message = f"--group-by: {path} does not exist; it holds what participants are grouped by."
        raise NotFoundError(message)
    table = _read(path)
    missing = [name for name in columns if name not in table]
    if missing:
        there = ", ".join(map(str, table)) or "none"
        message = f"--group-by: participants.tsv has no column {', '.join(missing)}, but {there}."
        raise NotFoundError(message)
    coded = _columns_with_levels(bids_dir / "participants.json")
    return pd.DataFrame({name: _typed(table[name], name in coded) for name in columns})


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            # BIDS knows no quotes, and more values than names would shift all of them.
            quoting=csv.QUOTE_NONE,
            index_col=False,
            dtype=str,
            na_values=["n/a", ""],
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        message = f"--group-by: participants.tsv cannot be read as a table ({error})."
        raise DataError(message) from error
    if "participant_id" not in table or table["participant_id"].isna().any():
        message = "--group-by: participants.tsv lacks a participant_id in its header or in a row."
        raise DataError(message)
    names = "sub-" + table["participant_id"].str.removeprefix("sub-")
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        message = f"--group-by: participants.tsv has more than one row of {twice}."
        raise DataError(message)
    return table.drop(columns="participant_id").set_index(names)


def _columns_with_levels(path: Path) -> set[str]:
    """Return the columns whose values are codes, by the file that describes the columns."""
    described = read_object(path)
    known = described.items() if isinstance(described, dict) else ()
    return {name for name, facts in known if isinstance(facts, dict) and "Levels" in facts}


def _typed(values: pd.Series[str], coded: bool) -> pd.Series[float] | pd.Series[str]:
    """Return numbers if all values are, else levels.

    Raises
    ------
    DataError
        There is nothing to compare, or too much.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    n_values = int(values.nunique())
    if n_values < 2:
        held = "one value only" if n_values else "no value"
        message = f"--group-by: the column {values.name} of participants.tsv has {held}."
        raise DataError(message)
    if np.isinf(numbers).any():
        message = f"--group-by: the column {values.name} of participants.tsv has infinite values."
        raise DataError(message)
    if not coded and numbers.notna().equals(values.notna()):
        return numbers.astype(float)
    if n_values > MOST_LEVELS:
        message = (
            f"--group-by: the column {values.name} of participants.tsv has {n_values} levels; "
            f"numbers, or at most {MOST_LEVELS} levels, can be compared."
        )
        raise DataError(message)
    return values
