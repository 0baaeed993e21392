# SPDX-License-Identifier: Apache-2.0
"""What a visit is made from: all that changes its numbers, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from bids_lesion_xai.bids.companions import Companion
from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.provenance import NOT_COMPLETE, complete
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import build_parser, parse
from bids_lesion_xai.config import WITHOUT_EFFECT, RunConfig
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.workflows import names
from bids_lesion_xai.workflows.names import work_folder
from bids_lesion_xai.workflows.participant import init_visit_wf
from bids_lesion_xai.workflows.provenance import describe_visit, reasons_to_process
from tests.bundles import write_small_bundle

VISIT = Visit("01")


@pytest.fixture
def inputs(tmp_path: Path) -> VisitInputs:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("FLAIR", "T1w", "mask"):
        (raw / name).write_text(name)
    return VisitInputs(VISIT, raw / "FLAIR", raw / "T1w", raw, ())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("provenance") / "model")


def config_of(folder: Path, model: Path, options: str = "") -> RunConfig:
    return parse(
        [
            str(folder / "raw"),
            str(folder / "out"),
            "participant",
            *options.split(),
            *("--model", str(model)),
        ]
    )


def done(folder: Path, model: Path, inputs: VisitInputs) -> Store:
    """Return an output folder in which the visit is complete."""
    store = Store(folder / "out")
    store.write_text(f"{VISIT.name}.html", "report")
    complete(store, VISIT, describe_visit(inputs, config_of(folder, model), read_bundle(model)))
    return store


def reasons(folder: Path, model: Path, inputs: VisitInputs, options: str = "") -> list[str]:
    store = Store(folder / "out")
    return reasons_to_process(store, inputs, config_of(folder, model, options), read_bundle(model))


def test_every_option_of_a_run_counts_or_is_known_not_to() -> None:
    # Whoever adds an option decides: does it change a number of a visit?
    counted = {
        *(
            "threshold",
            "peak_threshold",
            "min_lesion_volume_mm3",
            "flip",
            "skull_strip",
            "registration",
        ),
        *("method", "aggregation", "target", "engine", "noise_rule", "baseline", "n_samples"),
        *("target_error", "noise_level", "experiments", "random_seed", "allow_tf32"),
        *("output_spaces", "saliency_output", "sloppy"),
    }
    names = {field.name for field in fields(RunConfig)}
    assert names == counted | WITHOUT_EFFECT
    assert not counted & WITHOUT_EFFECT


def test_options_are_named_as_on_the_command_line(
    tmp_path: Path, model: Path, inputs: VisitInputs
) -> None:
    found = describe_visit(inputs, config_of(tmp_path, model), read_bundle(model))["Options"]
    assert set(found) <= set(build_parser()._option_string_actions)


@pytest.mark.parametrize(
    "options",
    ["", "--threshold 0.5", "--nprocs 1 --mem 2G", "--device cpu", "--n-samples 50 -v"],
)
def test_a_visit_is_left_as_it_is_if_no_number_would_be_another(
    tmp_path: Path, model: Path, inputs: VisitInputs, options: str
) -> None:
    done(tmp_path, model, inputs)
    assert reasons(tmp_path, model, inputs, options) == []
    assert reasons(tmp_path, model, inputs, f"{options} --force") == ["--force"]


def test_a_dataset_that_was_moved_has_not_changed(
    tmp_path: Path, model: Path, inputs: VisitInputs
) -> None:
    done(tmp_path, model, inputs)
    raw = inputs.bids_dir.rename(tmp_path / "elsewhere")
    moved = VisitInputs(VISIT, raw / "FLAIR", raw / "T1w", raw, ())
    assert reasons(tmp_path, model, moved) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--n-samples 8", ["--n-samples: 50 -> 8"]),
        ("--tta none --threshold 0.4", ["--threshold: 0.5 -> 0.4", '--tta: "flip" -> "none"']),
        ("--random-seed 3", ["--random-seed: 0 -> 3"]),
        ("--min-lesion-volume 9", ["--min-lesion-volume: 6.0 -> 9.0"]),
    ],
)
def test_an_option_that_changes_numbers_is_named(
    tmp_path: Path, model: Path, inputs: VisitInputs, options: str, words: list[str]
) -> None:
    done(tmp_path, model, inputs)
    assert reasons(tmp_path, model, inputs, options) == words


def test_images_companions_model_and_outputs_count_by_their_content(
    tmp_path: Path, model: Path, inputs: VisitInputs
) -> None:
    assert reasons(tmp_path, model, inputs) == [NOT_COMPLETE]
    store = done(tmp_path, model, inputs)
    inputs.flair.write_text("other")
    mask = Companion(inputs.bids_dir / "mask", "bids:masks:mask", "T1w", ())
    (store.root / f"{VISIT.name}.html").write_text("shorter")
    found = reasons(tmp_path, model, replace(inputs, reference=mask))
    starts = ("FLAIR bids:raw:FLAIR has another content", "reference: bids:masks:mask was not")
    assert [words.startswith(start) for words, start in zip(found, starts, strict=False)] == [
        True
    ] * 2
    assert found[2:] == ["output sub-01.html has 7 bytes instead of 6"]
    other = write_small_bundle(tmp_path / "model", threshold=0.25)
    found = reasons(tmp_path, other, inputs)
    assert any("configs/inference.json has another content" in words for words in found)
    assert "--threshold: 0.5 -> 0.25" in found


def test_an_input_that_has_gone_is_the_reason(
    tmp_path: Path, model: Path, inputs: VisitInputs
) -> None:
    done(tmp_path, model, inputs)
    inputs.t1w.unlink()
    (reason,) = reasons(tmp_path, model, inputs)
    assert reason == f"{inputs.t1w} cannot be read (No such file or directory)"


def test_no_step_takes_the_results_of_another_model_or_version(
    tmp_path: Path, inputs: VisitInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_small_bundle(tmp_path / "model")
    config = config_of(tmp_path, model, "--experiments all")

    def hashes() -> dict[str, str]:
        graph = init_visit_wf(inputs, config, read_bundle(model))
        nodes = map(graph.get_node, graph.list_node_names())
        with_model = [node for node in nodes if hasattr(node.inputs, "model")]
        return {
            node.name: node.inputs.get_hashval(hash_method="content")[1] for node in with_model
        }

    before, folder = hashes(), work_folder(config)
    assert set(before) == {"segment", "explain", "experiment"}
    assert hashes() == before
    with (model / "configs" / "inference.json").open("a") as stream:
        stream.write(" ")
    after = hashes()
    assert not any(after[name] == before[name] for name in before)
    monkeypatch.setattr(names, "__version__", "999")
    assert work_folder(config) != folder
