# SPDX-License-Identifier: Apache-2.0
"""Right, wrong and missed lesions, control regions, and normal-appearing white matter."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.lesions.compare import Regions, add_controls, compare
from bids_lesion_xai.lesions.label import CONNECTIVITY, label_lesions
from bids_lesion_xai.lesions.normal import LESION_MARGIN_MM, normal_white_matter

SHAPE = (24, 22, 20)


def blobs(seed: int, threshold: float = 1.1) -> NDArray[np.bool_]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.2)
    return np.asarray(field > threshold * field.std() * 1.5)


@pytest.mark.parametrize("seed", range(6))
def test_outcomes_are_those_of_a_loop_over_components(seed: int) -> None:
    predicted = label_lesions(blobs(seed), 1.5, 6.0)
    reference = blobs(seed + 100) | np.roll(blobs(seed), 2, 0)
    regions = compare(predicted, reference, 1.5, 6.0)
    n_predicted = int(predicted.max())
    for index in range(1, n_predicted + 1):
        own = predicted == index
        np.testing.assert_array_equal(regions.labels == index, own)
        assert regions.outcomes[index - 1] == ("TP" if (own & reference).any() else "FP")
    components, count = ndimage.label(reference, CONNECTIVITY)
    missed = [
        part
        for part in (components == i for i in range(1, count + 1))
        if part.sum() * 1.5 >= 6 and not (part & (predicted > 0)).any()
    ]
    found = [regions.labels == i for i in range(n_predicted + 1, len(regions.outcomes) + 1)]
    assert regions.outcomes[n_predicted:] == ("FN",) * len(missed)
    assert {part.tobytes() for part in found} == {part.tobytes() for part in missed}
    assert regions.labels.dtype == np.int32


def test_a_lesion_of_the_reference_that_is_too_small_still_makes_a_prediction_right() -> None:
    predicted, reference = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, bool)
    predicted[4:7, 4:7, 4] = 1
    reference[6, 6, 4] = reference[15, 15, 15] = True
    assert compare(predicted, reference, 1.0, 6.0).outcomes == ("TP",)


def test_an_empty_reference_makes_all_wrong_and_no_prediction_misses_all() -> None:
    predicted, nothing = label_lesions(blobs(1), 1.0, 6.0), np.zeros(SHAPE, np.int32)
    wrong = compare(predicted, nothing > 0, 1.0, 6.0)
    assert set(wrong.outcomes) == {"FP"}
    missed = compare(nothing, predicted > 0, 1.0, 6.0)
    assert set(missed.outcomes) == {"FN"}
    np.testing.assert_array_equal(missed.labels > 0, predicted > 0)


@pytest.fixture
def regions() -> Regions:
    labels = np.zeros(SHAPE, np.int32)
    labels[2:5, 2:4, 2:4] = labels[5, 3, 3] = 1
    labels[2:4, 10:12, 3] = 2
    labels[1:12, 14:21, 1:10] = 3
    return Regions(labels, ("TP", "FN", "FP"))


def test_controls_are_moved_copies_in_normal_white_matter(regions: Regions) -> None:
    normal = np.zeros(SHAPE, bool)
    normal[10:20, 3:12, 4:18] = True
    found = add_controls(regions, normal, 0, "sub-01")
    # There is no room for the third.
    assert found.outcomes == ("TP", "FN", "FP", "TN", "TN")
    np.testing.assert_array_equal(np.where(found.labels <= 3, found.labels, 0), regions.labels)
    assert normal[found.labels > 3].all()
    shapes = [
        voxels - voxels.min(0) for voxels in map(np.argwhere, _masks(regions.labels, (1, 2)))
    ]
    for shape, mask in zip(shapes, _masks(found.labels, (4, 5)), strict=True):
        voxels = np.argwhere(mask)
        np.testing.assert_array_equal(voxels - voxels.min(0), shape)


def _masks(labels: NDArray[np.int32], values: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    return [labels == value for value in values]


def test_seed_and_visit_fix_the_places(regions: Regions) -> None:
    normal = np.ones(SHAPE, bool)
    normal[:, :, :2] = False
    first = add_controls(regions, normal, 0, "sub-01")
    again = add_controls(regions, normal, 0, "sub-01")
    np.testing.assert_array_equal(first.labels, again.labels)
    for seed, visit in ((1, "sub-01"), (-1, "sub-01"), (2**80, "sub-01"), (0, "sub-02")):
        other = add_controls(regions, normal, seed, visit)
        assert other.outcomes == first.outcomes
        assert (other.labels != first.labels).any()


def test_a_place_at_the_face_does_not_wrap_around(regions: Regions) -> None:
    normal = np.zeros(SHAPE, bool)
    normal[-1], normal[0] = True, True
    assert add_controls(regions, normal, 0, "sub-01").outcomes == regions.outcomes


def head() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Return FLAIR, T1w and tissues (0, 24 fluid, 3 cortex, 2 white matter) of a ball."""
    size = 48
    radius = np.linalg.norm(np.indices((size,) * 3).T - (size - 1) / 2, axis=-1)
    tissues = np.select([radius < 14, radius < 19, radius < 22], [2, 3, 24], 0)
    generator = np.random.default_rng(0)
    means = {0: (0.0, 0.0), 24: (-2.0, -2.0), 3: (0.7, -0.3), 2: (-0.2, 0.9)}
    images = [
        np.vectorize(lambda tissue, i=i: means[tissue][i])(tissues)
        + 0.1 * generator.normal(size=tissues.shape) * (tissues > 0)
        for i in (0, 1)
    ]
    return images[0].astype(np.float32), images[1].astype(np.float32), tissues.astype(np.int32)


@pytest.mark.parametrize("with_map", [False, True])
def test_normal_white_matter_is_white_matter_far_from_lesions(with_map: bool) -> None:
    flair, t1w, tissues = head()
    lesions = np.zeros(tissues.shape, bool)
    lesions[20:23, 20:23, 20:23] = True
    # A bright spot that nobody marked, and a vessel.
    flair[30:33, 24, 24] += 3
    t1w[24, 24, 2:6] = 9
    spacing_mm = (1.0, 1.0, 1.2)
    normal = normal_white_matter(
        flair, t1w, tissues > 0, lesions, spacing_mm, tissues if with_map else None
    )
    distance = ndimage.distance_transform_edt(~lesions, sampling=spacing_mm)
    white = ndimage.binary_erosion(tissues == 2) & (distance > LESION_MARGIN_MM)
    assert not (normal & ~(tissues == 2)).any()
    assert distance[normal].min() > LESION_MARGIN_MM
    assert not normal[30:33, 24, 24].any()
    assert (normal & white).sum() > 0.97 * white.sum()


@pytest.mark.parametrize("error", [-1e-7, 1e-7])
def test_the_last_digit_of_the_spacing_moves_no_border_of_normal_white_matter(
    error: float,
) -> None:
    flair, t1w, tissues = head()
    lesions = np.zeros(tissues.shape, bool)
    lesions[20:23, 20:23, 20:23] = True
    exact, found = (
        normal_white_matter(flair, t1w, tissues > 0, lesions, (edge, edge, edge), tissues)
        for edge in (1.0, 1.0 + error)
    )
    np.testing.assert_array_equal(found, exact)


def test_a_brain_full_of_lesions_has_no_normal_white_matter() -> None:
    flair, t1w, tissues = head()
    lesions = np.ones(tissues.shape, bool)
    assert not normal_white_matter(flair, t1w, tissues > 0, lesions, (1.0, 1.0, 1.0)).any()
