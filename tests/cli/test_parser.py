# SPDX-License-Identifier: Apache-2.0
"""What command lines mean, which ones are refused, and that asking costs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bids_lesion_xai import __version__
from bids_lesion_xai.cli.parser import build_parser, parse
from bids_lesion_xai.cli.resources import cores, memory_gb
from bids_lesion_xai.config import Plugin, RunConfig
from bids_lesion_xai.conventions import EXPERIMENTS, INPUT_METHODS
from bids_lesion_xai.explain import published
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[2]


def config(*options: str) -> RunConfig:
    return parse(["bids", "out", "participant", *options])


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the message that a refused command line ends with."""
    with pytest.raises(SystemExit) as caught:
        parse(list(argv))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("channel", "perilesional"), ("perilesional", "channel")),
        (("all",), tuple(EXPERIMENTS)),
        (("channel", "all"), tuple(EXPERIMENTS)),
    ],
)
def test_experiments_stand_in_their_order(
    given: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert config("--experiments", *given).experiments == expected


def test_defaults() -> None:
    defaults = config()
    assert defaults == RunConfig(
        bids_dir=Path("bids").resolve(),
        output_dir=Path("out").resolve(),
        reference_masks=None,
        tissue_maps=None,
        derivatives=(),
        existing_lesion_mask=None,
        levels=("participant",),
        work_dir=defaults.work_dir,
        model=DEFAULT_BUNDLE.resolve(),
        participants=(),
        sessions=(),
        bids_filter_file=None,
        bids_database_dir=None,
        bids_database_wipe=False,
        group_by=(),
        follow_lesions=False,
        threshold=None,
        peak_threshold=None,
        min_lesion_volume_mm3=6.0,
        skull_strip="auto",
        registration="auto",
        method="smoothgrad",
        aggregation="mean",
        target="logit",
        engine="auto",
        noise_rule="robust",
        baseline="zero",
        n_samples=50,
        target_error=None,
        noise_level=0.05,
        experiments=(),
        random_seed=0,
        device="auto",
        allow_tf32=False,
        flip=True,
        memory_gb=1.5,
        plugin=Plugin(),
        n_procs=cores(),
        total_memory_gb=0.9 * memory_gb(),
        omp_n_threads=min(cores(), 8),
        force=False,
        validate=True,
        verbosity=0,
        low_memory=False,
        sloppy=False,
        output_spaces=("T1w", "FLAIR"),
        saliency_output="maps",
        report_viewer=True,
        write_graph=False,
        resource_monitor=False,
        stop_on_first_crash=False,
        clean_work_dir=False,
        dry_run=False,
        reports_only=False,
        boilerplate_only=False,
        dry_run_table=None,
    )
    assert str(os.getuid()) in defaults.work_dir.name


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--threshold", "0.3"], "threshold", 0.3),
        (["--peak-threshold", "0.3"], "peak_threshold", 0.3),
        (["--min-lesion-volume", "0"], "min_lesion_volume_mm3", 0),
        (["--skull-strip", "skip"], "skull_strip", "skip"),
        (["--registration", "force"], "registration", "force"),
        (["--method", "vargrad"], "method", "vargrad"),
        (["--aggregation", "max"], "aggregation", "max"),
        (["--target", "logodds"], "target", "logodds"),
        (["--target-error", "0.1"], "target_error", 0.1),
        (["--noise-rule", "flair-range"], "noise_rule", "flair-range"),
        (["--baseline", "brain-mean"], "baseline", "brain-mean"),
        (["--engine", "whole"], "engine", "whole"),
        (["--explain-mem-gb", "0.5"], "memory_gb", 0.5),
        (["--allow-tf32"], "allow_tf32", True),
        (["--tta", "none"], "flip", False),
        (["--n-samples", "1"], "n_samples", 1),
        (["--noise-level", "0"], "noise_level", 0),
        (["--random-seed", "-3"], "random_seed", -3),
        (["--random-seed", str(2**80)], "random_seed", 2**80),
        (["--device", "cuda"], "device", "cuda"),
        (["--device", "cuda:12"], "device", "cuda:12"),
        (["--model", "."], "model", Path.cwd()),
        (["group", "--follow-lesions"], "follow_lesions", True),
        (["group", "--group-by", "sex", "age", "sex"], "group_by", ("sex", "age")),
        (["--output-spaces", "T1w"], "output_spaces", ("T1w",)),
        (["--output-spaces", "FLAIR", "T1w"], "output_spaces", ("T1w", "FLAIR")),
        (["--saliency-output", "summary"], "saliency_output", "summary"),
        (["--report-viewer", "off"], "report_viewer", False),
        (["--write-graph"], "write_graph", True),
        (["--stop-on-first-crash"], "stop_on_first_crash", True),
        (["--clean-workdir"], "clean_work_dir", True),
        (["--reports-only"], "reports_only", True),
        (["--boilerplate-only"], "boilerplate_only", True),
        (["--dry-run"], "dry_run", True),
        (["--dry-run-table", "x.tsv"], "dry_run", True),
        (["--dry-run-table", "x.tsv"], "dry_run_table", Path("x.tsv").resolve()),
        (["--low-mem"], "low_memory", True),
        (["--low-mem"], "memory_gb", 0.1),
        (["--low-mem", "--explain-mem-gb", "2"], "memory_gb", 2),
        (["--sloppy"], "n_samples", 2),
        (["--sloppy"], "flip", False),
        (["--sloppy", "--tta", "flip"], "flip", True),
        (["--sloppy", "--n-samples", "5"], "n_samples", 5),
        (["--debug"], "verbosity", 2),
        (["-v"], "verbosity", 1),
        (["-vv"], "verbosity", 2),
        (["--verbose", "--verbose"], "verbosity", 2),
    ],
)
def test_options_get_to_the_configuration(options: list[str], field: str, value: object) -> None:
    assert getattr(config(*options), field) == value


