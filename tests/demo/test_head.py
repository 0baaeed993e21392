# SPDX-License-Identifier: Apache-2.0
"""Laws of the synthetic heads, their lesions and their images, on a small round brain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from bids_lesion_xai.demo.head import (
    FLAIR,
    T1W,
    Head,
    Template,
    Tissue,
    distance_mm,
    make_head,
    smooth_field,
    surround,
)
from bids_lesion_xai.demo.lesions import add_lesions, lesion_level, place_lesions
from bids_lesion_xai.demo.scanner import Scan, resample, rigid, take_image
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.label import label_lesions

VOLUMES_MM3 = (600, 300, 120, 40)


def ball_template() -> Template:
    """A ball of white matter with a round ventricle, in shells of grey matter and fluid."""
    n = 116
    affine = np.eye(4)
    affine[:3, 3] = -n / 2
    grid = Grid((n, n, n), affine)
    radius = np.linalg.norm(grid.to_world_mm(np.moveaxis(np.indices(grid.shape), 0, -1)), axis=-1)

    def ball(radius_mm: float) -> np.ndarray:
        return np.clip(radius_mm - radius + 0.5, 0, 1).astype(np.float32)

    return Template(grid, ball(37) - ball(9), ball(40) - ball(37), ball(42))


@pytest.fixture(scope="module")
def template() -> Template:
    return ball_template()


@pytest.fixture(scope="module")
def around(template: Template) -> np.ndarray:
    return surround(template, np.random.default_rng(0))


@pytest.fixture(scope="module")
def head(template: Template, around: np.ndarray) -> Head:
    return make_head(template, around, np.random.default_rng(1))


@pytest.fixture(scope="module")
def lesions(head: Head) -> tuple:
    return place_lesions(head, VOLUMES_MM3, np.random.default_rng(2))


@pytest.fixture(scope="module")
def oblique() -> Scan:
    """Anisotropic, oblique, offset, left-handed, over all of the round brain."""
    affine = rigid((8, -5, 12), (0, 0, 0))
    affine[:3, :3] = (
        affine[:3, :3] @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) * (0.8, 1.0, 1.3)
    )
    affine[:3, 3] = np.array([3, -2, 5]) - affine[:3, :3] @ ((np.array([120, 96, 74]) - 1) / 2)
    return Scan(Grid((120, 96, 74), affine), rigid((3, 2, -4), (3, -2, 5)))


def test_smooth_field_has_unit_variance_at_every_voxel():
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, (9, 7, 5), (3, 2, 4)) for _ in range(2000)])
    # Five standard errors: 1/sqrt(2000) of a mean, sqrt(2/2000) of a variance.
    assert np.abs(fields.mean(0)).max() < 5 / np.sqrt(2000)
    assert np.abs(fields.var(0) - 1).max() < 5 * np.sqrt(2 / 2000)


def test_smooth_field_of_distant_knots_changes_little_between_voxels():
    field = smooth_field(np.random.default_rng(0), (40, 40, 40), 20)
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.5


def test_distance_is_in_mm_on_every_axis():
    mask = np.zeros((9, 9, 9), bool)
    mask[1:8, 1:8, 1:8] = True
    grid = Grid((9, 9, 9), np.diag([10.0, 10.0, 2.0, 1.0]))
    assert distance_mm(mask, grid)[4, 4, 4] == 8


def test_skull_and_scalp_close_around_the_brain(template: Template, around: np.ndarray):
    bone = np.isin(around, [Tissue.BONE, Tissue.MARROW])
    inside = ndimage.binary_fill_holes(bone)
    assert inside[template.brain > 0.5].all()
    assert not (bone & (template.brain > 0.5)).any()
    inward = around[:58, 58, 58]
    order = [Tissue(label) for label, _ in itertools.groupby(inward)]
    assert order[:3] == [Tissue.AIR, Tissue.SKIN, Tissue.FAT]
    assert order[-4:] == [Tissue.BONE, Tissue.MARROW, Tissue.BONE, Tissue.FLUID]


def test_contrast_is_that_of_t1w_and_of_flair():
    white, grey, fluid = Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.FLUID
    assert T1W[white] > T1W[grey] > T1W[fluid]
    assert FLAIR[grey] > FLAIR[white] > FLAIR[fluid]


def test_white_matter_has_intensity_one(head: Head):
    core = head.white > 0.999
    assert np.median(head.t1w[core]) == pytest.approx(1, abs=0.02)
    assert np.median(head.flair[core]) == pytest.approx(1, abs=0.02)


def test_same_seed_makes_the_same_head_and_another_seed_another(
    template: Template, around: np.ndarray, head: Head
):
    again = make_head(template, around, np.random.default_rng(1))
    other = make_head(template, around, np.random.default_rng(2))
    np.testing.assert_array_equal(again.t1w, head.t1w)
    np.testing.assert_array_equal(again.flair, head.flair)
    overlap = 2 * ((head.brain > 0.5) & (other.brain > 0.5)).sum()
    assert 0.8 < overlap / ((head.brain > 0.5).sum() + (other.brain > 0.5).sum()) < 0.99


def test_volumes_on_an_oblique_grid_are_those_asked_for(head: Head, lesions: tuple, oblique: Scan):
    level = lesion_level(head, lesions)
    mask = resample(level, head.grid, oblique, outside=-10) > 0
    voxel_mm3 = oblique.grid.voxel_volume_mm3
    labels = label_lesions(mask, voxel_mm3, 0)
    volumes = np.bincount(labels.ravel())[1:] * voxel_mm3
    assert len(volumes) == len(VOLUMES_MM3)
    # Voxels of the border fall in or out at random; their number is at most that of the surface.
    for found, asked in zip(volumes, VOLUMES_MM3, strict=True):
        surface_voxels = 4.84 * asked ** (2 / 3) / voxel_mm3 ** (2 / 3)
        assert abs(found - asked) < 1.5 * np.sqrt(surface_voxels) * voxel_mm3


def test_centroids_on_an_oblique_grid_are_those_of_the_lesions(
    head: Head, lesions: tuple, oblique: Scan
):
    mask = resample(lesion_level(head, lesions), head.grid, oblique, outside=-10) > 0
    labels = label_lesions(mask, oblique.grid.voxel_volume_mm3, 0)
    for label, lesion in enumerate(lesions, start=1):
        centroid_mm = oblique.grid.to_world_mm(np.argwhere(labels == label)).mean(0)
        expected_mm = oblique.to_scanner_mm(lesion.centre_mm)
        assert np.linalg.norm(centroid_mm - expected_mm) < 0.5


def test_lesions_lie_in_white_matter(head: Head, lesions: tuple):
    assert head.white[lesion_level(head, lesions) > 0].min() > 0.5


def test_every_second_lesion_is_beside_the_ventricle(head: Head, lesions: tuple):
    ventricle = (head.fluid > 0.5) & (distance_mm(head.brain > 0.5, head.grid) > 30)
    away_mm = distance_mm(~ventricle, head.grid)
    for index, lesion in enumerate(lesions):
        radius_mm = np.cbrt(lesion.volume_mm3 * 3 / (4 * np.pi))
        voxel = np.rint(lesion.centre_mm - head.grid.affine[:3, 3]).astype(int)
        # A lesion's centroid is off the point where it was seeded, by less than half its radius.
        reach_mm = radius_mm + 2 + (0.5 if index % 2 == 0 else -0.5) * radius_mm
        assert (away_mm[tuple(voxel)] < reach_mm) == (index % 2 == 0)


def test_new_lesions_leave_the_old_ones_alone(head: Head, lesions: tuple):
    new = place_lesions(head, (200, 50), np.random.default_rng(3), lesions)
    before = lesion_level(head, lesions) > 0
    after = lesion_level(head, lesions + new) > 0
    assert after[before].all()
    assert ndimage.label(after, np.ones((3, 3, 3)))[1] == len(lesions) + 2


def test_a_lesion_larger_than_the_white_matter_is_refused(head: Head):
    with pytest.raises(DataError, match="no room for a lesion of 400000 mm3"):
        place_lesions(head, (400_000,), np.random.default_rng(0))


def test_lesions_are_brighter_on_flair_and_darker_on_t1w_by_their_contrast(
    head: Head, lesions: tuple
):
    t1w, flair = add_lesions(head, lesions)
    brain = head.brain > 0.5
    for before, after, name in (
        (head.t1w, t1w, "t1w_contrast"),
        (head.flair, flair, "flair_contrast"),
    ):
        change = (after - before) / before[brain].std()
        for lesion in lesions[:2]:
            found = change[lesion.box][lesion.level > 1.5].mean()
            assert found == pytest.approx(getattr(lesion, name), rel=0.06)
        assert np.abs(change[lesion_level(head, lesions) < -5]).max() < 1e-3


def test_no_lesions_change_nothing(head: Head):
    np.testing.assert_array_equal(add_lesions(head, ())[1], head.flair)
    assert lesion_level(head, ()).max() < 0


def test_truth_lies_where_the_flair_image_is_brighter_than_around(
    head: Head, lesions: tuple, oblique: Scan
):
    image = take_image(add_lesions(head, lesions)[1], head.grid, oblique, np.random.default_rng(5))
    truth = resample(lesion_level(head, lesions), head.grid, oblique, outside=-10) > 0
    labels = label_lesions(truth, oblique.grid.voxel_volume_mm3, 0)
    white = resample(head.white, head.grid, oblique) > 0.9
    for label in range(1, len(lesions) + 1):
        lesion = labels == label
        near = ndimage.binary_dilation(lesion, iterations=6)
        ring = near & ~ndimage.binary_dilation(truth, iterations=3) & white
        assert image[lesion].mean() > 1.1 * image[ring].mean()


def test_resample_puts_a_world_point_where_the_affines_say(head: Head, oblique: Scan):
    index = np.array([60, 40, 30])
    scanner_mm = oblique.grid.to_world_mm(index)
    head_mm = (np.linalg.inv(oblique.head_to_scanner) @ [*scanner_mm, 1])[:3]
    axes = [np.arange(n) for n in head.grid.shape]
    ramp = (axes[0][:, None, None] + 100 * axes[1][:, None] + 10000 * axes[2]).astype(np.float32)
    voxel = head_mm - head.grid.affine[:3, 3]
    found = resample(ramp, head.grid, oblique)[tuple(index)]
    assert found == pytest.approx(voxel @ [1, 100, 10000], rel=1e-5)


def test_subslices_average_over_the_thickness_of_a_slice():
    grid = Grid((4, 4, 30), np.eye(4))
    values = np.zeros(grid.shape, np.float32)
    values[:, :, 15] = 1
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    thick = resample(values, grid, Scan(Grid((4, 4, 10), affine), np.eye(4), n_subslices=3))
    np.testing.assert_allclose(thick[1, 1, 4:7], [0, 1 / 3, 0], atol=1e-6)


def test_background_of_an_image_is_rayleigh_noise():
    grid = Grid((40, 40, 40), np.eye(4))
    scan = Scan(grid, np.eye(4), noise=0.1, white_matter_units=1000)
    image = take_image(np.zeros(grid.shape, np.float32), grid, scan, np.random.default_rng(0))
    assert image.dtype == np.int16
    # Mean of a Rayleigh distribution, within five standard errors.
    assert image.mean() == pytest.approx(100 * np.sqrt(np.pi / 2), abs=5 * 65.5 / np.sqrt(64000))
