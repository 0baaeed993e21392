# SPDX-License-Identifier: Apache-2.0
"""Reports of visits whose maps of single lesions were not kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from numpy.typing import NDArray

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.explain.summary import nearest_lesion
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.reports import participant
from bids_lesion_xai.reports.participant import write_report
from bids_lesion_xai.reports.slices import Crop, Scan
from tests.outputs import TWO_SESSIONS, WITHOUT_LESION, publish_outputs

VISIT = TWO_SESSIONS[0]
_WORDS = "The maps of single lesions were not kept"


def whole(crop: Crop, scan: Scan) -> NDArray[np.float32]:
    values = np.zeros(scan.labels.shape, np.float32)
    box = tuple(
        slice(first, first + n) for first, n in zip(crop.offset, crop.values.shape, strict=True)
    )
    values[box] = crop.values
    return values


def drawn(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, str], Any]:
    """Write the report; return the maps that it shows by lesion and image, on the whole grid."""
    found = {}
    draw = participant.draw_lesion

    def take(scan: Scan, index: int, crops: Mapping[str, Crop], *rest: Any) -> Markup:
        found.update({(index, channel): whole(crops[channel], scan) for channel in CHANNELS})
        return draw(scan, index, crops, *rest)

    monkeypatch.setattr(participant, "draw_lesion", take)
    write_report(store, VISIT)
    return found


def test_of_each_lesion_its_own_map_is_shown_up_to_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = publish_outputs(tmp_path, [VISIT, WITHOUT_LESION])
    kept = drawn(store, monkeypatch)
    assert _WORDS not in store.path("report", VISIT).read_text(encoding="utf-8")

    labels, grid = nifti.load(store.path("lesion_labels", VISIT), np.int32)
    nearest = nearest_lesion(labels, grid.spacing_mm)
    own = {key: np.where(nearest == key[0], values, 0) for key, values in kept.items()}
    for channel in CHANNELS:
        together = sum(values for (_, name), values in own.items() if name == channel)
        path = store.path(f"saliency_{channel}", VISIT)
        nifti.save(path, np.asarray(together, np.float32), grid)
    for path in store.root.rglob("*label-L0*_saliency.nii.gz"):
        path.unlink()

    shown = drawn(store, monkeypatch)
    assert set(shown) == set(kept)
    for key, values in shown.items():
        np.testing.assert_array_equal(values, own[key])
        assert values.any()
    assert _WORDS in store.path("report", VISIT).read_text(encoding="utf-8")


def test_without_lesions_there_is_no_map_to_miss(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [WITHOUT_LESION])
    report = write_report(store, WITHOUT_LESION)
    assert _WORDS not in report.read_text(encoding="utf-8")