def test_labels_lose_their_prefix_and_are_taken_once() -> None:
    given = config(
        *("--participant-label", "sub-01", "02", "01", "sub-subx"),
        *("--session-label", "ses-1", "1", "ses-ses"),
    )
    assert given.participants == ("01", "02", "subx")
    assert given.sessions == ("1", "ses")
    other = config("--participant-label", "ses-1", "--session-label", "sub-1")
    assert (other.participants, other.sessions) == (("ses-1",), ("sub-1",))


@pytest.mark.parametrize(
    ("spellings", "value", "field", "expected"),
    [
        (
            [f"--participant{dash}label{s}" for dash in "-_" for s in ("", "s")],
            ["sub-7"],
            "participants",
            ("7",),
        ),
        (
            [f"--session{dash}{word}" for dash in "-_" for word in ("label", "labels", "id")],
            ["7"],
            "sessions",
            ("7",),
        ),
        (
            [f"--skip{d}bids{d}{word}" for d in "-_" for word in ("validation", "validator")],
            [],
            "validate",
            False,
        ),
        (
            ["--skull-strip skip", "--skull-strip-t1w skip", "--skull-stripped"],
            [],
            "skull_strip",
            "skip",
        ),
        (["--resource-monitor", "--resource_monitor", "--profile"], [], "resource_monitor", True),
        (["--sloppy", "--testing"], [], "sloppy", True),
        (["--device cuda", "--gpu"], [], "device", "cuda"),
        (["-w", "--work-dir", "--work_dir"], ["/scratch"], "work_dir", Path("/scratch")),
        (
            [
                "--nprocs",
                "--n-procs",
                "--n_procs",
                "--nthreads",
                "--ncpus",
                "--n_cpus",
                "--n-cpus",
            ],
            ["77"],
            "n_procs",
            77,
        ),
        (
            [f"--nprocs 9 --{word}{dash}nthreads" for dash in "-_" for word in ("omp", "ants")],
            ["9"],
            "omp_n_threads",
            9,
        ),
    ],
)
def test_every_spelling_means_the_same(
    spellings: list[str], value: list[str], field: str, expected: Any
) -> None:
    assert getattr(config(), field) != expected
    for spelling in spellings:
        assert getattr(config(*spelling.split(), *value), field) == expected


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        ("participant", ""),
        ("participant --method gradient --n-samples 3", "n-samples"),
        ("participant --method gradient --noise-level 0.1", "noise-level"),
        ("participant --method integrated-gradients --noise-rule robust", "noise-rule"),
        ("participant --baseline zero", "baseline"),
        ("participant --method integrated-gradients --baseline zero", ""),
        ("participant --device cpu --allow-tf32", "allow-tf32"),
        ("participant --threshold 0.6 --peak-threshold 0.5", "peak-threshold"),
        ("participant --threshold 0.6 --peak-threshold 0.6", ""),
        ("participant --threshold 0.6", ""),
        ("participant --peak-threshold 0.1", ""),
        ("participant --output-spaces FLAIR", "output-spaces"),
        ("participant --output-spaces FLAIR T1w", ""),
        ("group --n-samples 3 --participant-label 01", "n-samples participant-label"),
        ("participant group --n-samples 3 --participant-label 01", ""),
        ("participant --reports-only --participant-label 01", ""),
        ("participant --reports-only --model .", "model"),
        ("participant --boilerplate-only --write-graph", "write-graph"),
        ("participant --dry-run --clean-workdir --n-samples 3", ""),
        ("participant --notrack --md-only-boilerplate", ""),
    ],
)
def test_what_has_no_effect_beside_the_other_options_is_told(argv: str, flags: str) -> None:
    told = parse(["bids", "out", *argv.split()]).warnings
    assert sorted(line.split()[0] for line in told) == sorted(
        f"--{flag}" for flag in flags.split()
    )


