"""Files beside the package agree with it. ``make readme`` writes the generated parts anew."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai import __version__, errors
from bids_lesion_xai.bids.derivatives import DERIVATIVES, bidsignore
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import build_parser, parse
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE
from bids_lesion_xai.training.results import by_person

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DESCRIPTOR = ROOT / "descriptor.json"
DOCKERFILE = ROOT / "Dockerfile"
# All but 0; `tests/cli/test_exit_codes.py` provokes each.
EXIT_CODES = {
    *(kind.exit_code for kind in errors.LesionXaiError.__subclasses__()),
    *(errors.SOME_VISITS_FAILED, errors.INPUT_OUTPUT_ERROR, errors.OUT_OF_MEMORY),
    *(128 + signal.SIGINT, 128 + signal.SIGTERM),
}
# Of argparse, they print something and end.
NOT_RUNNING = {"--help", "--version"}


def outputs_table() -> str:
    """Return README's table of outputs, as Markdown."""
    lines = ["| file | content | unit |", "| --- | --- | --- |"]
    for row in DERIVATIVES.values():
        sidecar = ", `.json`" if row.facts else ""
        path = row.example(Visit("01")).as_posix()
        lines.append(f"| `{path}`{sidecar} | {row.description} | {row.units} |")
    return "\n".join(lines)


def model_figures() -> str:
    """Return what networks trained without who is judged reach, as Markdown."""
    metadata = json.loads((DEFAULT_BUNDLE / "configs/metadata.json").read_text(encoding="utf-8"))
    rows = metadata["evaluation"]
    parts = []
    for way in dict.fromkeys(row["left_out"] for row in rows):
        own = [row for row in rows if row["left_out"] == way]
        real = [row for row in own if not row["person"].startswith("synthetic/")]
        parts.append(f"Each {way} left out:\n\n{_figures_of_scans(real)}")
        free = [row for row in own if row not in real]
        if free:
            parts.append(_false_lesions_of_heads(free))
    return "\n\n".join(parts)


def _false_lesions_of_heads(rows: list[dict[str, Any]]) -> str:
    lines = ["| lesion-free head | lesions above 10 mm³, by each network |", "| --- | --- |"]
    for head in dict.fromkeys(row["person"] for row in rows):
        counts = [row["n_false_positive_over_10mm3"] for row in rows if row["person"] == head]
        lines.append(f"| {head} | {', '.join(map(str, counts))} |")
    return "\n".join(lines)


def _figures_of_scans(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| scan | patches | Dice | normalised Dice | lesion F1 | lesions found "
        "| false lesions, above 10 mm³ | volume (mL) | reference (mL) | surface distance (mm) |",
        f"|{' --- |' * 10}",
    ]
    for row in rows:
        found = f"{row['n_reference'] - row['n_missed']} of {row['n_reference']}"
        false = (
            f"{row['n_false_positive']} of {row['n_predicted']}, "
            f"{row['n_false_positive_over_10mm3']}"
        )
        cells = [f"{row['person']} {row['session']}".strip(), f"{row['patches']:,}"]
        cells += [f"{row[key]:.2f}" for key in ("dice", "normalised_dice", "f1")]
        cells += [found, false]
        cells += [f"{row[key] / 1000:.1f}" for key in ("volume_mm3", "reference_volume_mm3")]
        cells.append(f"{row['surface_distance_mm']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    mean = by_person(rows).iloc[-1]
    cells = [
        "mean of people",
        "",
        *(f"{mean[key]:.2f}" for key in ("dice", "normalised_dice", "f1")),
    ]
    cells += ["", f"{mean['n_false_positive']:.1f}, {mean['n_false_positive_over_10mm3']:.1f}"]
    cells += ["", "", f"{mean['surface_distance_mm']:.1f}"]
    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


CARD = DEFAULT_BUNDLE / "docs/README.md"
GENERATED = {
    (README, "outputs"): outputs_table,
    (README, "bidsignore"): lambda: f"```\n{bidsignore()}```",
    (README, "model figures"): model_figures,
    (CARD, "model figures"): model_figures,
}


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: begin[^>]*-->\n)(.*?)(\n<!-- {name}: end -->)", re.DOTALL)


