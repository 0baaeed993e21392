# SPDX-License-Identifier: Apache-2.0
"""The evaluation command on a tiny dataset."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
import torch

from bids_lesion_xai.bids.dataset import find_labelled
from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.cli.evaluate import main
from bids_lesion_xai.training import evaluate
from bids_lesion_xai.training.scans import load_masks, mask_checksum
from tests.bundles import BRIGHT, multiply_weights, write_small_bundle
from tests.test_repository import ROOT

SHAPE = (28, 26, 24)
PEOPLE = ["labelled/sub-01", "labelled/sub-02"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "model")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two people whose lesions are bright on FLAIR; the second has one that is not."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    description = {"Name": "labelled", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    for number in (1, 2):
        anat = folder / f"sub-0{number}" / "anat"
        anat.mkdir(parents=True)
        brain = np.random.default_rng(number).normal(100, 10, (2, *SHAPE))
        brain[:, :3] = 0
        lesions = np.zeros(SHAPE, np.uint8)
        lesions[10:16, 10:16, 10:16] = 1
        brain[0][lesions > 0] += 10 * 4 * BRIGHT
        if number == 2:
            lesions[21:25, 20:23, 3:7] = 1
        images = {"FLAIR": brain[0], "T1w": brain[1], "mask": lesions}
        for suffix, values in images.items():
            entity = "label-lesion" if suffix == "mask" else "desc-brain"
            name = f"sub-0{number}_space-MNI152NLin6Asym_{entity}_{suffix}.nii.gz"
            nb.save(nb.Nifti1Image(values.astype(np.float32), np.eye(4)), anat / name)
    return folder


def trained_on(model: Path, people: list[str], **more: list[str]) -> None:
    path = model / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "training": {"people": people, **more}}))


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_figures_of_every_person_are_written(
    model: Path, dataset: Path, tmp_path: Path, tta: str
) -> None:
    output = tmp_path / "out"
    assert main([str(model), str(dataset), "--output", str(output), "--tta", tta]) == 0
    scans = pd.read_csv(output / "scans.tsv", sep="\t").set_index("person")
    assert list(scans.index) == PEOPLE
    assert scans["n_reference"].tolist() == [1, 2]
    assert scans["n_missed"].tolist() == [0, 1]
    assert scans["n_false_positive"].tolist() == [0, 0]
    assert (output / "evaluation.png").exists()


def test_people_of_the_training_are_left_out_unless_asked_for(
    model: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained_on(model, PEOPLE[:1])
    command = [str(model), str(dataset), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")["person"].tolist() == PEOPLE[1:]
    trained_on(model, PEOPLE)
    assert main(command) == 66
    assert PEOPLE[0] in capsys.readouterr().err
    # Nor is anybody judged whose lesion mask alone was trained on.
    trained_on(model, PEOPLE[:1], masks_of=PEOPLE)
    assert main(command) == 66
    told = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert told["PeopleOfTraining"] is False
    assert main([*command, "--people-of-training"]) == 0
    assert "better than others" in caplog.text
    assert pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")["person"].tolist() == PEOPLE
    told = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert told["PeopleOfTraining"] is True


def test_people_of_the_training_are_known_by_their_masks_in_a_dataset_of_another_name(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    (seen, *_) = find_labelled(dataset)
    mask = load_masks([seen])[0]
    trained_on(model, [], mask_checksums=[mask_checksum(mask)])
    renamed = shutil.copytree(dataset, tmp_path / "renamed")
    command = [str(model), str(renamed), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    (left,) = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")["person"]
    assert left == f"renamed/{PEOPLE[1].partition('/')[2]}"
    assert main([*command, "--people-of-training"]) == 0
    assert len(pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")) == len(PEOPLE)


def test_threshold_and_minimum_volume_are_those_asked_for(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ["--threshold", "0.7", "--min-lesion-volume", "1000"]
    assert main([str(model), str(dataset), "--output", str(output), *options]) == 0
    scans = pd.read_csv(output / "scans.tsv", sep="\t")
    assert scans["threshold"].tolist() == [0.7, 0.7]
    assert scans["n_predicted"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("model_name", "dataset_name", "code", "words"),
    [("none", "labelled", 69, "metadata.json"), ("model", "none", 66, "none is not a folder")],
    ids=["no model", "no dataset"],
)
def test_what_is_not_there_is_told_in_one_line(
    model: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model_name: str,
    dataset_name: str,
    code: int,
    words: str,
) -> None:
    assert model.parent == dataset.parent == tmp_path
    arguments = [str(tmp_path / model_name), str(tmp_path / dataset_name)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_model_that_cannot_take_the_volumes_is_told_before_scans_are_read(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["1*n"] * 3
    path.write_text(json.dumps(metadata))
    assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == 69
    assert "multiples of 1 voxels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_of_no_use_are_told_before_scans_are_read(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    multiply_weights(model, 1e30)
    assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == 69
    assert "not all of them finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("same", ["labelled", "link"])
def test_two_datasets_of_one_name_are_refused(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], same: str
) -> None:
    (tmp_path / "link").symlink_to(dataset)
    command = [str(model), str(dataset), str(tmp_path / same), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "labelled: two datasets have this name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (MemoryError(), 75),
        (torch.OutOfMemoryError("Tried to allocate 20.00 GiB."), 75),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 75),
    ],
    ids=["interrupted", "memory", "memory of torch on a GPU", "memory of torch on a CPU"],
)
def test_what_ends_the_command_is_told_in_one_line(
    error: BaseException,
    code: int,
    model: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*_: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "predict", end)
    assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == code
    assert capsys.readouterr().err.startswith("bids-lesion-xai-evaluate: ")


def test_an_error_that_nobody_foresaw_is_not_taken_for_a_lack_of_memory(
    model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        message = "expected scalar type Float"
        raise RuntimeError(message)

    monkeypatch.setattr(evaluate, "predict", end)
    with pytest.raises(RuntimeError, match="scalar type"):
        main([str(model), str(dataset), "--output", str(tmp_path / "out")])


def test_an_output_that_cannot_be_made_is_told_before_anything_is_segmented(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(model), str(dataset), "--output", str(tmp_path / "file" / "out")]) == 73
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bids-lesion-xai-evaluate: ")
    assert "file/out" in last


def test_tables_are_not_written_into_a_dataset(
    model: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model), str(dataset), "--output", str(dataset)]) == 2
    assert "labelled is a dataset" in capsys.readouterr().err


def spoil(dataset: Path, person: str) -> None:
    (flair,) = (dataset.parent / person).rglob("*FLAIR.nii.gz")
    flair.write_bytes(flair.read_bytes()[:100])


def test_one_broken_scan_does_not_stop_the_others(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(dataset, PEOPLE[0])
    command = [str(model), str(dataset), "--output", str(tmp_path / "out")]
    assert main(command) == 1
    *_, count, reason = capsys.readouterr().err.splitlines()
    assert count.endswith("1 of 2 scans could not be evaluated:")
    assert reason.startswith(f"{PEOPLE[0]}: ")
    assert pd.read_csv(tmp_path / "out/scans.tsv", sep="\t")["person"].tolist() == PEOPLE[1:]
    spoil(dataset, PEOPLE[1])
    assert main(command) == 65
    told = capsys.readouterr().err
    assert all(f"{person}: " in told for person in PEOPLE)
    # Nor do tables of before stay.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluation.json"]


def test_a_broken_mask_is_told_and_makes_nobody_known(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = find_labelled(dataset)
    trained_on(model, [], mask_checksums=[mask_checksum(load_masks(entries)[1])])
    entries[0].mask.write_bytes(b"no image")
    assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == 65
    assert f"{PEOPLE[0]}: " in capsys.readouterr().err


def test_who_is_left_out_is_told(
    model: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(dataset / "sub-02", dataset / "sub-03")
    for path in (dataset / "sub-03").rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.replace("sub-02", "sub-03")))
    (t1w,) = (dataset / "sub-03").rglob("*T1w.nii.gz")
    t1w.unlink()
    trained_on(model, PEOPLE[:1])
    with caplog.at_level(logging.INFO):
        assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == 0
    assert "labelled/sub-03: left out, there is no T1w on the grid of the mask" in caplog.messages
    assert any(one.startswith(f"{PEOPLE[0]}: left out, ") for one in caplog.messages)


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_the_settings_stand_beside_the_tables(
    model: Path, dataset: Path, tmp_path: Path, tta: str
) -> None:
    command = [str(model), str(dataset), "--output", str(tmp_path / "out"), "--tta", tta]
    assert main([*command, "--threshold", "0.7"]) == 0
    settings = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert settings["TestTimeAugmentation"] == tta
    assert settings["Threshold"] == settings["PeakThreshold"] == 0.7
    assert settings["Model"]["SHA256"] == sha256(next((model / "models").iterdir()))


def test_one_scan_at_a_time_is_read(
    model: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert main([str(model), str(dataset), "--output", str(tmp_path / "out")]) == 0
    told = [message.split()[0] for message in caplog.messages]
    assert [word for word in told if word in ("read", "segmented")] == ["read", "segmented"] * 2


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_the_help_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys\n"
        f"from bids_lesion_xai.cli.{command} import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n"
        "    print('heavy', [m for m in ('torch', 'monai', 'numpy', 'bids') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == "heavy []"
    assert "usage" in answer.stdout