@pytest.mark.parametrize("others", ["--reports-only", "--boilerplate-only"])
def test_parts_of_the_work_are_asked_for_one_by_one(
    others: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "bids", "out", "participant", "--dry-run", others)
    assert "not allowed with" in message
    table = ("--dry-run-table", "plan.tsv")
    assert "--dry-run-table" in refusal(capsys, "bids", "out", "participant", others, *table)


IGNORED = (
    "--notrack --no-sub --no-datalad-get --skull-strip-fixed-seed --output-layout bids "
    "--subject-anatomical-reference sessionwise --skull-strip-template OASIS30ANTs"
)


def test_every_option_may_have_underscores_for_dashes() -> None:
    parser = build_parser()
    options = {flag for action in parser._actions for flag in action.option_strings}
    dashed = [flag for flag in sorted(options) if "-" in flag[2:]]
    assert len(dashed) > 40
    for flag in dashed:
        with suppress(SystemExit):  # known, and its value is missing
            spelled = f"--{flag[2:].replace('-', '_')}"
            assert parser.parse_known_args(["bids", "out", "group", spelled])[1] == []
    assert config("--n_samples=3", "--existing_lesion_mask", "a_b") == config(
        "--n-samples", "3", "--existing-lesion-mask=a_b"
    )


def test_options_of_other_apps_without_a_meaning_here_change_nothing() -> None:
    assert config(*IGNORED.split()) == config()


@pytest.mark.parametrize(
    "text",
    [
        "01,sub-02 03",
        "@01\nsub-02\n\n03\n",
        "@01 sub-02,03",
        "@# chosen\n01, 02\n03",
        "@\ufeff01\r\n02\r\n03\r\n",
        "@participant_id\tage\nsub-01\t7\nsub-02\tn/a\nsub-03\t8\n",
        "01 @02\n03",
    ],
)
def test_labels_come_by_words_commas_and_files(text: str, tmp_path: Path) -> None:
    words, _, content = text.partition("@")
    given = words.split()
    if content:
        (tmp_path / "labels").write_text(content, encoding="utf-8", newline="")
        given.append(f"@{tmp_path / 'labels'}")
    assert config("--participant-label", *given).participants == ("01", "02", "03")


