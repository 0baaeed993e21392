# SPDX-License-Identifier: Apache-2.0
"""How lesions change between the sessions of a person. Pure functions of tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bids_lesion_xai.conventions import CHANNELS, session_order

# Volumes change by factors, so they are compared in doublings: +1 is twice, -1 half the volume.
_VOLUME = "volume_mm3"
VOLUME_CHANGE = "volume_doublings"
PEAKS = tuple(f"{channel}_peak" for channel in CHANNELS)
CHANGING = ("flair_share", *PEAKS, _VOLUME)


def changes(lesions: pd.DataFrame, visits: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the change of each person's lesions from the first to the last session.

    Only lesions that both sessions show count; what is new or has vanished has no change.

    Parameters
    ----------
    lesions : DataFrame
        With ``participant_id``, ``session_id``, columns of `CHANGING`, and ``match``: rows of one
        person with the same value there are one lesion, once in a session at most; missing for all
        lesions of a person whose sessions could not be matched. See
        `bids_lesion_xai.lesions.match`.
    visits : DataFrame, optional
        With ``participant_id`` and ``session_id`` of all visits, those without a lesion too. If
        not given, sessions are those of `lesions`.

    Returns
    -------
    DataFrame
        One row a participant who has several sessions: ``participant_id``, ``first_session`` and
        ``last_session`` by `session_order`, ``followed``, False if there are lesions and none has
        a match, ``n_lesions`` that both show, and the mean over these lesions of last less first,
        by column, missing if there are none; of peaks, that of their magnitudes; of the volume,
        the binary logarithm of its ratio, in ``volume_doublings``.
    """
    columns = [name for name in CHANGING if name in lesions]
    names = [VOLUME_CHANGE if name == _VOLUME else name for name in columns]
    found = dict(list(lesions.groupby("participant_id")))
    rows = []
    for participant, own in (lesions if visits is None else visits).groupby("participant_id"):
        visited = sorted(set(own["session_id"].astype(str)), key=session_order)
        if len(visited) > 1:
            shown = found.get(participant, lesions.iloc[:0])
            first, last = (_matched(shown, visited[end])[columns] for end in (0, -1))
            change = (last - first).reindex(first.index.intersection(last.index))
            means = dict(zip(names, change.mean(), strict=True))
            ids = {"participant_id": participant, "first_session": visited[0]}
            ids |= {"last_session": visited[-1]}
            followed = shown.empty or bool(shown["match"].notna().any())
            rows.append(ids | {"followed": followed, "n_lesions": len(change)} | means)
    header = ["participant_id", "first_session", "last_session", "followed", "n_lesions", *names]
    return pd.DataFrame(rows, columns=header)


def _matched(own: pd.DataFrame, session: str) -> pd.DataFrame:
    """Return the lesions of a session that have a match, by match, as they are compared."""
    rows = own[(own["session_id"].astype(str) == session) & own["match"].notna()]
    if rows["match"].duplicated().any():
        message = f"{rows['participant_id'].iloc[0]} {session}: two lesions have the same match"
        raise ValueError(message)
    # A peak has the sign of whatever is largest, which may change with the noise.
    magnitudes = {name: rows[name].abs() for name in PEAKS if name in rows}
    volumes = {_VOLUME: np.log2(rows[_VOLUME].astype(float))}
    return rows.assign(**magnitudes, **volumes).set_index("match")
