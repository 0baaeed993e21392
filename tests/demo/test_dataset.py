# SPDX-License-Identifier: Apache-2.0
"""Laws of the demo dataset. The heads are made once, on a brain of 2 mm voxels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.naming import format_name, parse_name
from bids_lesion_xai.cli.demo import main
from bids_lesion_xai.demo import dataset, people
from bids_lesion_xai.demo.dataset import TRUTH, load_template, write_demo
from bids_lesion_xai.demo.head import Template
from bids_lesion_xai.demo.people import PEOPLE, T1W_PROTOCOL, Protocol
from bids_lesion_xai.errors import OutputError
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.nifti import load

VISITS = [visit for person in PEOPLE for visit in person.visits]
COARSE = 2


@pytest.fixture(scope="module")
def template() -> Template:
    fine = load_template()
    affine = fine.grid.affine.copy()
    affine[:3, :3] *= COARSE
    every = (slice(None, None, COARSE),) * 3
    x, y, z = fine.white[every].shape
    return Template(
        Grid((x, y, z), affine), fine.white[every], fine.grey[every], fine.brain[every]
    )


def coarse_protocol(protocol: Protocol) -> Protocol:
    factors = [COARSE if mm < COARSE else 1 for mm in protocol.spacing_mm]
    nx, ny, nz = (n // factor for n, factor in zip(protocol.shape, factors, strict=True))
    dx, dy, dz = (mm * factor for mm, factor in zip(protocol.spacing_mm, factors, strict=True))
    return protocol._replace(shape=(nx, ny, nz), spacing_mm=(dx, dy, dz))


@pytest.fixture(scope="module")
def coarse(template: Template) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "load_template", lambda: template)
        for name in ("T1W_PROTOCOL", "FLAIR_PROTOCOL"):
            patch.setattr(people, name, coarse_protocol(getattr(people, name)))
        yield


@pytest.fixture(scope="module")
def demo(coarse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "bids"
    assert write_demo(folder, seed=0)
    return folder


def anat(root: Path, visit, suffix: str, **entities: str) -> Path:
    name = format_name({**visit.entities, **entities}, suffix, ".nii.gz")
    return root / visit.folder / "anat" / name


def lesion_file(root: Path, visit) -> Path:
    return anat(root / TRUTH, visit, "mask", space="T1w", label="L")


def sidecar(image: Path) -> dict:
    return json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())


def test_there_are_two_people_and_one_of_them_comes_twice():
    assert [visit.name for visit in VISITS] == ["sub-01_ses-01", "sub-01_ses-02", "sub-02_ses-01"]


def test_every_image_has_a_sidecar_and_a_name_of_its_folder(demo: Path):
    images = sorted(demo.rglob("*.nii.gz"))
    assert len(images) == 4 * len(VISITS)
    for image in images:
        assert sidecar(image)
        entities = parse_name(image.name).entities
        assert image.parent.parts[-3:-1] == (f"sub-{entities['sub']}", f"ses-{entities['ses']}")


def test_images_are_int16_and_masks_are_of_zeros_and_ones(demo: Path):
    for image in demo.rglob("*.nii.gz"):
        mask = image.name.endswith("_mask.nii.gz")
        values = np.asanyarray(nb.load(image).dataobj)
        assert values.dtype == (np.uint8 if mask else np.int16)
        assert not mask or np.unique(values).tolist() == [0, 1]


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_flair_is_on_another_grid_than_t1w_and_truth_on_that_of_t1w(demo: Path, visit):
    t1w, flair = (load(anat(demo, visit, suffix))[1] for suffix in ("T1w", "FLAIR"))
    assert not t1w.same_as(flair)
    assert nb.aff2axcodes(t1w.affine) != nb.aff2axcodes(flair.affine)
    assert load(lesion_file(demo, visit))[1].same_as(t1w)


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_truth_is_inside_the_brain_and_has_the_volumes_of_its_sidecar(demo: Path, visit):
    values, grid = load(lesion_file(demo, visit), bool)
    brain, _ = load(anat(demo / TRUTH, visit, "mask", space="T1w", desc="brain"), bool)
    assert not (values & ~brain).any()
    asked = [lesion["Volume_mm3"] for lesion in sidecar(lesion_file(demo, visit))["Lesions"]]
    assert values.sum() * grid.voxel_volume_mm3 == pytest.approx(sum(asked), rel=0.1)


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_flair_is_bright_where_truth_moves_to_with_the_head(demo: Path, visit):
    truth, t1w_grid = load(lesion_file(demo, visit))
    flair, flair_grid = load(anat(demo, visit, "FLAIR"))
    motion = np.array(sidecar(lesion_file(demo, visit))["T1wToFLAIR"])
    to_flair = np.linalg.inv(flair_grid.affine) @ motion @ t1w_grid.affine
    on_t1w = ndimage.affine_transform(flair, to_flair, output_shape=truth.shape, order=1)
    lesion = truth > 0
    near = ndimage.binary_dilation(lesion, iterations=4)
    ring = near & ~ndimage.binary_dilation(lesion, iterations=2)
    assert on_t1w[lesion].mean() > 1.2 * np.median(on_t1w[ring])


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_the_head_moves_a_little_between_the_images(demo: Path, visit):
    motion = np.array(sidecar(lesion_file(demo, visit))["T1wToFLAIR"])
    np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-9)
    centre_mm = np.array([0, -15, 10, 1])
    assert 0.5 < np.linalg.norm((motion @ centre_mm - centre_mm)[:3]) < 8
    assert 0.5 < np.degrees(np.arccos((np.trace(motion[:3, :3]) - 1) / 2)) < 5


def test_the_second_session_has_the_lesions_of_the_first_and_two_more(demo: Path):
    first, second = (sidecar(lesion_file(demo, visit))["Lesions"] for visit in VISITS[:2])
    keys = ("Volume_mm3", "ContrastFLAIR", "ContrastT1w")
    assert [[lesion[key] for key in keys] for lesion in second[: len(first)]] == [
        [lesion[key] for key in keys] for lesion in first
    ]
    assert len(second) == len(first) + 2


def test_same_seed_makes_the_same_voxels(coarse: None, template: Template):
    around = np.zeros(template.grid.shape, np.uint8)
    person = PEOPLE[1]._replace(volumes_mm3=(600, 200))
    one, same = (people.make_person(person, 1, template, around, 0)[0] for _ in range(2))
    for suffix in ("T1w", "FLAIR"):
        np.testing.assert_array_equal(one.images[suffix], same.images[suffix])
    np.testing.assert_array_equal(one.lesion_mask, same.lesion_mask)
    np.testing.assert_array_equal(one.brain_mask, same.brain_mask)


def test_protocols_hold_every_voxel_axis_and_the_centre():
    grid = T1W_PROTOCOL.grid
    assert nb.aff2axcodes(grid.affine) == tuple(T1W_PROTOCOL.axes)
    assert grid.spacing_mm == pytest.approx(T1W_PROTOCOL.spacing_mm)
    middle = (np.array(grid.shape) - 1) / 2
    np.testing.assert_allclose(grid.to_world_mm(middle), T1W_PROTOCOL.centre_mm, atol=1e-9)


def test_both_datasets_describe_themselves(demo: Path):
    raw = json.loads((demo / "dataset_description.json").read_text())
    truth = json.loads((demo / TRUTH / "dataset_description.json").read_text())
    assert (raw["DatasetType"], truth["DatasetType"]) == ("raw", "derivative")
    assert truth["DatasetLinks"] == {"raw": "../.."}
    for description in (raw, truth):
        assert len(description["Authors"]) >= 2
        assert description["GeneratedBy"][0]["Version"] == __version__


@pytest.mark.parametrize("part", [".", TRUTH], ids=["raw", "truth"])
def test_the_bids_validator_has_nothing_to_say(demo: Path, part: Path):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    command = [validator, "--format", "json", demo / part]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(found.stdout)["issues"]["issues"] == []


def test_a_demo_that_is_there_is_left_as_it_is(demo: Path, capsys: pytest.CaptureFixture):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert main([str(demo)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_a_demo_of_another_seed_is_refused(demo: Path, capsys: pytest.CaptureFixture):
    assert main([str(demo), "--seed", "1"]) == 73
    assert "seed 1" in capsys.readouterr().err


def test_a_demo_with_a_missing_image_is_refused(demo: Path, tmp_path: Path):
    copy = shutil.copytree(demo, tmp_path / "bids")
    lesion_file(copy, VISITS[2]).unlink()
    with pytest.raises(OutputError, match=r"demo without derivatives/truth/sub-02/ses-01"):
        write_demo(copy)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"GeneratedBy": [1]}'])
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path, text: str):
    description = tmp_path / "dataset_description.json"
    description.write_text(text)
    with pytest.raises(OutputError, match="something else"):
        write_demo(tmp_path)
    assert description.read_text() == text


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="something else"):
        write_demo(tmp_path / "file")


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fill(root: Path, seed: int) -> None:
        (root / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_fill", fill)
    with pytest.raises(OutputError, match="No space left on device"):
        write_demo(tmp_path / "bids")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "_fill", lambda root, seed: (root / "all").touch())
    assert write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from bids_lesion_xai.cli.demo import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'nibabel', 'nilearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("seed", ["-1", "x"])
def test_a_seed_that_is_no_natural_number_is_a_usage_error(tmp_path: Path, seed: str):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "bids"), "--seed", seed])