@pytest.mark.parametrize("given", ["01,,02", "", ",", "sub-", "@none.txt", "@empty"])
def test_labels_that_are_none_are_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("# nobody\n")
    message = refusal(capsys, "bids", "out", "participant", "--participant-label", given)
    assert "--participant-label" in message
    assert "expected" in message


def test_cpu_and_gpu_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "bids", "out", "participant", "--gpu", "--device", "cpu")
    assert "not allowed with" in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("participant", ("participant",)),
        ("group", ("group",)),
        ("participant group", ("participant", "group")),
        ("group participant", ("participant", "group")),
        ("group group", ("group",)),
        ("group participant group participant", ("participant", "group")),
    ],
)
def test_levels_run_once_and_the_group_last(given: str, expected: tuple[str, ...]) -> None:
    assert parse(["bids", "out", *given.split()]).levels == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--nprocs 4 --omp-nthreads 2", (4, 2)),
        ("--nprocs 4 --omp-nthreads 9", (4, 4)),
        ("--nprocs 4", (4, 4)),
        ("--nprocs 64", (64, 8)),
        ("--nprocs 64 --omp-nthreads 32", (64, 32)),
    ],
)
def test_one_process_never_uses_more_cores_than_there_are(
    options: str, expected: tuple[int, int]
) -> None:
    given = config(*options.split())
    assert (given.n_procs, given.omp_n_threads) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--threshold", value) for value in ("0", "1", "2", "-0.5", "nan", "half")),
        *(("--n-samples", value) for value in ("0", "-1", "1.5", "many")),
        *(("--noise-level", value) for value in ("-1", "inf", "nan", "x")),
        *(("--min-lesion-volume", value) for value in ("-1", "inf", "nan", "x")),
        *(("--device", value) for value in ("tpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "")),
        *(("--aggregation", value) for value in ("foo", "Mean")),
        *(("--method", value) for value in ("foo", "gradcam++", "SmoothGrad")),
        *(("--output-spaces", value) for value in ("MNI152NLin2009cAsym", "T1w:res-2", "t1w")),
        ("--saliency-output", "all"),
        ("--report-viewer", "yes"),
        ("--subject-anatomical-reference", "unbiased"),
        ("--preset", "fast"),
        ("--target", "logits"),
        ("--noise-rule", "t1w-range"),
        ("--baseline", "mean"),
        ("--engine", "fastest"),
        *(("--target-error", value) for value in ("0", "-0.1", "inf", "nan", "x")),
        *(("--explain-mem-gb", value) for value in ("0", "-1", "inf", "x")),
        ("--skull-strip", "maybe"),
        ("--random-seed", "x"),
        *(("--nprocs", value) for value in ("0", "-2", "all")),
        *(("--omp-nthreads", value) for value in ("0", "two")),
        *(("--mem", value) for value in ("0", "-1", "much", "16P", "2e3", "8000B", "", "9" * 400)),
        *(("--mem-gb", value) for value in ("0", "-1", "16G")),
        *(("--derivatives", value) for value in ("=prep", "a b=prep", "prep=", "/", "ä=x")),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "bids", "out", "participant", option, value)
    assert option in message
    assert value in message
    assert "expected" in message or "invalid choice" in message or "invalid int" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "bids_dir"),
        ("bids", "output_dir"),
        ("bids out", "analysis_level"),
        ("bids out session", "'session'"),
        ("bids out participant --no-such-option", "--no-such-option"),
        ("bids out participant --participant-label", "--participant-label"),
        ("bids out participant --model", "--model"),
    ],
)
def test_an_incomplete_command_line_is_refused(
    argv: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, *argv.split())


