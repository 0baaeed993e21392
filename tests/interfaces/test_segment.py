# SPDX-License-Identifier: Apache-2.0
"""The interface of the segmentation: what it writes follows from the network's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.segment import Segment
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.inference import Predictor
from bids_lesion_xai.models.network import load_network
from tests.bundles import INFERER, MULTIPLE, multiply_weights, write_small_bundle
from tests.phantoms import oblique_grid

# An odd side: the network takes multiples of 2. A voxel holds 2.64 mm3.
SHAPE = (25, 22, 18)
GRID = Grid(SHAPE, oblique_grid((1.0, 1.2, 2.2), (-1, 1, 1), (9, -6, 12)).affine)
# Middle and radius in voxels of what is bright in FLAIR; the last lies outside the brain.
BALLS = (((8, 8, 8), 3.5), ((16, 14, 11), 3.0), ((15, 6, 6), 2.5), ((2, 2, 2), 3.0))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("segment") / "model")


def images(balls: Any = BALLS) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return FLAIR and T1w, shape (2, X, Y, Z), and a brain that the images reach beyond."""
    voxels = np.stack(np.indices(SHAPE), -1)
    brain = np.linalg.norm((voxels - [12, 11, 9]) / [10, 9, 8], axis=-1) <= 1
    values = np.random.default_rng(1).normal(0, 0.4, (2, *SHAPE)).astype(np.float32)
    for middle, radius in balls:
        values[0, np.linalg.norm(voxels - middle, axis=-1) <= radius] += 5
    return values, brain


def segment(
    folder: Path,
    model: Path,
    values: NDArray[np.float32],
    brain: NDArray[np.bool_],
    **options: Any,
) -> Any:
    """Run the interface in `folder`, and return its outputs."""
    arrays = {"flair_file": values[0], "t1w_file": values[1], "brain_mask_file": brain}
    files = {
        name: str(nifti.save(folder / f"{name}.nii.gz", array, GRID))
        for name, array in arrays.items()
    }
    given = {"threshold": 0.5, "min_volume_mm3": 0.0, **options}
    given.setdefault("peak_threshold", given["threshold"])
    run = Segment(
        model=str(model),
        device="cpu",
        use_gpu=False,
        allow_tf32=False,
        flip=False,
        n_threads=1,
        **files,
        **given,
    )
    return run.run(cwd=str(folder)).outputs


def arrays_of(outputs: Any) -> tuple[NDArray, NDArray, NDArray]:
    """Return probability, mask and labels as they lie on disk, all on the grid of the input."""
    loaded = []
    for path, dtype in (
        (outputs.probability_file, np.float32),
        (outputs.mask_file, np.uint8),
        (outputs.labels_file, np.int32),
    ):
        assert nb.load(path).get_data_dtype() == dtype
        values, grid = nifti.load(Path(path), dtype)
        assert grid.same_as(GRID, 1e-4)
        loaded.append(values)
    return loaded[0], loaded[1], loaded[2]


def test_the_probability_is_that_of_the_network_in_the_brain(tmp_path: Path, model: Path) -> None:
    values, brain = images()
    probability, _, _ = arrays_of(segment(tmp_path, model, values, brain))
    network = load_network(read_bundle(model), torch.device("cpu"))
    padded = np.pad(values, ((0, 0), (0, 1), (0, 0), (0, 0)))
    with torch.inference_mode():
        background, lesion = network(torch.from_numpy(padded)[None])[0, :, :-1].numpy()
    expected = 1 / (1 + np.exp(background.astype(np.float64) - lesion))
    assert expected[~brain].max() > 0.9
    np.testing.assert_allclose(probability, np.where(brain, expected, 0), atol=1e-6)


