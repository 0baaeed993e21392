# SPDX-License-Identifier: Apache-2.0
"""A visit: one participant in one session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Visit:
    """One participant in one session, the unit that is processed.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    session : str
        Label without ``ses-``; empty in a dataset without sessions.
    """

    participant: str
    session: str = ""

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
