# SPDX-License-Identifier: Apache-2.0
"""How lesions change between the sessions of a person. Pure functions of tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bids_lesion_xai.conventions import CHANNELS

# Volumes change by factors, so they are compared in doublings: +1 is twice, -1 half the volume.
_VOLUME = "volume_mm3"
VOLUME_CHANGE = "volume_doublings"
PEAKS = tuple(f"{channel}_peak" for channel in CHANNELS)
CHANGING = ("flair_share", *PEAKS, _VOLUME)


def changes(lesions: pd.DataFrame, sessions: Sequence[str] = ()) -> pd.DataFrame:
    """Return the change of each person's lesions from the first to the last session.

    Only lesions that both sessions show count; what is new or has vanished has no change.

    Parameters
    ----------
    lesions : DataFrame
        With ``participant_id``, ``session_id``, columns of `CHANGING`, and ``match``: rows of one
        person with the same value there are one lesion, once in a session at most; missing for a
        lesion that no other session shows. See `bids_lesion_xai.lesions.match`.
    sessions : sequence of str
        All values of ``session_id`` in the order of time; sorted by name if not given.

    Returns
    -------
    DataFrame
        One row a participant who has two sessions with a lesion in common: ``participant_id``,
        ``first_session``, ``last_session``, ``n_lesions``, and the mean over these lesions of last
        less first, by column; of peaks, that of their magnitudes; of the volume, the binary
        logarithm of its ratio, in ``volume_doublings``.
    """
    order = {name: place for place, name in enumerate(sessions or sorted(_sessions(lesions)))}
    columns = [name for name in CHANGING if name in lesions]
    names = [VOLUME_CHANGE if name == _VOLUME else name for name in columns]
    rows = []
    for participant, own in lesions.groupby("participant_id"):
        visited = sorted(_sessions(own), key=order.__getitem__)
        if len(visited) < 2:
            continue
        first, last = (_matched(own, session)[columns] for session in (visited[0], visited[-1]))
        change = (last - first).reindex(first.index.intersection(last.index))
        if len(change):
            means = dict(zip(names, change.mean(), strict=True))
            ids = {"participant_id": participant, "first_session": visited[0]}
            rows.append(ids | {"last_session": visited[-1], "n_lesions": len(change)} | means)
    header = ["participant_id", "first_session", "last_session", "n_lesions", *names]
    return pd.DataFrame(rows, columns=header)


def _sessions(lesions: pd.DataFrame) -> set[str]:
    return set(lesions["session_id"].astype(str))


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
