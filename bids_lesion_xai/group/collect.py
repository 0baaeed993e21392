# SPDX-License-Identifier: Apache-2.0
"""The tables of all visits of an output folder, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.stats import summarise_lesions
from bids_lesion_xai.imaging import nifti

MISSING = "n/a"

_ID_COLUMNS = ("participant_id", "session_id")
_LESION_COLUMNS = tuple(DERIVATIVES["group_lesions"].columns)
_PARTICIPANT_COLUMNS = tuple(DERIVATIVES["group_participants"].columns)
# The columns of participants that are means over the lesions of a column of the same name.
_MEANS = {name: name for name in _PARTICIPANT_COLUMNS if name in _LESION_COLUMNS[2:]}


def collect(store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lesions and the visits of an output folder, in the order of the visits' names.

    Returns
    -------
    lesions : DataFrame
        One row a lesion, with the columns of the output ``group_lesions``.
    participants : DataFrame
        One row a visit, with the columns of the output ``group_participants``. A visit without
        lesions has a row with 0 lesions of volume 0; means are missing.

    Raises
    ------
    DataError
        The folder holds no complete visit, or the files of a visit do not belong together.
    """
    visits = store.visits()
    if not visits:
        message = (
            f"{store.root.name} holds no complete visit. Run the participant level first, with "
            "the same output folder."
        )
        raise DataError(message)
    tables = {visit: visit_lesions(store, visit) for visit in visits}
    filled = [
        table.assign(**visit_ids(visit)) for visit, table in tables.items() if len(table)
    ] or [pd.DataFrame(columns=list(_LESION_COLUMNS))]
    rows = [visit_summary(store, visit, table) for visit, table in tables.items()]
    lesions = pd.concat(filled, ignore_index=True)[list(_LESION_COLUMNS)]
    return lesions, pd.DataFrame(rows)[list(_PARTICIPANT_COLUMNS)]


def visit_ids(visit: Visit) -> dict[str, str]:
    """Return ``participant_id`` and ``session_id`` of a visit.

    >>> visit_ids(Visit("01"))
    {'participant_id': 'sub-01', 'session_id': 'n/a'}
    """
    session = f"ses-{visit.session}" if visit.session else MISSING
    return {"participant_id": f"sub-{visit.participant}", "session_id": session}


def visit_lesions(store: Store, visit: Visit) -> pd.DataFrame:
    """Return the lesions of a visit: its lesion table and its saliency table side by side.

    Raises
    ------
    DataError
        A table is missing, or the two do not list the same lesions.
    """
    lesions = read_table(store.path("lesion_table", visit))
    saliency = read_table(store.path("saliency_table", visit))
    keys = ["index", "name"]
    if not lesions[keys].astype(str).equals(saliency[keys].astype(str)):
        message = (
            f"{visit.name}: the lesion table and the saliency table do not list the same lesions. "
            "Process this visit again."
        )
        raise DataError(message)
    return pd.concat([lesions, saliency.drop(columns=keys)], axis="columns")


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
        **summarise_lesions(lesions, _MEANS),
        "brain_volume_mm3": _brain_volume_mm3(store.path("brain_mask", visit)),
        "registration_similarity": store.facts("preproc_flair", visit)["RegistrationSimilarity"],
    }


def _brain_volume_mm3(path: Path) -> float:
    mask, grid = nifti.load(path, np.bool_)
    return float(mask.sum() * grid.voxel_volume_mm3)


def read_table(path: Path) -> pd.DataFrame:
    """Read a TSV file; every number is the very one that its text states.

    Raises
    ------
    DataError
        There is no such file.
    """
    try:
        return pd.read_csv(
            path,
            sep="\t",
            na_values=[MISSING],
            keep_default_na=False,
            dtype={"name": str},
            engine="python",  # the other one rounds the last digit in some versions of pandas
        )
    except FileNotFoundError as error:
        message = f"{path.name} is missing. Process this visit again."
        raise DataError(message) from error


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a TSV file, with ``n/a`` for missing values, and return `path`."""
    table.to_csv(path, sep="\t", index=False, na_rep=MISSING)
    return path
