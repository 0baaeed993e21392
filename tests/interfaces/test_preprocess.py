from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid, centre_of_mass_mm
from bids_lesion_xai.interfaces import preprocess
from bids_lesion_xai.interfaces.preprocess import (
    BrainMask,
    Conform,
    RegisterFlair,
    ResampleMask,
    Standardise,
    WriteFacts,
)
from tests.phantoms import (
    BRAIN_MM,
    CENTRE_MM,
    FLAIR,
    T1W,
    brain_mask,
    head,
    moved,
    oblique_grid,
    rigid,
    world_mm,
)

VISIT = "sub-01_ses-02"
WORK_GRID = oblique_grid((1.0, 1.0, 1.0), degrees=(0, 0, 4))
COARSE_GRID = oblique_grid((2.0, 2.0, 2.0), degrees=(0, 0, 4))
NATIVE = {
    "LAS": oblique_grid((0.9, 1.1, 3.0), flips=(-1, 1, 1)),
    "LPS, oblique": oblique_grid((0.8, 1.2, 3.0), flips=(-1, -1, 1), degrees=(14, -9, 21)),
    "sagittal, left-handed": oblique_grid((3.0, 1.0, 1.2), flips=(1, 1, -1), order=(1, 2, 0)),
}


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=NATIVE.values(), ids=NATIVE.keys())
def native(request: pytest.FixtureRequest) -> Grid:
    return request.param


def _saved(name: str, values: NDArray, grid: Grid) -> str:
    return str(nifti.save(Path(name).resolve(), values, grid))


def _transform(motion: NDArray) -> str:
    """Write the ITK transform, from points of T1w to points of FLAIR, of a motion (RAS+)."""
    lps = np.diag([-1.0, -1.0, 1.0])
    numbers = [*(lps @ motion[:3, :3] @ lps).ravel(), *(lps @ motion[:3, 3])]
    path = Path("known.txt").resolve()
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(map(str, numbers))}\nFixedParameters: 0 0 0\n"
    )
    return str(path)


def _points_mapped(transform_file: str, points_mm: NDArray) -> NDArray:
    """Return where an ITK transform of any centre maps `points_mm`, shape (n, 3), RAS+."""
    lines = Path(transform_file).read_text().splitlines()
    numbers = np.array(lines[3].split()[1:], float)
    centre = np.array(lines[4].split()[1:], float)
    points = points_mm * [-1, -1, 1] - centre
    return (points @ numbers[:9].reshape(3, 3).T + numbers[9:] + centre) * [-1, -1, 1]


def test_importing_the_interfaces_imports_nothing_slow() -> None:
    code = (
        "import sys, bids_lesion_xai.interfaces.preprocess\n"
        "print({'ants', 'torch', 'deepbet'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout.strip() == "set()"


@pytest.mark.ants
def test_conform_keeps_what_lies_where_in_the_world(native: Grid) -> None:
    """A linear function of the place is reproduced exactly by a linear interpolation."""
    slope = np.array([3.0, -5.0, 7.0])
    values = (world_mm(native) @ slope + 1000).astype(np.float32)
    result = Conform(in_file=_saved("t1w.nii.gz", values, native), visit=VISIT).run()
    conformed, grid = nifti.load(Path(result.outputs.out_file))
    np.testing.assert_allclose(grid.spacing_mm, 1, rtol=1e-6)
    inside = ndimage.binary_erosion(conformed != 0, iterations=4)
    assert inside.mean() > 0.7
    expected = (world_mm(grid) @ slope + 1000)[inside]
    np.testing.assert_allclose(conformed[inside], expected, atol=0.01)


@pytest.mark.ants
def test_conform_changes_no_voxel_of_an_isotropic_image() -> None:
    values = head(WORK_GRID, T1W)
    result = Conform(in_file=_saved("t1w.nii.gz", values, WORK_GRID), visit=VISIT).run()
    conformed, grid = nifti.load(Path(result.outputs.out_file))
    assert grid.same_as(WORK_GRID)
    np.testing.assert_allclose(conformed, values, atol=1e-2)


@pytest.mark.ants
def test_conform_leaves_the_range_of_the_input_nowhere(native: Grid) -> None:
    result = Conform(in_file=_saved("t1w.nii.gz", head(native, T1W), native), visit=VISIT).run()
    conformed, _ = nifti.load(Path(result.outputs.out_file))
    assert conformed.min() == 0
    assert conformed.max() <= max(T1W.values())


def test_a_broken_image_is_reported_with_its_visit() -> None:
    Path("t1w.nii.gz").write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"^{VISIT}: t1w.nii.gz cannot be read"):
        Conform(in_file=str(Path("t1w.nii.gz").resolve()), visit=VISIT).run()


