# SPDX-License-Identifier: Apache-2.0
"""Synthetic heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.training import anatomy as parts
from bids_lesion_xai.training import synthesis
from bids_lesion_xai.training.anatomy import NUMBER, load_anatomies, load_anatomy, tissue
from bids_lesion_xai.training.folds import Material
from bids_lesion_xai.training.synthesis import synthesise, synthetic_heads

SIDE = 40


def label_map() -> NDArray[np.int32]:
    """Return nested balls: skull, fluid, cortex, white matter, ventricle with choroid plexus."""
    radius = np.linalg.norm(np.indices((SIDE,) * 3).T - (SIDE - 1) / 2, axis=-1).T
    labels = np.zeros((SIDE,) * 3, np.int32)
    for outer, label in ((18, 515), (17, 24), (16, 3), (13, 2), (4, 4), (1, 136)):
        labels[radius < outer] = label
    labels[SIDE // 2 :][labels[SIDE // 2 :] == 2] = 41
    return labels


def write(folder: Path, labels: NDArray[Any], side_mm: float = 1.0) -> Path:
    path = folder / "head.nii.gz"
    nb.save(nb.Nifti1Image(labels, side_mm * np.diag([-1.0, 1, 1, 1])), path)
    return path


@pytest.fixture
def anatomy(tmp_path: Path) -> NDArray[np.uint8]:
    return load_anatomy(write(tmp_path, label_map()))


def test_structures_are_told_apart_and_the_map_is_cut_to_the_brain(
    anatomy: NDArray[np.uint8],
) -> None:
    # A ball of radius 16 and 4 voxels around it.
    assert anatomy.shape == (40, 40, 40)
    assert (anatomy == NUMBER[parts.WHITE_MATTER]).sum() == np.isin(label_map(), (2, 41)).sum()
    brain = tissue(anatomy)
    assert not brain[anatomy == NUMBER[parts.FLUID]].any()
    assert not brain[anatomy >= parts.FIRST_EXTRACEREBRAL].any()
    assert brain[anatomy == NUMBER[parts.VENTRICLES]].all()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        *((label, f"unknown labels {label}") for label in (999, -3, 2.5)),
        (2e9, "unknown labels 2e"),
        (3, "no white matter"),
    ],
)
def test_what_is_no_label_map_is_told(tmp_path: Path, label: float, words: str) -> None:
    labels = label_map().astype(np.float64)
    labels[np.isin(labels, (2, 41))] = label
    with pytest.raises(DataError, match=f"head.nii.gz: {words}"):
        load_anatomy(write(tmp_path, labels))


def test_a_label_map_that_cannot_be_read_or_has_other_voxels_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, label_map())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"head\.nii\.gz"):
        load_anatomy(path)
    with pytest.raises(DataError, match=r"head\.nii\.gz has voxels of 2 x 2 x 2 mm"):
        load_anatomy(write(tmp_path, label_map(), side_mm=2.0))


def test_no_head_shares_its_random_numbers_with_another_of_the_folds(
    anatomy: NDArray[np.uint8],
) -> None:
    material = Material((), (anatomy, anatomy))
    trained_on = synthetic_heads([anatomy], count=3, seed=0)
    for head in material.lesion_free:
        assert not any(np.array_equal(head.image, other.image) for other in trained_on)


def test_a_folder_without_label_maps_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no label map"):
        load_anatomies(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_head_is_a_scan_of_normalised_images(anatomy: NDArray[np.uint8], seed: int) -> None:
    head = synthesise(anatomy, np.random.default_rng(seed), name="synthetic/1")
    assert head.image.shape == (2, *anatomy.shape)
    assert head.image.dtype == np.float32
    assert np.isfinite(head.image).all()
    assert np.array_equal(head.image[0] == 0, head.image[1] == 0)
    for channel in head.image:
        inside = channel[head.brain].astype(np.float64)
        assert abs(inside.mean()) < 1e-3
        assert inside.std() == pytest.approx(1, abs=1e-3)
    assert not head.lesions.any()
    assert not (head.hosts & ~head.brain).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_heads_depend_on_seed_and_number_alone(anatomy: NDArray[np.uint8], workers: int) -> None:
    few = synthetic_heads([anatomy], count=2, seed=5)
    more = synthetic_heads([anatomy], count=3, seed=5, workers=workers)
    for one, same in zip(few, more, strict=False):
        assert np.array_equal(one.image, same.image)
        assert np.array_equal(one.hosts, same.hosts)
    assert len(more) == 3
    assert not np.array_equal(more[0].image, more[1].image)
    assert [head.person for head in more] == [f"synthetic/sub-000{i}" for i in (1, 2, 3)]


def test_lesions_may_lie_in_tissue_outside_cortex_and_ventricles(
    anatomy: NDArray[np.uint8],
) -> None:
    (head,) = synthetic_heads([anatomy], count=1, seed=1)
    # A head may be mirrored; the phantom looks the same then.
    white = anatomy == NUMBER[parts.WHITE_MATTER]
    np.testing.assert_array_equal(head.hosts, white & head.brain)
    assert head.hosts.sum() > 1000


def test_the_least_brightening_is_that_of_cortex_over_white_matter(
    anatomy: NDArray[np.uint8],
) -> None:
    for head in synthetic_heads([anatomy], count=4, seed=3):
        cortex, white = (
            head.image[0][anatomy == NUMBER[name]].mean()
            for name in (parts.CORTEX, parts.WHITE_MATTER)
        )
        assert head.least_brightening == pytest.approx(max(0, cortex - white), abs=1e-4)


def test_contrasts_differ_from_head_to_head(anatomy: NDArray[np.uint8]) -> None:
    heads = synthetic_heads([anatomy], count=8, seed=2)
    for channel in range(2):
        means = [
            head.image[channel][anatomy == NUMBER[parts.CORTEX]].mean()
            - head.image[channel][anatomy == NUMBER[parts.WHITE_MATTER]].mean()
            for head in heads
        ]
        assert np.std(means) > 0.1


def test_sulci_are_open_in_some_heads_and_closed_in_others(tmp_path: Path) -> None:
    from_middle = np.indices((SIDE,) * 3).T - (SIDE - 1) / 2
    radius = np.linalg.norm(from_middle, axis=-1).T
    labels = label_map()
    cortex = (radius >= 8) & (radius < 16)
    sulcus = cortex & (radius >= 11) & (np.abs(from_middle.T[0]) < 1)
    labels[cortex], labels[sulcus] = 3, 24
    anatomy = load_anatomy(write(tmp_path, labels))
    filled = []
    for head in synthetic_heads([anatomy], count=12, seed=0):
        flair = head.image[0]
        dark, bright = flair[labels == 4].mean(), flair[cortex & ~sulcus].mean()
        filled.append((flair[sulcus & (radius < 14)].mean() - dark) / (bright - dark))
    assert min(filled) < 0.5
    assert max(filled) > 0.9


@pytest.mark.parametrize("label", [25, 57])
def test_lesions_of_the_people_of_the_label_maps_are_not_to_be_seen(
    tmp_path: Path, anatomy: NDArray[np.uint8], label: int
) -> None:
    labels = label_map()
    labels[24:28, 14:18, 14:18][labels[24:28, 14:18, 14:18] == 41] = label
    assert (labels == label).sum() > 20
    with_lesion = load_anatomy(write(tmp_path, labels))
    heads = [synthesise(one, np.random.default_rng(0), name="") for one in (anatomy, with_lesion)]
    assert np.array_equal(heads[0].image, heads[1].image)
    assert np.array_equal(heads[0].hosts, heads[1].hosts)


def test_no_point_in_white_matter_is_bright_on_flair(
    anatomy: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a point could not be told from a small lesion."""
    seen = []

    def recorded(where: NDArray[np.bool_]) -> NDArray[np.float32]:
        seen.append(where.copy())
        return np.zeros(where.shape, np.float32)

    monkeypatch.setattr(synthesis, "_points", recorded)
    white = anatomy == NUMBER[parts.WHITE_MATTER]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        synthesis._add_artefacts(np.ones((2, *anatomy.shape), np.float32), anatomy, rng)
    without_white = [not (where & white).any() for where in seen[::2]]
    assert 5 < sum(without_white) < 25
    assert all((where & white).any() for where in seen[1::2] if where.sum() > 50)
