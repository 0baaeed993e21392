# SPDX-License-Identifier: Apache-2.0
"""A visit: one participant in one session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path
from typing import Any

from bids_lesion_xai.conventions import session_order


@total_ordering
@dataclass(frozen=True)
class Visit:
    """One participant in one session, the unit that is processed.

    Visits are ordered by participant, and those of one by `session_order`.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    session : str
        Label without ``ses-``; empty in a dataset without sessions.
    """

    participant: str
    session: str = ""

    def __lt__(self, other: Visit) -> bool:
        """Tell whether this visit stands before `other`."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        return self.participant, session_order(self.session)

    @property
    def entities(self) -> dict[str, str]:
        """The entities ``sub`` and, where there are sessions, ``ses``."""
        return {"sub": self.participant} | ({"ses": self.session} if self.session else {})

    @property
    def name(self) -> str:
        """The visit as it stands at the start of file names, e.g. ``sub-01_ses-02``."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @classmethod
    def parse(cls, name: str) -> Visit:
        """Return the visit that is called `name`, e.g. ``sub-01_ses-02``.

        >>> Visit.parse("sub-01_ses-02")
        Visit(participant='01', session='02')
        """
        entities = dict(pair.split("-", 1) for pair in name.split("_"))
        return cls(entities["sub"], entities.get("ses", ""))

    @property
    def folder(self) -> Path:
        """The visit's folder relative to the dataset, e.g. ``sub-01/ses-02``."""
        return Path(*(f"{key}-{value}" for key, value in self.entities.items()))