@pytest.mark.parametrize("output", ["bids", "bids/", "other/../bids", "link"])
def test_the_input_is_not_the_output(
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bids").mkdir()
    (tmp_path / "link").symlink_to("bids")
    assert "OUTPUT_DIR is BIDS_DIR" in refusal(capsys, "bids", output, "participant")


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("bids", "BIDS_DIR"),
        ("bids/code/work", "BIDS_DIR"),
        ("out/../bids/work", "BIDS_DIR"),
        ("out", "OUTPUT_DIR"),
        ("out/sub/work", "OUTPUT_DIR"),
        ("bids/derivatives", "BIDS_DIR"),
    ],
)
def test_the_work_folder_is_not_inside_input_or_output(
    work: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "bids", "out", "participant", "--work-dir", work)
    assert "--work-dir" in message
    assert f"inside {words}" in message


@pytest.mark.parametrize("table", ["bids/participants.tsv", "bids/derivatives/../plan.tsv"])
def test_the_plan_does_not_go_into_the_input(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "bids", "out", "participant", "--dry-run-table", table)
    assert "lies inside BIDS_DIR" in message


def test_without_a_folder_of_temporary_files_the_work_folder_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_folder() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    assert "--work-dir" in refusal(capsys, "bids", "out", "participant")


def test_links_that_lead_to_themselves_are_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    if sys.version_info >= (3, 13):
        assert parse([str(loop), "out", "participant"]).bids_dir == loop
        return
    for option in ("--model", "--derivatives", "--reference-masks", "--bids-database-dir"):
        assert "loop" in refusal(capsys, "bids", "out", "participant", option, str(loop))
    assert "loop" in refusal(capsys, str(loop), "out", "participant")


def test_a_current_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder" in refusal(capsys, "bids", "out", "participant")
    assert parse(["/bids", "/out", "participant"]).bids_dir == Path("/bids")


@pytest.mark.parametrize("name", ["w[1]", "a[/b", "x]"])
def test_a_work_folder_that_ants_cannot_take_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "brackets" in refusal(capsys, "bids", "out", "participant", "--work-dir", name)


@pytest.mark.parametrize("output", ["bids/sub-01", "bids/results", "bids/derivatives"])
def test_the_output_is_in_the_input_among_its_derivatives_alone(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lies inside BIDS_DIR" in refusal(capsys, "bids", output, "participant")


def test_derivatives_have_a_name_or_that_of_their_folder() -> None:
    given = config("-d", "one=a=b", "x/prep/", "--derivatives", "./p=q/last", "three=/abs")
    assert given.derivatives == (
        ("one", Path("a=b").resolve()),
        ("prep", Path("x/prep").resolve()),
        ("last", Path("p=q/last").resolve()),
        ("three", Path("/abs")),
    )
    assert given.links["prep"] == Path("x/prep").resolve()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-d a/prep b/prep", "two datasets are called prep"),
        ("-d raw=prep", "two datasets are called raw"),
        ("-d tissue-maps=a --tissue-maps b", "two datasets are called tissue-maps"),
        ("-d old=out", "--derivatives: .*out is OUTPUT_DIR"),
        ("--existing-lesion-mask out", "--existing-lesion-mask: .*out is OUTPUT_DIR"),
        ("--reference-masks ./out/", "--reference-masks: .*out is OUTPUT_DIR"),
    ],
)
def test_datasets_are_told_apart_and_not_written_over(
    options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "bids", "out", "participant", *options.split())
    assert re.search(words, message)


def test_the_help_shows_no_default_that_says_nothing() -> None:
    shown = build_parser().format_help()
    assert "(default: 0.05)" in shown
    for nothing in ("None", "[]", "False"):
        assert f"(default: {nothing})" not in shown


CHOICES = {
    "default": {
        "method": "smoothgrad",
        "aggregation": "mean",
        "target": "logit",
        "n_samples": 50,
        "noise_rule": "robust",
        "flip": True,
    },
    "published": {
        "method": "smoothgrad",
        "aggregation": "max",
        "target": "logit",
        "n_samples": 50,
        "noise_rule": "flair-range",
        "flip": False,
    },
}
GIVEN = {
    "method": "vargrad",
    "aggregation": "rms",
    "target": "probability",
    "n_samples": 7,
    "noise_rule": "robust",
}


