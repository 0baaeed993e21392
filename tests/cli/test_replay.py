# SPDX-License-Identifier: Apache-2.0
"""What a run writes of its options gives the same run again; the command line wins over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_lesion_xai.cli.parser import build_parser, parse
from bids_lesion_xai.cli.replay import tomllib
from bids_lesion_xai.config import RunConfig

FOLDERS = ("bids", "out", "participant")
# More than one of each kind of value, and letters that TOML and JSON write otherwise.
OPTIONS = (
    "",
    "--preset published",
    "--sloppy --low-mem",
    "--threshold 0.1 --noise-level 1e-7 --random-seed -3 --mem 16G -vv",
    "--participant-label sub-01,02 03 --session-id 1 --experiments all",
    "--device cuda:1 --nprocs 3 --tta flip --saliency-output summary --output-spaces T1w",
    "--gpu --mem-gb 7.5 --skip-bids-validator --notrack --write-graph",
    "--skull-stripped --method gradient --explain-mem-gb 0.3 --stop-on-first-crash",
)


def write(folder: Path, text: str) -> str:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def replayed(folder: Path, config: RunConfig, *options: str) -> RunConfig:
    return parse([*FOLDERS, "--config-file", write(folder, config.replay), *options])


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_is_replayed_exactly(options: str, tmp_path: Path) -> None:
    config = parse([*FOLDERS, *options.split()])
    again = replayed(tmp_path, config)
    assert again == config
    assert again.replay == config.replay
    assert again.warnings == ()


def test_every_option_is_written_or_is_about_the_machine() -> None:
    shown = {action.dest for action in build_parser()._actions if action.option_strings}
    given = {
        "participant_label": ["--participant-label", '\u00e9\x7f"\\\U0001f600'],
        "random_seed": ["--random-seed", str(2**80)],
    }
    for dest, argv in given.items():
        assert dest in shown
        content = tomllib.loads(parse([*FOLDERS, *argv]).replay)
        value = content[dest.replace("_", "-")]
        assert value == (int(argv[1]) if dest == "random_seed" else [argv[1]])


def test_no_path_is_written_and_data_must_be_named_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = ("--reference-masks", str(tmp_path / "masks"))
    masks += ("-d", f"prep={tmp_path / 'a'}", str(tmp_path / "b"))
    model = ("--model", str(tmp_path / "net"))
    machine = ("-w", str(tmp_path / "work"), "--dry-run-table", str(tmp_path / "plan.tsv"))
    config = parse([*FOLDERS, *masks, *model, *machine])
    assert str(tmp_path) not in config.replay
    assert tomllib.loads(config.replay)["paths"] == {
        "reference-masks": "masks",
        "derivatives": "a, b",
        "model": "net",
    }
    with pytest.raises(SystemExit):
        replayed(tmp_path, config, *masks)
    assert "--model" in capsys.readouterr().err.splitlines()[-1]
    assert replayed(tmp_path, config, *masks, *model, *machine) == config


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = parse([*FOLDERS, "--n-samples", "7", "--mem-gb", "3", "-vv", "--device", "cpu"])
    again = replayed(tmp_path, config, "--n-samples", "9", "--mem", "2G", "-v", "--gpu")
    assert (again.n_samples, again.total_memory_gb, again.verbosity, again.device) == (
        *(9, 2, 1, "cuda"),
    )
    published = replayed(tmp_path, config, "--preset", "published")
    assert (published.aggregation, published.n_samples) == ("max", 50)
    assert replayed(tmp_path, config, "--sloppy").n_samples == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n-samplse = 3", "n-samplse is no option; is n-samples meant?"),
        ("bids_dir = 'x'", "bids_dir is no option"),
        ("config-file = 'x'", "config-file is no option"),
        ("help = true", "help is no option"),
        ("n-samples = 0", "--n-samples: 0: a whole number of at least 1 is expected"),
        ("n-samples = true", "n-samples is True; it takes a value"),
        ("n-samples = [1, 2]", "one value is expected"),
        ("n-samples = {a = 1}", "a value, or a list of values, is expected"),
        ("write-graph = 'yes'", "true or false is expected"),
        ("write-graph = 2", "true or false is expected"),
        ("method = 'guess'", "invalid choice"),
        ("n-samples = ", "cannot be read as TOML"),
        ("paths = 3", "a table of options is expected"),
        ("[paths]\nmask = 'x'", "mask is no option"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*FOLDERS, "--config-file", write(tmp_path, text)])
    assert caught.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"--config-file {tmp_path / 'run.toml'}" in message
    assert words in message


@pytest.mark.parametrize("text", ["", "# n-samples = 3\n"])
def test_a_file_without_options_is_told(text: str, tmp_path: Path) -> None:
    (warning,) = parse([*FOLDERS, "--config-file", write(tmp_path, text)]).warnings
    assert warning == "--config-file has no effect: the file sets no option"


def test_keys_are_written_by_hand_as_one_likes(tmp_path: Path) -> None:
    text = "n_samples = 3\nwrite-graph = false\nparticipant_label = '01,02'\nverbose = 2\n"
    config = parse([*FOLDERS, "--config-file", write(tmp_path, text)])
    assert (config.n_samples, config.write_graph, config.participants) == (3, False, ("01", "02"))
    assert config.verbosity == 2
    masks = parse([*FOLDERS, "--config-file", write(tmp_path, "reference-masks = 'masks'")])
    assert masks.reference_masks == Path("masks").resolve()