def _brain_mask(skull_strip: str, native: Grid, values: NDArray) -> BrainMask:
    native_file = _saved("t1w.nii.gz", values, native)
    conformed = Conform(in_file=native_file, visit=VISIT).run().outputs.out_file
    return BrainMask(
        conformed_file=conformed, native_file=native_file, skull_strip=skull_strip, visit=VISIT
    )


@pytest.mark.ants
@pytest.mark.parametrize("skull_strip", ["auto", "skip"])
def test_a_stripped_brain_is_taken_as_it_is(skull_strip: str, native: Grid) -> None:
    stripped = np.where(brain_mask(native), head(native, T1W), 0)
    result = _brain_mask(skull_strip, native, stripped).run().outputs
    mask, grid = nifti.load(Path(result.brain_mask_file), np.bool_)
    truth = brain_mask(grid)
    assert result.method == "given"
    assert result.volume_mm3 == mask.sum() * grid.voxel_volume_mm3
    assert 2 * np.count_nonzero(mask & truth) / (mask.sum() + truth.sum()) > 0.97


@pytest.mark.ants
def test_a_mask_of_other_derivatives_is_taken_if_it_is_of_the_same_brain(native: Grid) -> None:
    inside = np.linalg.norm((world_mm(native) - CENTRE_MM) / (0.97 * BRAIN_MM), axis=-1) <= 1
    stripped = np.where(brain_mask(native), head(native, T1W), 0)
    step = _brain_mask("auto", native, stripped)
    step.inputs.derivative_file = _saved("desc-brain_mask.nii.gz", inside, native)
    result = step.run().outputs
    mask, grid = nifti.load(Path(result.brain_mask_file), np.bool_)
    expected = np.linalg.norm((world_mm(grid) - CENTRE_MM) / (0.97 * BRAIN_MM), axis=-1) <= 1
    assert result.method == "derivative"
    assert 2 * np.count_nonzero(mask & expected) / (mask.sum() + expected.sum()) > 0.98
    elsewhere = moved(native, rigid((0, 0, 0), (0, 15, 0)))
    step.inputs.derivative_file = _saved("desc-brain_mask.nii.gz", inside, elsewhere)
    with pytest.raises(DataError, match=rf"^{VISIT}: desc-brain_mask.nii.gz is not of the brain"):
        step.run()


def test_an_image_that_no_scanner_records_is_named() -> None:
    sheared = WORK_GRID.affine.copy()
    sheared[0, 1] += 0.4
    image = nb.Nifti1Image(np.ones((60, 60, 60), np.float32), None)
    image.set_sform(sheared, code=1)
    nb.save(image, "sheared.nii.gz")
    with pytest.raises(DataError, match=f"^{VISIT}: sheared.nii.gz: .* not at right angles"):
        Conform(in_file=str(Path("sheared.nii.gz").resolve()), visit=VISIT).run()


@pytest.mark.ants
def test_an_implausible_brain_is_reported_with_its_visit() -> None:
    grid = NATIVE["LAS"]
    small = np.linalg.norm(world_mm(grid) - CENTRE_MM, axis=-1) < 20
    with pytest.raises(DataError, match=rf"^{VISIT}: The brain mask holds 3\d mL; 300 to 2500"):
        _brain_mask("skip", grid, small.astype(np.float32)).run()


@pytest.mark.ants
@pytest.mark.slow
def test_no_brain_for_deepbet_is_reported_with_its_visit() -> None:
    grid = NATIVE["LAS"]
    with pytest.raises(DataError, match=f"^{VISIT}: deepbet found no brain"):
        _brain_mask("force", grid, np.zeros(grid.shape, np.float32)).run()


def _register(
    flair: NDArray, flair_grid: Grid, t1w: NDArray | None = None, registration: str = "auto"
) -> RegisterFlair:
    t1w_file = _saved("t1w.nii.gz", head(WORK_GRID, T1W) if t1w is None else t1w, WORK_GRID)
    return RegisterFlair(
        flair_file=_saved("flair_native.nii.gz", flair, flair_grid),
        t1w_file=t1w_file,
        native_t1w_file=t1w_file,
        brain_mask_file=_saved("mask.nii.gz", brain_mask(WORK_GRID), WORK_GRID),
        registration=registration,
        visit=VISIT,
    )


@pytest.mark.ants
def test_a_flair_without_contrast_is_named() -> None:
    flair_grid = NATIVE["LPS, oblique"]
    blank = np.full(flair_grid.shape, 7, np.float32)
    with pytest.raises(DataError, match=rf"^{VISIT}: .*flair.*: The image is constant \(7\)"):
        _register(blank, flair_grid).run()


