# SPDX-License-Identifier: Apache-2.0
"""The training command on a tiny dataset."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.cli.train import main
from bids_lesion_xai.models.bundle import read_bundle

PEOPLE = ["labelled/sub-01", "labelled/sub-02"]
QUICK = ["--steps", "1", "--patch-size", "16", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two people with images and a mask each, a third with a mask alone."""
    random = np.random.default_rng(0)
    lesions = np.zeros((40, 44, 36), np.uint8)
    lesions[12:18, 20:24, 14:20] = 1
    folder = tmp_path / "labelled"
    folder.mkdir()
    description = {"Name": "labelled", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    for label in ("01", "02", "03"):
        anat = folder / f"sub-{label}" / "anat"
        anat.mkdir(parents=True)
        stem = f"sub-{label}_space-MNI152NLin2009cAsym"
        images = {"label-lesion_mask": lesions}
        if label != "03":
            for suffix in ("FLAIR", "T1w"):
                brain = random.normal(100, 10, lesions.shape) + 40 * lesions
                brain[:4] = 0
                images[f"desc-brain_{suffix}"] = brain.astype(np.float32)
        for name, values in images.items():
            nb.save(nb.Nifti1Image(values, np.eye(4)), anat / f"{stem}_{name}.nii.gz")
    return folder


def evaluation(bundle: Path) -> list[dict]:
    return json.loads((bundle / "configs/metadata.json").read_text())["evaluation"]


@pytest.mark.slow
def test_cross_validation_states_figures_of_people_left_out_alone(
    dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    assert main([str(dataset), "--output", str(output), "--cross-validate", *QUICK]) == 0
    rows = evaluation(output)
    assert [row["person"] for row in rows] == PEOPLE
    assert [row["trained_on"] for row in rows] == [PEOPLE[1:], PEOPLE[:1]]
    metadata = json.loads((output / "configs/metadata.json").read_text())
    assert metadata["training"]["people"] == PEOPLE
    assert read_bundle(output).threshold == 0.5
    # What is trained already is not trained again: the weights stay, the figures follow.
    weights = read_bundle(output).sha256
    again = [str(dataset), "--output", str(output), "--cross-validate", "--threshold", "0.6"]
    assert main([*again, *QUICK]) == 0
    assert (read_bundle(output).sha256, read_bundle(output).threshold) == (weights, 0.6)


@pytest.mark.slow
def test_a_person_left_out_is_not_trained_on(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert main([str(dataset), "--output", str(output), "--leave-out", PEOPLE[0], *QUICK]) == 0
    (row,) = evaluation(output)
    assert (row["person"], row["trained_on"]) == (PEOPLE[0], PEOPLE[1:])


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--leave-out", "labelled/sub-09"], 2, "labelled/sub-01, labelled/sub-02"),
        (["--patch-size", "20"], 2, "multiple of 16"),
        (["--leave-out", *PEOPLE], 66, "left to train on"),
    ],
    ids=["nobody", "patch", "all left out"],
)
def test_what_cannot_be_trained_is_told_in_one_line(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    words: str,
) -> None:
    assert main([str(dataset), "--output", str(tmp_path / "bundle"), *options]) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_dataset_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none"), "--output", str(tmp_path / "bundle")]) == 66
    assert "none is not a folder" in capsys.readouterr().err
