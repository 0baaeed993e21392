# SPDX-License-Identifier: Apache-2.0
"""What to cite, and what was done, for all visits of an output folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.reports.methods import (
    bibliography,
    cited,
    numbered,
    paragraph,
    read_facts,
    reference,
)

_NOTE = (
    "Written by bids_lesion_xai from what the sidecars of the complete visits state, to be copied "
    "into a paper (CC0).\n"
)
_NOTHING_YET = (
    "No visit is complete yet. Explanation of single lesions: [@spagnolo2024; @spagnolo2026]."
)


def ways(store: Store) -> dict[str, list[Visit]]:
    """Return what was done, as paragraphs, to which of the visits that are complete."""
    found: dict[str, list[Visit]] = {}
    for visit in store.visits():
        # Its files are damaged, or another run processes it again; the group level tells.
        with suppress(DataError):
            found.setdefault(paragraph(read_facts(store, visit)), []).append(visit)
    return found


def write_citation(store: Store) -> list[Path]:
    """Write ``logs/CITATION.md`` and ``logs/CITATION.bib`` for the visits that are complete.

    Visits that were processed in one way share a paragraph.

    Returns
    -------
    list of Path
    """
    found = ways(store)
    texts = list(found) or [_NOTHING_YET]
    keys = cited(texts)
    parts = ["# Methods\n", _NOTE]
    for text in texts:
        if len(found) > 1:
            names = ", ".join(visit.name for visit in found[text])
            parts.append(f"## Visits {names}\n")
        parts.append(numbered(text, keys) + "\n")
    parts.append("## References\n")
    entries = (f"{number}. {reference(key)}\n" for number, key in enumerate(keys, start=1))
    works = "".join(f"{bibliography()[key]}\n" for key in keys)
    return [
        store.write_text("logs/CITATION.md", "\n".join(parts) + "\n" + "".join(entries)),
        store.write_text("logs/CITATION.bib", works),
    ]