@pytest.mark.ants
@pytest.mark.parametrize(
    "motion",
    [
        rigid((4, -6, 5), (5, 3, -8)),
        # Only the centres of mass can tell where this head went.
        rigid((2, 3, -3), (90, -70, 110)),
    ],
    ids=["near", "far"],
)
def test_a_known_motion_is_found_at_the_edge_of_the_brain(motion: NDArray) -> None:
    grid = NATIVE["LPS, oblique"]
    # Every voxel is drawn where the head is; then the header says that it lies elsewhere.
    result = _register(head(grid, FLAIR), moved(grid, motion)).run().outputs
    inside = brain_mask(WORK_GRID)
    edge_mm = world_mm(WORK_GRID)[inside & ~ndimage.binary_erosion(inside)]
    expected = edge_mm @ motion[:3, :3].T + motion[:3, 3]
    error_mm = np.linalg.norm(_points_mapped(result.flair_to_t1w_file, edge_mm) - expected, axis=1)
    assert error_mm.max() < 0.5
    registered, registered_grid = nifti.load(Path(result.flair_file))
    assert registered_grid.same_as(WORK_GRID)
    assert np.corrcoef(registered[inside], head(WORK_GRID, FLAIR)[inside])[0, 1] > 0.7
    assert result.similarity > 0.5
    assert result.method == "rigid"