def test_a_model_of_windows_predicts_by_windows(tmp_path: Path) -> None:
    values, brain = images()
    model = write_small_bundle(tmp_path / "windows", inferer=INFERER)
    probability, _, _ = arrays_of(segment(tmp_path, model, values, brain))
    network, image = (
        load_network(read_bundle(model), torch.device("cpu")),
        torch.from_numpy(values),
    )
    arguments = {key: INFERER[key] for key in ("roi_size", "sw_batch_size", "overlap", "mode")}
    with torch.inference_mode():
        by_windows = SlidingWindowInferer(**arguments)(image[None], network)[0]
        by_volume = Predictor(network, MULTIPLE)(image)
    expected, whole = (
        np.where(brain, logits.double().softmax(0)[1].numpy(), 0)
        for logits in (by_windows, by_volume)
    )
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert np.abs(whole - expected).max() > 0.01


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.95])
def test_the_mask_is_where_the_probability_reaches_the_threshold_in_the_brain(
    tmp_path: Path, model: Path, threshold: float
) -> None:
    values, brain = images()
    outputs = segment(tmp_path, model, values, brain, threshold=threshold)
    probability, mask, _ = arrays_of(outputs)
    np.testing.assert_array_equal(mask, (probability >= np.float32(threshold)) & brain)
    assert 0 < mask.sum() < brain.sum() / 4


def test_a_lesion_whose_peak_is_too_low_is_dropped_and_no_other_changes(
    tmp_path: Path, model: Path
) -> None:
    values, brain = images()
    probability, every, _ = arrays_of(segment(tmp_path, model, values, brain, threshold=0.2))
    components, count = ndimage.label(every, np.abs(np.indices((3, 3, 3)) - 1).sum(0) <= 2)
    peaks = ndimage.maximum(probability, components, np.arange(1, count + 1))
    least = float(np.median(peaks))
    folder = tmp_path / "peaks"
    folder.mkdir()
    outputs = segment(folder, model, values, brain, threshold=0.2, peak_threshold=least)
    _, mask, _ = arrays_of(outputs)
    kept = 1 + np.flatnonzero(peaks >= np.float32(least))
    assert 0 < len(kept) < count
    np.testing.assert_array_equal(mask, np.isin(components, kept))


def test_a_lesion_is_a_component_of_at_least_the_minimum_volume(
    tmp_path: Path, model: Path
) -> None:
    values, brain = images()
    every = arrays_of(segment(tmp_path, model, values, brain))[1]
    components, n_components = ndimage.label(every, ndimage.generate_binary_structure(3, 2))
    volumes_mm3 = np.bincount(components.ravel())[1:] * GRID.voxel_volume_mm3
    assert n_components >= 3
    for min_volume_mm3 in (0.0, *volumes_mm3):
        outputs = segment(tmp_path, model, values, brain, min_volume_mm3=float(min_volume_mm3))
        _, mask, labels = arrays_of(outputs)
        kept = 1 + np.flatnonzero(volumes_mm3 >= min_volume_mm3 * 0.999)
        np.testing.assert_array_equal(mask, np.isin(components, kept))
        np.testing.assert_array_equal(mask, labels > 0)
        assert labels.max() == len(kept)
        assert all(len(np.unique(components[labels == i])) == 1 for i in range(1, len(kept) + 1))


def test_the_largest_lesions_lie_where_flair_is_bright(tmp_path: Path, model: Path) -> None:
    labels = arrays_of(segment(tmp_path, model, *images(), min_volume_mm3=20.0))[2]
    assert labels.max() == 3
    for lesion, (middle, _) in enumerate(BALLS[:3], start=1):
        assert np.linalg.norm(np.argwhere(labels == lesion).mean(0) - middle) < 1


def test_no_lesion_is_a_valid_result(tmp_path: Path, model: Path) -> None:
    outputs = segment(tmp_path, model, *images(balls=()))
    probability, mask, labels = arrays_of(outputs)
    assert 0 < probability.max() < 0.5
    assert not mask.any()
    assert not labels.any()


@pytest.mark.parametrize("inferer", [None, INFERER])
def test_logits_that_are_not_finite_are_no_brain_without_lesions(
    tmp_path: Path, inferer: dict[str, Any] | None
) -> None:
    model = write_small_bundle(tmp_path / "model", inferer=inferer)
    multiply_weights(model, 1e30)
    with pytest.raises(DataError, match=r"Model small .*not finite in \d+ of \d+ voxels"):
        segment(tmp_path, model, *images())


def test_the_same_images_give_the_same_files(tmp_path: Path, model: Path) -> None:
    found = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        outputs = segment(tmp_path / run, model, *images())
        found.append(arrays_of(outputs))
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
