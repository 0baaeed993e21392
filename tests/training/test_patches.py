# SPDX-License-Identifier: Apache-2.0
"""Training patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.training.patches import Patches, ThickSlices, _cut_slab, _Shapes
from bids_lesion_xai.training.scans import LabelledScan

SIZE = 16
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


def patches(seed: int = 0, length: int = 12, masks: bool = True) -> Patches:
    scans = [scan("a/sub-01", 1), scan("a/sub-01", 2), scan("a/sub-02", 3)]
    donors = [blob(7), blob(8)] if masks else []
    return Patches(scans, donors, patch_size=SIZE, length=length, seed=seed)


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
        assert (image.shape, lesions.shape) == ((2, SIZE, SIZE, SIZE), (1, SIZE, SIZE, SIZE))
        assert image.dtype == lesions.dtype == torch.float32
        assert torch.isfinite(image).all()
        assert set(lesions.unique().tolist()) <= {0.0, 1.0}
        n_lesion_patches += bool(lesions.any())
    assert n_lesion_patches >= 3


def test_background_stays_zero_and_holds_no_lesion() -> None:
    items = patches()
    n_background = 0
    for i in range(len(items)):
        image, lesions = items[i]["image"], items[i]["lesions"][0]
        background = image[0] == 0
        assert torch.equal(background, image[1] == 0)
        assert not lesions[background].any()
        n_background += int(background.sum())
    assert n_background > 1000


def test_a_scan_as_small_as_the_patch_is_enough() -> None:
    whole = scan("a/sub-01", 1)
    part = (slice(14, 14 + SIZE),) * 3
    small = LabelledScan(
        "a/sub-01", "01", whole.image[(slice(None), *part)], whole.lesions[part], (1.0, 1.0, 1.0)
    )
    items = Patches([small], [], patch_size=SIZE, length=6, seed=0)
    assert {tuple(items[i]["image"].shape) for i in range(6)} == {(2, SIZE, SIZE, SIZE)}


def test_every_person_is_drawn_equally_often() -> None:
    assert [len(sessions) for sessions in patches().persons] == [2, 1]


def test_thick_slices_keep_the_shape_and_the_mean() -> None:
    thick = ThickSlices(prob=1.0)
    thick.set_random_state(0)
    image = torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    for _ in range(6):
        changed = thick(image)
        assert changed.shape == image.shape
        assert float(changed.var()) < float(image.var())
        assert abs(float(changed.mean() - image.mean())) < 0.02
    assert torch.equal(ThickSlices(prob=0.0)(image), image)


def test_heads_are_drawn_as_often_as_asked() -> None:
    scans, heads = [scan("a/sub-01", 1)], [scan("synthetic/sub-0001", 5)]

    def items(**options: Any) -> list[dict[str, torch.Tensor]]:
        source = Patches(**options, masks=[], patch_size=SIZE, length=40, seed=0)
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


def test_small_lesions_are_the_centre_of_a_patch_as_often_as_large_ones() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[4:20, 4:20, 4:20] = True
    mask[30, 30, 30] = mask[38, 36, 40] = True
    middles = _Shapes(mask).middles
    places = np.transpose(np.unravel_index(np.sort(middles), SHAPE))
    assert len(places) == 3
    assert all(mask[tuple(place)] for place in places)
    assert places[1:].tolist() == [[30, 30, 30], [38, 36, 40]]
    assert np.abs(places[0] - 12).max() <= 8


@pytest.mark.parametrize("seed", range(6))
def test_beyond_the_slab_flair_is_dark_and_no_lesion_is_seen(seed: int) -> None:
    flair = torch.rand(1, SIZE, SIZE, SIZE) + 0.5
    flair[:, :3] = 0
    lesions = torch.ones(1, SIZE, SIZE, SIZE)
    before = flair.clone()
    _cut_slab(flair, lesions, np.random.default_rng(seed))
    beyond = lesions == 0
    assert 0 < beyond.float().mean() < 0.4
    dark = flair[beyond & (before != 0)]
    assert len(dark.unique()) <= 1
    assert (dark <= -2).all()
    assert torch.equal(flair[~beyond], before[~beyond])
    assert (flair[before == 0] == 0).all()
