from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.similarity import (
    MIN_COVERAGE,
    MIN_SIMILARITY,
    mutual_information,
    require_match,
    require_two_contrasts,
    similarity,
)
from tests.phantoms import FLAIR, T1W, brain_mask, head, moved, oblique_grid, rigid

GRID = oblique_grid((1.0, 1.0, 1.0), half_extent_mm=56)
BRAIN = brain_mask(GRID)


@pytest.fixture(scope="module")
def t1w() -> NDArray[np.float32]:
    noise = np.random.default_rng(1).normal(0, 30, GRID.shape)
    return (head(GRID, T1W) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def flair() -> NDArray[np.float32]:
    noise = np.random.default_rng(2).normal(0, 20, GRID.shape)
    return (head(GRID, FLAIR) + noise).astype(np.float32)


def _flair_after(motion: NDArray) -> NDArray[np.float32]:
    return head(moved(GRID, motion), FLAIR)


def test_aligned_images_pass(t1w, flair) -> None:
    assert similarity(t1w, flair, BRAIN) > MIN_SIMILARITY


@pytest.mark.parametrize("shift_mm", [(5, 0, 0), (0, -5, 0), (0, 0, 5), (0, 20, 0)])
def test_displaced_images_fail(t1w, shift_mm) -> None:
    assert similarity(t1w, _flair_after(rigid((0, 0, 0), shift_mm)), BRAIN) < MIN_SIMILARITY


@pytest.mark.parametrize("degrees", [(10, 0, 0), (0, 10, 0), (0, 0, 20)])
def test_a_rotation_costs_half_of_the_score(t1w, flair, degrees) -> None:
    turned = similarity(t1w, _flair_after(rigid(degrees, (0, 0, 0))), BRAIN)
    assert turned < 0.5 * similarity(t1w, flair, BRAIN)


@pytest.mark.parametrize("scale", [1, -3])
def test_one_image_under_two_names_is_refused(t1w, flair, scale: float) -> None:
    require_two_contrasts(t1w, flair, BRAIN)
    require_two_contrasts(t1w, np.zeros_like(t1w), BRAIN)
    rounded = np.rint(scale * t1w + 7).astype(np.float32)
    with pytest.raises(DataError, match="one image under two names"):
        require_two_contrasts(t1w, rounded, BRAIN)


def test_images_of_two_people_fail(t1w) -> None:
    assert similarity(t1w, head(GRID, FLAIR, person=1), BRAIN) < MIN_SIMILARITY


def test_score_does_not_depend_on_the_scale_of_intensities(t1w, flair) -> None:
    scaled = similarity(t1w * 4 - 1024, flair / 256, BRAIN)
    assert scaled == pytest.approx(similarity(t1w, flair, BRAIN), abs=1e-3)


def test_score_does_not_depend_on_the_order_in_memory(t1w, flair) -> None:
    expected = similarity(t1w, flair, BRAIN)
    assert similarity(np.asfortranarray(t1w), np.asfortranarray(flair), BRAIN) == expected
    assert similarity(t1w, flair, np.asfortranarray(BRAIN)) == expected


def test_nothing_wraps_around_where_the_brain_touches_the_faces(t1w, flair) -> None:
    box = tuple(slice(n.min(), n.max() + 1) for n in np.nonzero(BRAIN))
    cropped = [image[box] for image in (t1w, np.where(BRAIN, flair, 0), BRAIN)]
    padded = [np.pad(image, 20) for image in cropped]
    assert similarity(*cropped) == pytest.approx(similarity(*padded), abs=0.02)


def test_constant_or_unmasked_images_have_no_similarity(t1w) -> None:
    assert similarity(t1w, np.full_like(t1w, 7), BRAIN) == 0
    assert similarity(t1w, t1w, np.zeros_like(BRAIN)) == 0


def test_mutual_information_of_a_list_with_itself_is_its_entropy() -> None:
    levels = np.repeat(np.arange(8, dtype=np.int32), 5)
    assert mutual_information(levels, levels) == pytest.approx(np.log(8), rel=1e-12)


def test_mutual_information_of_independent_lists_is_zero() -> None:
    first, second = (grid.ravel() for grid in np.indices((4, 6), dtype=np.int32))
    assert mutual_information(first, second) == pytest.approx(0, abs=1e-12)


def test_what_is_expected_is_accepted_and_a_bit_less_is_not() -> None:
    require_match(MIN_SIMILARITY, MIN_COVERAGE)
    for found in (
        (np.nextafter(MIN_SIMILARITY, 0), MIN_COVERAGE),
        (MIN_SIMILARITY, np.nextafter(MIN_COVERAGE, 0)),
    ):
        with pytest.raises(DataError, match="expected"):
            require_match(*found)


def test_a_poor_match_says_what_was_found_and_expected() -> None:
    with pytest.raises(DataError, match=rf"similarity 0\.12, at least {MIN_SIMILARITY} expected"):
        require_match(0.12, 1.0)


def test_a_brain_half_seen_says_what_was_found_and_expected() -> None:
    with pytest.raises(DataError, match="FLAIR shows 61 % of the brain, at least 80 % expected"):
        require_match(0.9, 0.61)
