# SPDX-License-Identifier: Apache-2.0
"""Training patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.training.patches import _HOST, Donor, Patches, _cube, cut_slab
from bids_lesion_xai.training.scans import LabelledScan
from bids_lesion_xai.training.synthesis import SyntheticHead
from bids_lesion_xai.training.tissues import OTHER, UNKNOWN

SIZE = 16
BATCH = 3
CPU = torch.device("cpu")
SHAPE = (44, 42, 46)


def blob(seed: int) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    x, y, z = np.random.default_rng(seed).integers(12, 28, 3)
    mask[x : x + 4, y : y + 3, z : z + 5] = True
    return mask


def scan(person: str, seed: int) -> LabelledScan:
    """Return a scan whose brain is a hollow ball, with one lesion."""
    values = np.random.default_rng(seed).normal(0, 1, (2, *SHAPE))
    radius = np.linalg.norm((np.indices(SHAPE).T - np.array(SHAPE) / 2).T, axis=0)
    brain = (radius < 19) & (radius > 5)
    lesions = blob(seed) & brain
    image = np.where(brain, values + 2 * lesions, 0).astype(np.float32)
    return LabelledScan(person, "01", image, lesions, (1.0, 1.0, 1.0))


def head(number: int) -> SyntheticHead:
    """Return a head without noise, of which lesions may lie in one half."""
    one = scan(f"synthetic/sub-{number}", number)
    image = one.brain * np.ones((2, 1, 1, 1), np.float32)
    hosts = one.brain.copy()
    hosts[SHAPE[0] // 2 :] = False
    tissues = np.full(SHAPE, OTHER, np.uint8)
    none = np.zeros(SHAPE, bool)
    return SyntheticHead(one.person, "", image, none, (1.0,) * 3, hosts, 1.0, tissues)


def batches(*arguments: Any, **options: Any) -> Patches:
    settings = {"patch_size": SIZE, "batch_size": BATCH, "length": 12, "seed": 0}
    return Patches(*arguments, **{**settings, **options})


def patches(seed: int = 0, length: int = 12, masks: bool = True) -> Patches:
    scans = [scan("a/sub-01", 1), scan("a/sub-01", 2), scan("a/sub-02", 3)]
    donors = [blob(7), blob(8)] if masks else []
    return batches(scans, donors, [head(4)], synthetic_share=0.3, length=length, seed=seed)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in ("image", "lesions"))


def test_an_item_depends_on_the_seed_and_its_number_alone() -> None:
    ordered = patches()
    first = [ordered[i] for i in range(8)]
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    other = patches(length=1000)
    for i in (5, 0, 7, 5):
        assert same(other[i], first[i])
    assert not any(same(first[i], first[j]) for i in range(8) for j in range(i))
    assert not same(patches(seed=1)[0], first[0])


@pytest.mark.parametrize("masks", [True, False])
def test_shapes_types_and_labels(masks: bool) -> None:
    items = patches(masks=masks)
    assert len(items) == 12
    n_lesion_patches = 0
    for i in range(len(items)):
        image, lesions = items[i]["image"], items[i]["lesions"]
        assert type(image) is type(lesions) is torch.Tensor
        assert image.shape == (BATCH, 2, SIZE, SIZE, SIZE)
        assert lesions.shape == (BATCH, 1, SIZE, SIZE, SIZE)
        assert image.dtype == lesions.dtype == torch.float32
        assert torch.isfinite(image).all()
        assert set(lesions.unique().tolist()) <= {0.0, 1.0}
        n_lesion_patches += bool(lesions.any())
    assert n_lesion_patches >= 3


def test_background_stays_zero_and_holds_no_lesion() -> None:
    items = patches()
    n_background = 0
    for i in range(len(items)):
        image, lesions = items[i]["image"], items[i]["lesions"][:, 0]
        background = image[:, 0] == 0
        assert torch.equal(background, image[:, 1] == 0)
        assert not lesions[background].any()
        n_background += int(background.sum())
    assert n_background > 1000


def test_a_scan_as_small_as_the_patch_is_enough() -> None:
    whole = scan("a/sub-01", 1)
    part = (slice(14, 14 + SIZE),) * 3
    small = LabelledScan(
        "a/sub-01", "01", whole.image[(slice(None), *part)], whole.lesions[part], (1.0, 1.0, 1.0)
    )
    items = batches([small], [])
    assert {tuple(items[i]["image"].shape) for i in range(6)} == {(BATCH, 2, SIZE, SIZE, SIZE)}


def on_a_lattice() -> list[dict[str, torch.Tensor]]:
    """Return items of a scan with a lesion of 2 voxels edge every 6 voxels, and no background."""
    lattice = np.zeros(SHAPE, bool)
    for x, y, z in np.ndindex(2, 2, 2):
        lattice[x::6, y::6, z::6] = True
    whole = np.random.default_rng(0).normal(9, 1, (2, *SHAPE)).astype(np.float32)
    items = batches([LabelledScan("a/sub-01", "", whole, lattice, (1.0,) * 3)], [], length=20)
    return [items[i] for i in range(20)]


def test_half_of_the_patches_keep_their_voxels() -> None:
    found = on_a_lattice()
    masks = torch.cat([item["lesions"][:, 0] for item in found]) > 0
    brains = torch.cat([item["image"][:, 0] for item in found]) != 0
    kept = torch.ones(len(masks), dtype=torch.bool)
    for axis in (1, 2, 3):
        here, there = (masks.narrow(axis, start, SIZE - 6) for start in (0, 6))
        inside = brains.narrow(axis, 0, SIZE - 6) & brains.narrow(axis, 6, SIZE - 6)
        kept &= ((here == there) | ~inside).flatten(1).all(1)
    # One patch in ten has no lesions in a slab.
    assert 0.3 < kept.float().mean() < 0.6


def test_lesions_keep_their_size_however_small_they_are() -> None:
    found = on_a_lattice()
    n_lesion = sum(float(item["lesions"].sum()) for item in found)
    n_brain = sum(float((item["image"][:, :1] != 0).sum()) for item in found)
    assert n_lesion / n_brain == pytest.approx(8 / 6**3, rel=0.1)


def test_lesions_are_painted_into_white_matter_of_real_scans_and_not_into_their_lesions() -> None:
    radius = np.linalg.norm((np.indices(SHAPE).T - np.array(SHAPE) / 2).T, axis=0)
    white, cortex = radius < 13, (radius >= 13) & (radius < 17)
    lesions = np.zeros(SHAPE, bool)
    lesions[20:24, 19:23, 21:25] = True
    image = np.random.default_rng(0).normal(0, 0.1, (2, *SHAPE)).astype(np.float32)
    image += np.select([white, cortex], [[[[[0.2]]], [[[1.0]]]], [[[[0.7]]], [[[-0.2]]]]], -2)
    image[0][lesions] += 2
    image *= radius < 19
    one = LabelledScan("a/sub-01", "", image, lesions, (1.0, 1.0, 1.0))
    hosts = (batches([one], []).persons[0][0].bits & _HOST).numpy() > 0
    assert not hosts[lesions].any()
    assert not hosts[radius > 14].any()
    away = white & (np.linalg.norm((np.indices(SHAPE).T - [21.5, 20.5, 22.5]).T, axis=0) > 9)
    assert hosts[away].mean() > 0.95


def test_donors_with_many_lesions_are_drawn_more_often() -> None:
    few, many = blob(7), np.zeros(SHAPE, bool)
    many[4:24, 4:22, 4:24] = True
    chances = batches([scan("a/sub-01", 1)], [few, many]).donor_chances
    assert chances.sum() == pytest.approx(1)
    assert chances[1] / chances[0] == pytest.approx((many.sum() / few.sum()) ** 0.5)


def test_every_person_is_drawn_equally_often() -> None:
    assert [len(sessions) for sessions in patches().persons] == [2, 1]


def test_heads_are_drawn_as_often_as_asked() -> None:
    scans, heads = [scan("a/sub-01", 1)], [head(5)]

    def items(**options: Any) -> list[dict[str, torch.Tensor]]:
        source = batches(**options, masks=[], batch_size=1, length=40)
        return [source[i] for i in range(40)]

    real, synthetic = items(scans=scans), items(scans=[], heads=heads)
    for share, expected in ((0.0, real), (1.0, synthetic)):
        mixed = items(scans=scans, heads=heads, synthetic_share=share)
        assert all(map(same, mixed, expected))
    mixed = items(scans=scans, heads=heads, synthetic_share=0.3)
    n_synthetic = sum(map(same, mixed, synthetic))
    assert n_synthetic + sum(map(same, mixed, real)) == 40
    # The standard deviation of 40 draws is 2.9.
    assert abs(n_synthetic - 12) < 4 * 2.9


def test_heads_have_lesions_only_where_some_are_painted_and_they_may_lie() -> None:
    masks = [blob(seed) for seed in range(6)]
    free, painted = batches([], [], [head(4)]), batches([], masks, [head(4)], length=20)
    assert not any(free[i]["lesions"].any() for i in range(12))
    counts = torch.stack([painted[i]["lesions"].sum((1, 2, 3, 4)) for i in range(20)])
    assert (counts > 8).sum() >= 5
    assert (counts == 0).sum() >= 5
    nowhere = head(4)
    nowhere.hosts[:] = False
    none = batches([], masks, [nowhere], length=20)
    assert not any(none[i]["lesions"].any() for i in range(20))


@pytest.mark.parametrize("other_grid", [False, True], ids=["same grid", "other grid"])
def test_lesions_of_a_donor_are_placed_where_their_middles_are_said_to_be(
    other_grid: bool,
) -> None:
    mask = np.zeros((60, 70, 50) if other_grid else SHAPE, bool)
    mask[25:33, 28:36, 20:28] = True
    source = batches([], [], [head(4)]) if other_grid else batches([scan("a/sub-01", 1)], [])
    (one,) = (source.heads or source.persons)[0]
    donor = Donor(mask, CPU)
    for seed in range(8):
        placement = one.place(donor, np.random.default_rng(seed))
        middle = placement.to_scan(donor.middles[0])
        labels = donor.on_cube(placement, middle - 3, 7)
        assert labels.shape == (7, 7, 7)
        # To the nearest voxel, on a grid with voxels of another size.
        assert (labels[2:5, 2:5, 2:5] == 1).any()
    far = donor.on_cube(placement, np.full(3, 500), 4)
    assert not far.any()


@pytest.mark.parametrize("start", [(3, 2, 4), (-5, 4, 38), (-40, 0, 0), (60, 60, 60)])
def test_a_cube_is_cut_with_zeros_beyond_the_volume(start: tuple[int, int, int]) -> None:
    volume = torch.rand(2, *SHAPE)
    padded = np.zeros((2, *(side + 200 for side in SHAPE)), np.float32)
    padded[:, 100:-100, 100:-100, 100:-100] = volume
    box = tuple(slice(first + 100, first + 112) for first in start)
    np.testing.assert_array_equal(_cube(volume, np.array(start), 12), padded[(slice(None), *box)])


def test_small_lesions_are_the_centre_of_a_patch_as_often_as_large_ones() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[4:20, 4:20, 4:20] = True
    mask[30, 30, 30] = mask[38, 36, 40] = True
    places = Donor(mask, CPU).middles
    assert len(places) == 3
    assert all(mask[tuple(place)] for place in places)
    assert places[1:].tolist() == [[30, 30, 30], [38, 36, 40]]
    assert np.abs(places[0] - 12).max() <= 8


@pytest.mark.parametrize("seed", range(6))
def test_beyond_the_slab_flair_is_dark_and_no_lesion_is_seen(seed: int) -> None:
    flair = torch.rand(SIZE, SIZE, SIZE) + 0.5
    lesions = torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool)
    before = flair.clone()
    cut_slab(flair, lesions, np.random.default_rng(seed))
    assert 0 < (~lesions).float().mean() < 0.4
    dark = flair[~lesions]
    assert len(dark.unique()) == 1
    assert (dark <= -2).all()
    assert torch.equal(flair[lesions], before[lesions])


def test_the_tissue_is_known_in_the_brain_outside_of_lesions() -> None:
    n_lesion = 0
    for item in (batches([], [blob(7)], [head(4)], synthetic_share=1.0)[i] for i in range(6)):
        brain, lesions = (item["image"] != 0).any(1), item["lesions"][:, 0] > 0
        assert torch.equal(item["tissues"] == OTHER, brain & ~lesions)
        assert torch.equal(item["tissues"] == UNKNOWN, ~brain | lesions)
        n_lesion += int(lesions.sum())
    assert n_lesion


def test_the_tissue_of_a_scan_is_that_of_its_t1w() -> None:
    one = scan("a/sub-01", 1)
    levels = np.where(np.arange(SHAPE[2]) % 3 == 0, -2.0, np.arange(SHAPE[2]) % 3)
    t1w = np.where(one.brain, levels + 0.01 * one.image[1], 0).astype(np.float32)
    same = replace(one, image=np.stack([one.image[0], t1w]))
    for item in (batches([same], [])[i] for i in range(6)):
        tissues, found = item["tissues"], item["image"][:, 1]
        fluid, grey, white = (found[tissues == number].mean() for number in (1, 2, 3))
        assert fluid < grey < white
        assert not (tissues == OTHER).any()