def chosen(*options: str) -> dict[str, Any]:
    return {name: getattr(config(*options), name) for name in CHOICES["default"]}


@pytest.mark.parametrize("preset", CHOICES)
def test_a_preset_chooses_what_is_not_given(preset: str) -> None:
    assert chosen("--preset", preset) == CHOICES[preset]


def test_the_published_preset_is_that_of_the_published_work() -> None:
    image = torch.tensor([[-1.0, 3.0], [0.0, 50.0]])[:, None, None]
    arguments = published(image)
    preset = config("--preset", "published")
    assert arguments.pop("sigma") == pytest.approx([preset.noise_level * 4] * 2)
    assert {name: getattr(preset, name) for name in arguments} == arguments
    assert preset.noise_rule == "flair-range"


@pytest.mark.parametrize("preset", CHOICES)
@pytest.mark.parametrize("name", GIVEN)
def test_a_flag_wins_over_the_preset_wherever_it_stands(preset: str, name: str) -> None:
    flag = [f"--{name.replace('_', '-')}", str(GIVEN[name])]
    expected = CHOICES[preset] | {name: GIVEN[name]}
    assert chosen("--preset", preset, *flag) == expected
    assert chosen(*flag, "--preset", preset) == expected


def test_a_preset_changes_nothing_else() -> None:
    default, other = (vars(config("--preset", preset)) for preset in CHOICES)
    differ = {name for name in default if default[name] != other[name]}
    assert differ - {"run", "replay"} == {"aggregation", "noise_rule", "flip"}


@pytest.mark.parametrize("method", INPUT_METHODS)
def test_only_methods_with_noise_take_a_target_error(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--method", method, "--target-error", "0.1")
    if method in ("gradient", "integrated-gradients"):
        message = refusal(capsys, "bids", "out", "participant", *options)
        assert f"--target-error: method {method} has no noise" in message
    else:
        assert config(*options).target_error == 0.1


def plugin_file(folder: Path, text: str) -> str:
    path = folder / "plugin.yml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("size", "gigabytes"),
    [
        ("16G", 16),
        ("16 GB", 16),
        ("16GiB", 16),
        ("500", 0.5),
        ("500M", 0.5),
        ("1.5T", 1500),
        ("2000000k", 2),
    ],
)
def test_memory_is_in_mb_unless_a_unit_says_otherwise(size: str, gigabytes: float) -> None:
    for flag in ("--mem", "--mem-mb", "--mem_mb"):
        assert config(flag, size).total_memory_gb == gigabytes
    assert config("--mem-gb", "7.5").total_memory_gb == 7.5