@pytest.mark.ants
@pytest.mark.parametrize(
    ("registration", "stripped", "least_score", "method"),
    [
        ("auto", True, 0.35, "given"),
        ("skip", False, 0.35, "given"),
        ("force", True, 0.35, "rigid"),
        ("auto", False, 0.35, "rigid"),
        # What does not match cannot have been registered.
        ("auto", True, 2.0, "rigid"),
    ],
)
def test_stripped_images_on_one_grid_stay_where_they_are(
    registration: str,
    stripped: bool,
    least_score: float,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocess, "MIN_SIMILARITY", least_score)
    air = 0 if stripped else np.random.default_rng(0).uniform(0, 20, WORK_GRID.shape)
    inside = brain_mask(WORK_GRID)
    flair = np.roll(np.where(inside, head(WORK_GRID, FLAIR), air), 2, axis=1)
    t1w = np.where(inside, head(WORK_GRID, T1W), air)
    result = _register(flair, WORK_GRID, t1w, registration).run().outputs
    assert result.method == method
    registered, _ = nifti.load(Path(result.flair_file))
    points_mm = CENTRE_MM[:3] + np.array([[0.0, 0, 0], [30, -20, 10]])
    moved_mm = _points_mapped(result.flair_to_t1w_file, points_mm) - points_mm
    if method == "given":
        np.testing.assert_allclose(registered, flair, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(moved_mm, 0, atol=1e-6)
    else:
        np.testing.assert_allclose(np.linalg.norm(moved_mm, axis=1), 2, atol=0.5)


@pytest.mark.ants
def test_headers_that_are_said_to_be_right_and_are_not_are_refused() -> None:
    far = moved(WORK_GRID, rigid((0, 0, 0), (0, 14, 0)))
    with pytest.raises(DataError, match="do not match"):
        _register(head(WORK_GRID, FLAIR), far, registration="skip").run()


@pytest.mark.ants
def test_flair_of_nothing_is_reported_with_its_visit() -> None:
    noise = np.random.default_rng(0).normal(100, 10, NATIVE["LAS"].shape).astype(np.float32)
    with pytest.raises(DataError, match=f"^{VISIT}: FLAIR and T1w do not match .* expected"):
        _register(noise, NATIVE["LAS"]).run()


@pytest.mark.ants
def test_flair_of_a_part_of_the_brain_is_reported_with_its_visit() -> None:
    grid = NATIVE["LAS"]
    part = grid.crop((0, 0, 0), (*grid.shape[:2], grid.shape[2] // 2))
    with pytest.raises(DataError, match=rf"^{VISIT}: FLAIR shows [45]\d % of the brain"):
        _register(head(part, FLAIR), part).run()


@pytest.mark.ants
def test_what_flair_does_not_show_changes_no_intensity_of_what_it_shows() -> None:
    inside = brain_mask(WORK_GRID)
    first = int(np.flatnonzero(inside.any((0, 1)))[0]) + 14
    part = WORK_GRID.crop((0, 0, first), (*WORK_GRID.shape[:2], WORK_GRID.shape[2] - first))
    registered = _register(head(part, FLAIR), part, registration="skip").run().outputs
    seen, _ = nifti.load(Path(registered.seen_file), np.bool_)
    shown = inside.copy()
    shown[:, :, :first] = False
    np.testing.assert_array_equal(seen, shown)
    assert 0.8 < seen.sum() / inside.sum() < 0.95
    cut, whole = (
        nifti.load(
            Path(
                Standardise(in_file=file, brain_mask_file=registered.seen_file, visit=VISIT)
                .run()
                .outputs.out_file
            )
        )[0]
        for file in (
            registered.flair_file,
            _saved("whole.nii.gz", head(WORK_GRID, FLAIR), WORK_GRID),
        )
    )
    np.testing.assert_allclose(cut, whole, atol=1e-3)
    assert (cut[inside & ~seen] == 0).all()
    assert cut[seen].std() == pytest.approx(1, abs=1e-3)


def _standardise(values: NDArray, *, sloppy: bool = False) -> Standardise:
    return Standardise(
        in_file=_saved("in.nii.gz", values.astype(np.float32), COARSE_GRID),
        brain_mask_file=_saved("mask.nii.gz", brain_mask(COARSE_GRID), COARSE_GRID),
        visit=VISIT,
        sloppy=sloppy,
    )


@pytest.mark.ants
@pytest.mark.parametrize(("sloppy", "left"), [(False, 0.25), (True, 0.8)])
def test_standardise_removes_a_smooth_bias_everywhere_in_the_brain(
    sloppy: bool, left: float
) -> None:
    inside, truth = brain_mask(COARSE_GRID), head(COARSE_GRID, T1W)
    bias = np.exp((world_mm(COARSE_GRID) - CENTRE_MM) @ [0.006, -0.004, 0.005])
    outputs = _standardise(truth * bias, sloppy=sloppy).run().outputs
    values, grid = nifti.load(Path(outputs.out_file))
    assert grid.same_as(COARSE_GRID)
    assert values.dtype == np.float32
    assert (values[~inside] == 0).all()
    assert values[inside].mean() == pytest.approx(0, abs=1e-3)
    assert values[inside].std() == pytest.approx(1, abs=1e-3)
    white = inside & (truth == T1W["white"])
    corrected = values[white] * outputs.standard_deviation + outputs.mean
    before = (truth * bias)[white]
    assert corrected.std() / corrected.mean() < left * before.std() / before.mean()


@pytest.mark.ants
def test_standardise_takes_an_image_with_negative_values() -> None:
    inside = brain_mask(COARSE_GRID)
    scores = (head(COARSE_GRID, T1W) - 500) / 200
    values, _ = nifti.load(Path(_standardise(scores).run().outputs.out_file))
    assert np.corrcoef(values[inside], scores[inside])[0, 1] > 0.98


def test_a_constant_image_is_reported_with_its_visit() -> None:
    with pytest.raises(DataError, match=f"^{VISIT}: The image is constant"):
        _standardise(np.full(COARSE_GRID.shape, 5.0)).run()


def test_facts_are_written_by_name() -> None:
    facts = {
        "skull_strip_method": "deepbet",
        "brain_volume_mm3": 1.5e6,
        "registration_method": "rigid",
        "registration_similarity": 0.5,
        "flair_mean": 1.0,
        "flair_standard_deviation": 2.0,
        "t1w_mean": 3.0,
        "t1w_standard_deviation": 4.0,
    }
    assert json.loads(Path(WriteFacts(**facts).run().outputs.facts_file).read_text()) == facts


@pytest.mark.ants
def test_a_lesion_lands_at_its_place_on_the_native_grid(native: Grid) -> None:
    lesion_mm = CENTRE_MM + np.array([13, -17, 9])
    lesion = np.linalg.norm(world_mm(WORK_GRID) - lesion_mm, axis=-1) <= 6
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [5, -8, 11], degrees=True).as_matrix()
    motion[:3, 3] = [3, -6, 4]
    native = moved(native, motion)
    reference_file = _saved("flair.nii.gz", np.zeros(native.shape, np.int16), native)
    result = ResampleMask(
        mask_file=_saved("lesions.nii.gz", lesion, WORK_GRID),
        reference_file=reference_file,
        transform_file=_transform(motion),
    ).run()
    image, reference = nb.load(result.outputs.out_file), nb.load(reference_file)
    assert image.shape == reference.shape
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.affine, reference.affine)
    mask, grid = nifti.load(Path(result.outputs.out_file), np.float32)
    found_mm = centre_of_mass_mm(mask, grid)
    assert np.linalg.norm(found_mm - (motion[:3, :3] @ lesion_mm + motion[:3, 3])) < 0.3
    assert abs(mask.sum() * grid.voxel_volume_mm3 - lesion.sum()) <= grid.voxel_volume_mm3 / 2


@pytest.mark.ants
def test_no_lesion_is_no_lesion_on_the_native_grid() -> None:
    native = NATIVE["LAS"]
    result = ResampleMask(
        mask_file=_saved("lesions.nii.gz", np.zeros(WORK_GRID.shape, bool), WORK_GRID),
        reference_file=_saved("flair.nii.gz", np.zeros(native.shape, np.int16), native),
        transform_file=_transform(np.eye(4)),
    ).run()
    assert not np.asarray(nb.load(result.outputs.out_file).dataobj).any()
