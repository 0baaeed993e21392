# SPDX-License-Identifier: Apache-2.0
"""The command of the flag on simulated runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bids_lesion_xai.cli.flag import main
from bids_lesion_xai.flag.classifier import flag_probability, load_flag
from bids_lesion_xai.group.collect import read_table
from tests.flag.cohorts import simulate, write_run
from tests.test_repository import ROOT

TABLES = {"scores.tsv", "people.tsv", "comparison.tsv", "predictions.tsv"}
WRITTEN = TABLES | {"report.md", "flag.png"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run whose saliency tells what is false, and what came of it."""
    folder = tmp_path_factory.mktemp("flag")
    run = write_run(folder / "run", simulate(7, 40, signal=2.0))
    assert main([str(run), "--output", str(folder / "result")]) == 0
    return folder


def test_a_classifier_that_beats_the_baseline_is_kept(trained: Path) -> None:
    result = trained / "result"
    assert names(result) == WRITTEN | {"flag.json"}
    facts = load_flag(result / "flag.json").facts
    assert facts["beats_baseline"] is True
    assert facts["trained_on"] == [f"run/sub-0{number}" for number in range(1, 8)]
    assert set(facts["versions"]) == {"bids_lesion_xai", "python", "numpy", "scikit-learn"}
    report = (result / "report.md").read_text(encoding="utf-8")
    assert facts["verdict"] in report
    assert "is in `flag.json`" in report
    scores = read_table(result / "scores.tsv").set_index(["fold", "features"])
    overall = scores.loc[("overall", "saliency")].to_dict()
    stated = facts["on_left_out_people"]
    assert {key: float(overall[key]) for key in stated} == pytest.approx(stated)


def test_the_same_command_writes_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    assert main([str(trained / "run"), "--output", str(tmp_path)]) == 0
    for name in (*TABLES, "report.md", "flag.json"):
        assert (tmp_path / name).read_bytes() == (trained / "result" / name).read_bytes(), name


def test_the_classifier_is_applied_to_runs_without_reference(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = simulate(2, 9, seed=8)
    found = table[table["outcome"] != "FN"].drop(columns="outcome").reset_index(drop=True)
    new = write_run(tmp_path / "new", found)
    path = trained / "result/flag.json"
    assert main([str(new), "--output", str(tmp_path / "out"), "--apply", str(path)]) == 0
    assert names(tmp_path / "out") == {"flags.tsv"}
    flags = read_table(tmp_path / "out/flags.tsv")
    assert flags["name"].tolist() == found["name"].tolist()
    flag = load_flag(path)
    expected = flag_probability(flag, read_table(new / "group_lesions.tsv"))
    assert flags["false_probability"].to_numpy() == pytest.approx(expected, abs=1e-15)
    assert (flags["flagged"] == "True").tolist() == (expected > flag.cut).tolist()
    assert "from its training" not in caplog.text


def test_missed_lesions_have_no_probability_and_people_of_the_training_are_told(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [str(trained / "run"), "--output", str(tmp_path)]
    assert main([*command, "--apply", str(trained / "result/flag.json")]) == 0
    assert len(read_table(tmp_path / "flags.tsv")) == 7 * 40
    assert "knows run/sub-01" in caplog.text


def test_a_classifier_that_does_not_beat_the_baseline_is_kept_only_if_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", simulate(3, 20))
    output = tmp_path / "out"
    command = [str(run), "--output", str(output)]
    assert main([*command, "--keep-anyway"]) == 0
    assert names(output) == WRITTEN | {"flag.json"}
    again = [str(run), "--output", str(tmp_path / "flags")]
    assert main([*again, "--apply", str(output / "flag.json")]) == 0
    assert "did not beat volume and probability alone" in caplog.text
    assert main(command) == 0
    assert names(output) == WRITTEN
    report = (output / "report.md").read_text(encoding="utf-8")
    assert "It cannot be shown that saliency beats the baseline: with 3 people" in report
    assert "is not kept" in report


def no_reference(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="outcome")


def no_distances(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="flair_distance_50_mm")


def one_person(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["participant_id"] == "sub-01"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_reference, "--reference-masks"),
        (no_distances, "lacks the columns flair_distance_50_mm"),
        (one_person, "is 1 (run/sub-01)"),
    ],
)
def test_runs_that_cannot_be_learnt_from_are_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: str,
) -> None:
    run = write_run(tmp_path / "run", change(simulate(4, 12)))
    assert main([str(run), "--output", str(tmp_path / "out")]) == 65
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bids-lesion-xai-flag: ")
    assert words in last
    assert not (tmp_path / "out").exists()


def test_the_exit_codes_are_those_of_the_other_commands(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = str(trained / "run"), str(tmp_path / "out")
    flag = trained / "result/flag.json"
    assert main([str(tmp_path / "none"), "--output", output]) == 66
    assert main([run, "--output", output, "--apply", str(tmp_path / "none.json")]) == 66
    assert main([run, "--output", output, "--apply", str(flag), "--keep-anyway"]) == 2
    assert main([run, "--output", run]) == 2
    assert "choose another folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([run, "--output", str(tmp_path / "file"), "--apply", str(flag)]) == 73
    assert main([str(tmp_path), "--output", output]) == 65
    assert "Run the group level first" in capsys.readouterr().err


def test_settings_of_the_runs_are_compared(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flag = tmp_path / "flag.json"
    content = json.loads((trained / "result/flag.json").read_text())
    content["facts"]["settings"] = {"Model": ['"one"']}
    flag.write_text(json.dumps(content))
    other = {"Model": ['"two"']}
    monkeypatch.setattr("bids_lesion_xai.flag.runs.read_settings", lambda folders: other)
    command = [str(trained / "run"), "--output", str(tmp_path / "out"), "--apply", str(flag)]
    assert main(command) == 0
    assert 'runs of other settings: Model: "one"; here "two"' in caplog.text


def test_the_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from bids_lesion_xai.cli.flag import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n"
        "    print([m for m in ('torch', 'sklearn', 'numpy', 'pandas') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == "[]"
    assert "usage" in answer.stdout
