# SPDX-License-Identifier: Apache-2.0
"""The volumes of the viewer: the numbers and places that they hold."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.reports import viewer
from bids_lesion_xai.reports.participant import write_report
from bids_lesion_xai.reports.slices import Crop, Scan
from tests.outputs import TWO_SESSIONS, oblique_grid, phantom, publish_outputs

VISIT = TWO_SESSIONS[0]


@pytest.fixture
def scan() -> Scan:
    flair, t1w, labels = phantom(VISIT)
    return Scan(oblique_grid(), {"flair": flair, "t1w": t1w}, flair != 0, labels, 3)


def image_of(text: str) -> nb.Nifti1Image:
    return nb.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def at_world(image: nb.Nifti1Image, world_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of the voxels nearest to places in the world."""
    places = (np.linalg.inv(image.affine)[:3] @ np.c_[world_mm, np.ones(len(world_mm))].T).T
    return image.get_fdata()[tuple(np.rint(places).astype(int).T)]


def test_labels_and_images_lie_where_they_are(scan: Scan) -> None:
    made = viewer.volumes(scan, viewer.Collected(scan.grid), 10**9)
    places = np.argwhere(scan.labels > 0)
    world = scan.grid.to_world_mm(places)
    labels = image_of(made.images["labels"])
    np.testing.assert_array_equal(at_world(labels, world), scan.labels[tuple(places.T)])
    assert labels.header.get_intent()[0] == "label"
    inside = np.argwhere(scan.brain)
    for channel, values in scan.images.items():
        shown = at_world(image_of(made.images[channel]), scan.grid.to_world_mm(inside))
        own = values[tuple(inside.T)]
        assert shown.min() == 1
        assert shown.max() == 255
        middle = (shown > 1) & (shown < 255)
        assert np.corrcoef(shown[middle], own[middle])[0, 1] > 0.999


@pytest.mark.parametrize("budget", [10**9, 1])
def test_saliency_has_its_numbers_and_place_and_is_averaged_where_there_is_much(
    scan: Scan, budget: int
) -> None:
    generator = np.random.default_rng(0)
    maps = {
        channel: Crop(generator.standard_normal((20, 20, 20)).astype(np.float32), (5, 9, 6))
        for channel in CHANNELS
    }
    collected = viewer.Collected(scan.grid)
    box = scan.boxes[0]
    assert box is not None
    collected.add("L001", box, maps)
    made = viewer.volumes(scan, collected, budget)
    limit = made.saliency["L001"]["limit"]
    for channel, crop in maps.items():
        image = image_of(made.saliency["L001"][channel])
        if budget > 1:
            assert made.edge_mm == 1
            places = np.argwhere(np.ones((10, 10, 10), bool)) + 5
            shown = at_world(image, scan.grid.to_world_mm(places + np.array(crop.offset)))
            own = np.clip(crop.values[tuple(places.T)], -limit, limit)
            np.testing.assert_allclose(shown, own, atol=0.51 * limit / 31)
        else:
            assert made.edge_mm == 4
            assert np.linalg.norm(image.affine[:3, 0]) == pytest.approx(4)
            # The mean over the whole box stays, but for rounding and the rim.
            assert abs(image.get_fdata().mean()) < 0.05 * limit


def test_a_lesion_is_looked_at_in_one_of_its_voxels(scan: Scan) -> None:
    for index in (1, 2, 3):
        world = np.array(viewer.voxel_of(scan, index))
        affine = scan.grid.affine
        place = np.rint(np.linalg.inv(affine)[:3] @ np.append(world, 1)).astype(int)
        assert scan.labels[tuple(place)] == index


def test_the_same_volumes_give_the_same_text(scan: Scan) -> None:
    first, second = (viewer.volumes(scan, viewer.Collected(scan.grid), 10**9) for _ in range(2))
    assert first == second


def test_the_program_is_the_one_that_notice_names() -> None:
    source = gzip.decompress(base64.b64decode(viewer.program()))
    root = Path(__file__).parents[2]
    assert hashlib.sha256(source).hexdigest() in (root / "NOTICE").read_text(encoding="utf-8")
    licences = Path(viewer.__file__).parent / "vendor" / "niivue.LICENSES.txt"
    assert hashlib.sha256(source).hexdigest() in licences.read_text(encoding="utf-8")


def test_without_viewer_a_page_holds_neither_program_nor_volumes(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [VISIT])
    text = write_report(Store(store.root), VISIT, with_viewer=False).read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert 'id="niivue"' not in text
    assert "viewer" not in text.replace("viewer { position", "").partition("</style>")[2]