@pytest.mark.parametrize("given", [("--mem", "8"), ("--mem-gb", "0.1")])
def test_too_little_memory_is_refused_with_a_word_on_units(
    given: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "8G is 8 GB" in refusal(capsys, "bids", "out", "participant", *given)


def test_a_local_plugin_says_how_much_to_use_and_flags_win(tmp_path: Path) -> None:
    text = "plugin: LegacyMultiProc\nplugin_args: {n_procs: 3, memory_gb: 5, maxtasksperchild: 1}"
    given = ("--use-plugin", plugin_file(tmp_path, text))
    local = config(*given)
    assert local.plugin == Plugin("MultiProc", {"n_procs": 3, "memory_gb": 5})
    assert (local.n_procs, local.total_memory_gb, local.omp_n_threads) == (3, 5, 3)
    other = config(*given, "--nprocs", "2", "--mem", "1G")
    assert (other.n_procs, other.total_memory_gb, other.omp_n_threads) == (2, 1, 2)


def test_the_jobs_of_a_cluster_do_not_take_what_this_machine_has(tmp_path: Path) -> None:
    text = '{"plugin": "SLURM", "plugin_args": {"sbatch_args": "-p long", "max_jobs": 9}}'
    jobs = config("--nipype-plugin-file", plugin_file(tmp_path, text), "-w", str(tmp_path))
    assert jobs.plugin == Plugin("SLURM", {"sbatch_args": "-p long", "max_jobs": 9})
    assert (jobs.n_procs, jobs.total_memory_gb, jobs.omp_n_threads) == (4, 8, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plugin: Slurm", "one of MultiProc, SLURM"),
        ("plugin: SLURMGraph", "one of MultiProc, SLURM"),
        ("plugin_args: {}", "one of MultiProc, SLURM"),
        ("plugin: [SLURM]", "one of MultiProc, SLURM"),
        ("SLURM", "one of MultiProc, SLURM"),
        ("", "one of MultiProc, SLURM"),
        ("{plugin: SLURM, plugin_args: fast}", "a mapping"),
        ("{plugin: [", "cannot be read as YAML"),
        ("{plugin: !!python/name:os.system }", "cannot be read as YAML"),
        ("{plugin: MultiProc, plugin_args: {n_procs: 0}}", "n_procs 0"),
        ("{plugin: MultiProc, plugin_args: {n_procs: 1.5}}", "n_procs 1.5"),
        ("{plugin: MultiProc, plugin_args: {memory_gb: much}}", "memory_gb 'much'"),
        ("{plugin: MultiProc, plugin_args: {memory_gb: .inf}}", "memory_gb inf"),
        ("{plugin: SLURM, plugin_args: {sbatch_args: 2020-13-45}}", "cannot be read as YAML"),
        ("plugin: SLURM", "needs a --work-dir"),
    ],
)
def test_a_plugin_that_is_not_understood_is_refused(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--use-plugin", plugin_file(tmp_path, text))
    message = refusal(capsys, "bids", "out", "participant", *given)
    assert "--use-plugin" in message
    assert words in message


def test_a_plugin_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "bids", "out", "participant", "--use-plugin", "none.yml")
    assert "none.yml cannot be read" in message


def test_folders_beside_the_input_or_around_it_are_fine() -> None:
    given = parse(["bids", "bids/derivatives/app", "participant", "-w", "bids-work"])
    assert given.work_dir == Path("bids-work").resolve()
    assert given.output_dir == Path("bids/derivatives/app").resolve()
    assert parse(["all/bids", "all/out", "group", "-w", "all"]).work_dir == Path("all").resolve()


PROGRAM = """
import sys
import tempfile
from bids_lesion_xai.cli.run import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = "torch monai ants nipype nibabel pandas bids numpy scipy matplotlib nilearn deepbet"
    print("code", end.code or 0, *(name for name in heavy.split() if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ("--help", 0, "--participant-label"),
        ("--version", 0, f"bids-lesion-xai {__version__}"),
        ("bids out participant --threshold 2", 2, "--threshold"),
        ("", 2, "bids_dir"),
    ],
)
def test_asking_for_help_or_a_wrong_command_line_imports_nothing_heavy(
    argv: str, code: int, words: str, tmp_path: Path
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == f"code {code}"
    assert words in answer.stdout + answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_py_works_from_any_folder_without_any_package_installed(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-S", ROOT / "run.py", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("usage: ")


@pytest.mark.parametrize("option", ["--group-by sex", "--follow-lesions"])
def test_what_the_group_does_needs_its_level(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["bids", "out", "participant", *option.split()])
    name = option.split()[0]
    assert re.search(rf"{name}: nothing is .* without the level group", capsys.readouterr().err)


@pytest.mark.parametrize(
    "flag", ["--work-dir", "--bids-database-dir", "--model", "--config-file", "--reference-masks"]
)
def test_an_empty_path_is_not_the_current_folder(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["bids", "out", "participant", flag, ""])
    assert caught.value.code == 2
    assert f"{flag}" in capsys.readouterr().err
    for folders in (("", "out"), ("bids", "")):
        with pytest.raises(SystemExit):
            parse([*folders, "participant"])
        assert "a path is expected, not an empty text" in capsys.readouterr().err
