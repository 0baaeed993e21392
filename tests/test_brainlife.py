# SPDX-License-Identifier: Apache-2.0
"""The brainlife app, started as brainlife starts it."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.visit import Visit
from tests.bundles import write_small_bundle
from tests.rawdata import BALLS, write_raw

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("convert", ROOT / "brainlife" / "convert.py")
assert _SPEC is not None
assert _SPEC.loader is not None
convert = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(convert)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Return a task folder: the app beside a config and its inputs."""
    folder = tmp_path / "task of brainlife"
    shutil.copytree(ROOT / "brainlife", folder)
    (visit,) = write_raw(tmp_path / "raw", {Visit("01"): BALLS})
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "t1.nii.gz").symlink_to(visit.t1w)
    shutil.copyfile(visit.flair, tmp_path / "staged" / "flair.nii.gz")
    return folder


def config_of(task: Path, **more: Any) -> dict[str, Any]:
    meta = {"subject": "MS-001", "session": "2", "EchoTime": 0.1}
    config = {
        "t1": "../staged/t1.nii.gz",
        "flair": "../staged/flair.nii.gz",
        "_inputs": [{"id": "t1", "meta": meta}, {"id": "image", "keys": ["flair"], "meta": meta}],
        **more,
    }
    (task / "config.json").write_text(json.dumps(config))
    return config


def start(task: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["./main"],
        cwd=task,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_app_and_image_it_says_what_to_name(task: Path) -> None:
    programs = task / "bin"
    programs.mkdir()
    (programs / "apptainer").symlink_to("/bin/false")
    variables = {"PATH": f"{programs}:/usr/bin:/bin"}
    ended = subprocess.run(
        ["./main"], cwd=task, env=variables, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 69
    assert "LESION_XAI_IMAGE" in ended.stderr


def sample() -> dict[str, Any]:
    return json.loads((ROOT / "brainlife" / "config.json.sample").read_text())


@pytest.mark.slow
@pytest.mark.ants
def test_a_task_makes_what_brainlife_takes(task: Path) -> None:
    model = write_small_bundle(task.parent / "model")
    options = {"n_samples": 2, "skull_strip": "skip", "device": "cpu", "verbose": True}
    config_of(task, model=str(model), threshold=None, allow_tf32=False, **options)
    (task / "output").mkdir()
    (task / "output" / "of_a_run_before").touch()

    ended = start(task)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    mask, labels, t1, flair = (
        nb.load(task / name)
        for name in (
            "mask/mask.nii.gz",
            "parcellation/parc.nii.gz",
            "preprocessed_t1/t1.nii.gz",
            "preprocessed_flair/flair.nii.gz",
        )
    )
    assert mask.shape == labels.shape == t1.shape == flair.shape
    np.testing.assert_array_equal(mask.dataobj, np.asarray(labels.dataobj) > 0)
    named = json.loads((task / "parcellation" / "label.json").read_text())
    assert [row["voxel_value"] for row in named] == [1, 2, 3]
    assert [row["name"] for row in named] == ["L001", "L002", "L003"]
    assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3}
    assert "L003" in (task / "output_report" / "html" / "index.html").read_text()
    product = json.loads((task / "product.json").read_text())
    words, picture = product["brainlife"]
    volume_ml = np.count_nonzero(mask.dataobj) * np.prod(mask.header.get_zooms()) / 1000
    assert words["msg"] == f"3 lesions, {volume_ml:.2f} mL"
    assert base64.b64decode(picture["base64"]).startswith(b"\x89PNG")
    anat = task / "output" / "sub-MS001" / "ses-2" / "anat"
    assert (anat / "sub-MS001_ses-2_space-T1w_label-L_mask.nii.gz").exists()
    assert not (task / "output" / "of_a_run_before").exists()
    assert not (task / "lesion_xai").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flair": None}, "names no flair"),
        ({"t1": "../staged/none.nii.gz"}, "none.nii.gz does not exist"),
        ({"t1": "output/t1.nii.gz"}, "is where this app writes"),
        (
            {
                "_inputs": [
                    {"id": "t1", "meta": {"subject": "1"}},
                    {"id": "flair", "meta": {"subject": 1, "session": "2"}},
                ]
            },
            "of different visits: sub-1 and sub-1_ses-2",
        ),
        ({"_inputs": {"t1": {}}}, "not as brainlife writes it"),
        ({"t1": ["one", "two"]}, "names no t1"),
    ],
)
def test_inputs_that_cannot_be_used_end_the_task_in_one_line(
    task: Path, change: dict[str, Any], words: str
) -> None:
    (task / "output").mkdir()
    (task / "output" / "t1.nii.gz").touch()
    config_of(task, **change)
    ended = start(task)
    assert (task / "output" / "t1.nii.gz").exists()
    assert ended.returncode == 65
    assert ended.stderr.startswith("brainlife: ")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (task / "product.json").exists()


@pytest.mark.parametrize(
    ("meta", "entities"),
    [
        ({"subject": "sub-MS_1", "session": "ses-01"}, ("sub-MS1", "ses-01")),
        ({"subject": 0, "session": 0}, ("sub-0", "ses-0")),
        ({"subject": "", "session": None}, ("sub-01",)),
        ({"session": "2"}, ("sub-01", "ses-2")),
    ],
)
def test_entities_are_those_of_the_meta(meta: dict[str, Any], entities: tuple[str, ...]) -> None:
    assert convert.visit_of(meta) == entities


def test_an_input_is_refused_wherever_main_removes_something() -> None:
    removed = re.findall(r"^rm -rf (.+)$", (ROOT / "brainlife" / "main").read_text(), re.M)
    names = {name for line in removed for name in line.split()}
    assert names - {"product.json"} == set(convert.WRITTEN)


def test_options_of_zero_count_and_lists_are_words() -> None:
    given = {"t1": "a", "_inputs": [], "noise_level": 0, "verbose": True, "allow_tf32": False}
    given |= {"threshold": None, "preset": "", "session_label": ["1", 2]}
    words = ["--noise-level", "0", "--verbose", "--session-label", "1", "2"]
    assert list(convert.options_of(given)) == words


def test_the_exit_code_is_that_of_the_app(task: Path) -> None:
    config_of(task, threshold=7)
    ended = start(task)
    assert ended.returncode == 2
    assert "--threshold" in ended.stderr
    assert not (task / "product.json").exists()


def test_every_option_of_the_sample_is_one_of_the_app() -> None:
    from bids_lesion_xai.cli.parser import build_parser

    flags = build_parser()._option_string_actions
    own = {key for key in sample() if key not in ("t1", "flair") and not key.startswith("_")}
    assert own
    assert {f"--{key.replace('_', '-')}" for key in own} <= flags.keys()
