# SPDX-License-Identifier: Apache-2.0
"""The training command on a tiny dataset."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from bids_lesion_xai.bids.dataset import find_labelled
from bids_lesion_xai.cli.train import main
from bids_lesion_xai.explain import explain_lesions
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.inference import load_predictor
from bids_lesion_xai.models.network import load_network
from bids_lesion_xai.training import trial
from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.evaluate import Prediction, Setting, fit_on_others
from bids_lesion_xai.training.scans import load_masks, mask_checksum
from tests.training.test_synthesis import label_map

PEOPLE = ["labelled/sub-01", "labelled/sub-02"]
QUICK = [
    "--steps",
    "1",
    "--patch-size",
    "16",
    "--batch-size",
    "2",
    "--workers",
    "0",
    "--device",
    "cpu",
]


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


def seen_by(folder: Path) -> list[str]:
    """Return the people whose images were given to the training of a checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)["recipe"]["people"]


def test_two_trainings_in_one_folder_are_kept_apart(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    command = [str(dataset), "--output", str(output), *QUICK]
    with FileLock(output / "training.lock"):
        assert main(command) == 2
    assert "another training is at work there" in capsys.readouterr().err
    assert not (output / "checkpoint.pt").exists()
    assert main(command) == 0


def test_no_training_goes_into_a_dataset_or_a_model_from_elsewhere(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "bundle/docs/README.md"
    card.parent.mkdir(parents=True)
    card.touch()
    for output in (tmp_path / "bundle", dataset):
        before = sorted(output.rglob("*"))
        assert main([str(dataset), "--output", str(output), *QUICK]) == 2
        assert re.search(r"a model is there|is a dataset", capsys.readouterr().err)
        assert sorted(output.rglob("*")) == before


@pytest.mark.slow
def test_cross_validation_states_figures_of_people_left_out_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted_on = []

    def spied(predictions: list[Prediction], *others: Any) -> dict[str, Setting]:
        fitted_on.append({one.scan.person: one.trained_on for one in predictions})
        return fit_on_others(predictions, *others)

    monkeypatch.setattr(trial, "fit_on_others", spied)
    output = tmp_path / "bundle"
    command = [str(dataset), "--output", str(output), "--cross-validate", "person", "site", *QUICK]
    command += ["--bundle-version", "2.3.4", "--fold-steps", "2"]
    # One site alone cannot be left out, which is told before anything is trained.
    assert main(command) == 66
    assert not output.exists()
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    shutil.rmtree(other / "sub-02")
    command.insert(1, str(other))
    assert main(command) == 0
    rows = evaluation(output)
    # Two steps of two.
    assert {row["patches"] for row in rows} == {4}
    people = [*PEOPLE, "other/sub-01"]
    for name, seen in (
        (PEOPLE[0], [PEOPLE[1], "other/sub-01"]),
        ("other/sub-01", PEOPLE),
    ):
        assert seen_by(output / "folds" / "person" / name) == seen
    assert seen_by(output / "folds/site/labelled") == ["other/sub-01"]
    assert seen_by(output / "folds/site/other") == PEOPLE
    assert seen_by(output) == people
    by_person = [row for row in rows if row["left_out"] == "person"]
    assert [row["person"] for row in by_person] == people
    for row in by_person:
        assert row["trained_on"] == sorted(set(people) - {row["person"]})
    by_site = {row["person"]: row["trained_on"] for row in rows if row["left_out"] == "site"}
    assert by_site["other/sub-01"] == PEOPLE
    # Both ways, thresholds are chosen on what networks without a person say of this person.
    assert fitted_on == [{row["person"]: tuple(row["trained_on"]) for row in by_person}] * 2
    assert all(by_site[person] == ["other/sub-01"] for person in PEOPLE)
    metadata = json.loads((output / "configs/metadata.json").read_text())
    assert (metadata["name"], metadata["version"]) == ("bundle", "2.3.4")
    assert metadata["training"]["people"] == people
    assert metadata["training"]["masks_of"] == sorted([*people, "labelled/sub-03", "other/sub-03"])
    masks = load_masks(entry for folder in (dataset, other) for entry in find_labelled(folder))
    known = {mask_checksum(one) for one in masks} - {""}
    assert known
    assert metadata["training"]["mask_checksums"] == sorted(known)
    for way in ("person", "site"):
        table = pd.read_csv(output / "evaluation" / way / "scans.tsv", sep="\t")
        assert sorted(table["person"]) == people
    # What is trained already is not trained again.
    weights = read_bundle(output).sha256
    trained = {path: path.stat().st_mtime_ns for path in output.rglob("checkpoint.pt")}
    assert len(trained) == 6
    assert main(command) == 0
    assert read_bundle(output).sha256 == weights
    assert {path: path.stat().st_mtime_ns for path in output.rglob("checkpoint.pt")} == trained


@pytest.mark.slow
def test_synthetic_heads_are_trained_on_and_lesion_free_ones_judged(
    dataset: Path, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    heads.mkdir()
    for number in range(2):
        nb.save(nb.Nifti1Image(label_map(), np.eye(4)), heads / f"head{number}.nii.gz")
    output = tmp_path / "bundle"
    options = ["--head-labels", str(heads), "--synthetic-heads", "3", "--leave-out", PEOPLE[0]]
    options += ["--tissue-weight", "0.5"]
    assert main([str(dataset), "--output", str(output), *options, *QUICK]) == 0
    # Heads of the first label map, which no network that leaves somebody out is trained on.
    free = [f"synthetic/sub-000{number}" for number in (1, 2, 3)]
    assert [row["person"] for row in evaluation(output)] == [PEOPLE[0], *free]
    training = json.loads((output / "configs/metadata.json").read_text())["training"]
    assert (training["synthetic_heads"], training["steps"]) == (3, 1)
    assert {row["patches"] for row in evaluation(output)} == {2}
    assert training["tissue_weight"] == 0.5
    load_network(read_bundle(output), torch.device("cpu"))
    assert (output / "evaluation/chosen/lesion_free.tsv").exists()


@pytest.mark.slow
def test_people_left_out_take_no_part_in_a_cross_validation(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    output = tmp_path / "bundle"
    options = ["--leave-out", "other/sub-01", "other/sub-02", "--cross-validate", "person"]
    assert main([str(dataset), str(other), "--output", str(output), *options, *QUICK]) == 0
    assert seen_by(output / "folds" / "person" / PEOPLE[0]) == [PEOPLE[1]]
    assert seen_by(output) == PEOPLE
    rows = evaluation(output)
    trained_on = {row["person"]: row["trained_on"] for row in rows if row["left_out"] == "person"}
    assert trained_on == {PEOPLE[0]: [PEOPLE[1]], PEOPLE[1]: [PEOPLE[0]]}
    judged = {row["person"]: row["trained_on"] for row in rows if row["left_out"] == "chosen"}
    assert judged == {"other/sub-01": PEOPLE, "other/sub-02": PEOPLE}
    # They are judged at the threshold and temperature that were chosen without them.
    metadata = json.loads((output / "configs/metadata.json").read_text())
    settings = {row["person"]: (row["threshold"], row["temperature"]) for row in rows}
    chosen = (read_bundle(output).threshold, metadata["temperature"])
    assert settings["other/sub-01"] == settings["other/sub-02"] == pytest.approx(chosen, abs=1e-4)
    command = [str(dataset), str(other), "--output", str(tmp_path / "none"), *QUICK]
    assert main([*command, *options[:-1], "site"]) == 66
    assert "one site alone beside those of --leave-out, labelled;" in capsys.readouterr().err


SMALL_SWIN = {"feature_size": 12, "depths": [1, 1, 1, 1]}
SMALL = {
    "dynunet": replace(ARCHITECTURES["dynunet"], window=(32, 32, 32)),
    "swinunetr": replace(
        ARCHITECTURES["swinunetr"],
        arguments=ARCHITECTURES["swinunetr"].arguments | SMALL_SWIN,
        window=(64, 64, 64),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALL)
def test_other_networks_are_trained_segment_and_are_explained_exactly(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    monkeypatch.setitem(ARCHITECTURES, network, SMALL[network])
    output = tmp_path / "bundle"
    options = ["--network", network, "--steps", "1", "--patch-size", "64", *QUICK[4:]]
    assert main([str(dataset), "--output", str(output), *options]) == 0
    bundle = read_bundle(output)
    assert (bundle.name, bundle.window) == ("bundle", SMALL[network].window)
    predictor = load_predictor(bundle, torch.device("cpu"))
    predictor.network.double()
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 34, 32, 33, dtype=torch.float64, generator=random)
    labels = torch.zeros(34, 32, 33, dtype=torch.int32)
    labels[16:20, 14:16, 30:33] = 1
    (found,) = explain_lesions(
        predictor.network,
        image,
        labels,
        method="gradient",
        window=bundle.window,
        overlap=bundle.overlap,
        multiple=bundle.multiple,
    )
    image.requires_grad_()
    (expected,) = torch.autograd.grad(predictor(image)[1][labels == 1].mean(), image)
    peak = float(expected.abs().max())
    torch.testing.assert_close(found.dense(labels.shape), expected, rtol=0, atol=1e-10 * peak)


@pytest.mark.slow
def test_a_person_left_out_is_not_trained_on(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert main([str(dataset), "--output", str(output), "--leave-out", PEOPLE[0], *QUICK]) == 0
    assert seen_by(output) == PEOPLE[1:]
    (row,) = evaluation(output)
    assert (row["person"], row["trained_on"]) == (PEOPLE[0], PEOPLE[1:])
    training = json.loads((output / "configs/metadata.json").read_text())["training"]
    assert training["masks_of"] == [PEOPLE[1], "labelled/sub-03"]
    assert (training["synthetic_heads"], training["synthetic_share"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--leave-out", "labelled/sub-09"], 2, "labelled/sub-01, labelled/sub-02"),
        (["--patch-size", "20"], 2, "multiple of 16"),
        (["--network", "swinunetr", "--patch-size", "32"], 2, "multiple of 32 of at least 64"),
        (["--network", "dynunet", "--statistics-noise", "1"], 2, "--statistics-noise: unet"),
        (["--network", "swinunetr", "--tissue-weight", "1"], 2, "--tissue-weight: unet"),
        (["--batch-size", "1", "--statistics-noise", "1"], 2, "--batch-size of at least 2"),
        (["--batch-size", "1", "--patch-size", "16"], 2, "--batch-size 1: with --patch-size 16"),
        (["--head-labels", "nowhere"], 66, "folder of label maps"),
        (["--leave-out", *PEOPLE], 66, "left to train on"),
        (["--leave-out", "labelled/sub-03"], 2, "with FLAIR and T1w, labelled/sub-01, labelled"),
        (["--cross-validate", "person", "site"], 66, "--cross-validate site: there is one site"),
    ],
    ids=[
        "nobody",
        "patch",
        "patch of another network",
        "no batch norm",
        "no tissues",
        "no other patch",
        "one voxel",
        "no heads",
        "all left out",
        "no images",
        "one site",
    ],
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


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--seed", value) for value in ("-1", "x", str(2**32))),
        *(("--workers", value) for value in ("-1", "all")),
        *(("--learning-rate", value) for value in ("0", "-1", "inf", "nan", "fast")),
        *(("--statistics-noise", value) for value in ("0", "-1", "nan")),
        ("--tissue-weight", "0"),
        *(("--steps", value) for value in ("0", "1.5")),
        ("--synthetic-share", "1.5"),
        ("--device", "tpu"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "--output", "bundle", option, value])
    assert end.value.code == 2
    assert f"argument {option}: {value}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [[], ["--cross-validate", "person"], ["--cross-validate", "site"]]
)
def test_a_dataset_without_a_labelled_scan_is_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    for number in (1, 2):
        shutil.rmtree(dataset / f"sub-0{number}")
    assert main([str(dataset), "--output", str(tmp_path / "bundle"), *more]) == 66
    assert "No scan with FLAIR, T1w and lesion mask" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_dataset_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none"), "--output", str(tmp_path / "bundle")]) == 66
    assert "none is not a folder" in capsys.readouterr().err