@pytest.mark.parametrize(("path", "name"), GENERATED)
def test_generated_parts_are_current(path: Path, name: str) -> None:
    shown = _block(name).search(path.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[2] == GENERATED[path, name](), "run: make readme"


def test_quick_start_has_exactly_two_commands() -> None:
    section = (
        README.read_text(encoding="utf-8").partition("## Quick start")[2].partition("\n## ")[0]
    )
    blocks = re.findall(r"^```.*?\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines()] == ["make demo", "make test"]


def test_readme_states_every_exit_code() -> None:
    section = (
        README.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    )
    stated = [int(code) for code in re.findall(r"^\| (\d+) ", section, re.M)]
    assert stated == [0, *sorted(EXIT_CODES)]


def test_files_that_readme_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def _descriptor() -> dict:
    return json.loads(DESCRIPTOR.read_text(encoding="utf-8"))


def _parser_options() -> dict[str, argparse.Action]:
    """Return the actions of the parser by their first long flag, or by name if positional."""
    options = {}
    for action in build_parser()._actions:
        long = [flag for flag in action.option_strings if flag.startswith("--")]
        options[long[0] if long else action.dest] = action
    return {flag: action for flag, action in options.items() if flag not in NOT_RUNNING}


def _descriptor_inputs() -> dict[str, dict]:
    """Return the inputs of the descriptor by flag, or by id if positional."""
    inputs = {}
    for entry in _descriptor()["inputs"]:
        if entry["id"] != "participant_level_analysis_dir":  # output_dir under its BIDS App name
            inputs[entry.get("command-line-flag", entry["id"])] = entry
    return inputs


def test_descriptor_has_the_options_of_the_parser() -> None:
    assert set(_descriptor_inputs()) == set(_parser_options())


@pytest.mark.parametrize("flag", _parser_options())
def test_descriptor_describes_the_option_as_the_parser_does(flag: str) -> None:
    entry, action = _descriptor_inputs()[flag], _parser_options()[flag]
    assert entry.get("value-choices") == (list(action.choices) if action.choices else None)
    assert entry.get("list", False) == (action.nargs == "+")
    assert (entry["type"] == "Flag") == (action.nargs == 0)
    assert entry["optional"] is not action.required
    # Boutiques would write a default on every command line, where it wins over --config-file and
    # contradicts the other options of its group.
    assert "default-value" not in entry


def test_descriptor_has_the_groups_of_the_parser() -> None:
    flags = {entry["id"]: flag for flag, entry in _descriptor_inputs().items()}
    groups = _descriptor()["groups"]
    assert all(group["mutually-exclusive"] for group in groups)
    assert sorted([flags[member] for member in group["members"]] for group in groups) == sorted(
        [action.option_strings[0] for action in group._group_actions]
        for group in build_parser()._mutually_exclusive_groups
    )


def bosh(*arguments: str | Path) -> str:
    """Return what the command line of Boutiques answers."""
    program = Path(sys.executable).with_name("bosh")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return ended.stdout


@pytest.mark.parametrize("options", [[], ["--bids"]], ids=["boutiques", "bids"])
def test_boutiques_accepts_the_descriptor(options: list[str]) -> None:
    assert bosh("validate", *options, DESCRIPTOR).endswith("OK\n")


def simulated(given: dict[str, object], folder: Path) -> str:
    """Return the command that Boutiques makes of an invocation."""
    invocation = folder / "invocation.json"
    invocation.write_text(json.dumps(given), encoding="utf-8")
    return bosh("exec", "simulate", DESCRIPTOR, "-i", invocation).splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        (
            {
                "participant_label": ["01", "sub-02"],
                "session_label": ["1"],
                "skip_bids_validation": True,
                "preset": "published",
                "threshold": 0.25,
                "target_error": 0.1,
                "work_dir": "/work",
                "nprocs": 3,
                "mem": "16G",
                "tta": "flip",
            },
            "--participant-label 01 02 --session-label 1 --skip-bids-validation "
            "--preset published --threshold 0.25 --target-error 0.1 -w /work --nprocs 3 "
            "--mem-gb 16 --tta flip",
        ),
        (
            {"gpu": True, "skull_stripped": True, "dry_run": True},
            "--device cuda --skull-strip skip --dry-run",
        ),
    ],
)
def test_the_command_that_boutiques_makes_means_what_was_invoked(
    options: dict[str, object], by_hand: str, tmp_path: Path
) -> None:
    given = {"bids_dir": "/bids", "output_dir": "/out", "analysis_level": ["participant", "group"]}
    shell, made = simulated({**given, **options}, tmp_path).split("; ")
    program, *arguments = made.split()
    assert shell == "mkdir -p /out"
    assert program == re.findall(r'ENTRYPOINT \["(.+)"\]', DOCKERFILE.read_text())[0]
    assert parse(arguments) == parse(f"/bids /out participant group {by_hand}".split())


@pytest.mark.parametrize("more", [{}, {"participant_level_analysis_dir": "/out"}])
def test_the_group_level_gets_its_folder(tmp_path: Path, more: dict[str, str]) -> None:
    given = {"bids_dir": "/bids", "output_dir": "/out", "analysis_level": ["group"], **more}
    assert simulated(given, tmp_path).rstrip().endswith(" /bids /out group")


def test_every_input_of_the_descriptor_is_on_its_command_line() -> None:
    descriptor = _descriptor()
    keys = {entry["value-key"] for entry in descriptor["inputs"]}
    assert set(re.findall(r"\[[A-Z0-9_]+\]", descriptor["command-line"])) == keys


def test_descriptor_has_the_exit_codes_of_the_app() -> None:
    stated = {entry["code"]: entry["description"] for entry in _descriptor()["error-codes"]}
    assert list(stated) == sorted(EXIT_CODES)
    section = README.read_text(encoding="utf-8").partition("## Exit codes")[2]
    for code, text in stated.items():
        assert f"| {code} | {text[0].lower()}{text[1:]} |" in section


def test_versions_agree() -> None:
    dockerfile = DOCKERFILE.read_text(encoding="utf-8")
    assert _descriptor()["tool-version"] == __version__
    assert f"ARG VERSION={__version__}\n" in dockerfile
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned() -> None:
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    sections = re.findall(r"^(?:install_requires|test) =\n((?:    .+\n)+)", setup, re.MULTILINE)
    wanted = {
        re.split(r"[ <>=\[;]", line.strip())[0] for part in sections for line in part.splitlines()
    }
    pinned = re.findall(
        r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M
    )
    assert len(wanted) > 15
    assert {name.lower() for name in wanted} <= {name.lower() for name in pinned}


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bids_lesion_xai", source / "bids_lesion_xai", ignore=unwanted)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bids_lesion_xai").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - held == set()


def write_generated() -> None:
    """Write the generated parts of README and model card anew."""
    for (path, name), render in GENERATED.items():
        text = path.read_text(encoding="utf-8")
        found = _block(name).search(text)
        assert found is not None
        text = text[: found.start(2)] + render() + text[found.end(2) :]
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_generated()
