# SPDX-License-Identifier: Apache-2.0
"""The tables of experiments on disk against the function that makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES, EXPERIMENT_COLUMNS
from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.explain import explain_lesions
from bids_lesion_xai.explain.experiments import Finding, Scan, run_experiments
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.experiment import Experiment
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.network import load_network
from tests.bundles import write_small_bundle
from tests.outputs import raw_rows
from tests.phantoms import oblique_grid

SHAPE = (26, 24, 22)
GRID = Grid(SHAPE, oblique_grid((1.0, 1.1, 1.3), (1, -1, 1), (3, 4, -9)).affine)
SIGMA = [0.2, 0.3]
EXPLANATION: dict[str, Any] = {
    "method": "smoothgrad",
    "aggregation": "mean",
    "target": "logit",
    "engine": "auto",
    "baseline": "zero",
    "n_samples": 2,
    "target_error": None,
    "memory_gb": 1.0,
    "allow_tf32": False,
    "flip": False,
}
NUMBERS = list(DERIVATIVES["experiment_numbers"].columns)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("experiment") / "model")


def arrays() -> dict[str, NDArray[Any]]:
    """Return the images, a brain, normal tissue and two lesions."""
    values = np.random.default_rng(4).normal(0, 0.5, (2, *SHAPE)).astype(np.float32)
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    values[:, ~brain] = 0
    labels = np.zeros(SHAPE, np.int32)
    labels[4:7, 2:5, 5:7] = 1
    labels[20:22, 2:5, 15] = 2
    values[0, labels > 0] += 3
    normal = np.zeros(SHAPE, bool)
    normal[2:24, 8:21, 2:20] = True
    return {
        "flair_file": values[0],
        "t1w_file": values[1],
        "brain_mask_file": brain,
        "studied_file": labels,
        "normal_file": normal,
    }


def run(folder: Path, model: Path, **changes: NDArray[Any]) -> Any:
    """Run the interface in `folder`, and return its outputs."""
    given = arrays() | changes
    files = {
        name: str(nifti.save(folder / f"{name}.nii.gz", values, GRID))
        for name, values in given.items()
    }
    lesion_folder = folder / "lesions"
    lesion_folder.mkdir()
    for one in attributions(model, given["studied_file"]):
        for channel, values in zip(("flair", "t1w"), one.values.numpy(), strict=True):
            path = lesion_folder / f"L00{one.lesion}_{channel}.nii.gz"
            nifti.save(path, values, GRID.crop(one.offset, values.shape))
    facts_file = folder / "facts.json"
    facts_file.write_text(json.dumps({"sigma": SIGMA}))
    options = EXPLANATION | {"visit": "sub-01", "seed": 7, "device": "cpu", "use_gpu": False}
    node = Experiment(
        names=list(EXPERIMENTS),
        model=str(model),
        lesion_folder=str(lesion_folder),
        explain_facts_file=str(facts_file),
        peak_threshold=0.5,
        n_threads=1,
        columns={name: list(columns) for name, columns in EXPERIMENT_COLUMNS.items()},
        number_columns=NUMBERS,
        **options,
        **files,
    )
    return node.run(cwd=str(folder)).outputs


def network_of(model: Path) -> torch.nn.Module:
    return load_network(read_bundle(model), torch.device("cpu"))


def attributions(model: Path, labels: NDArray[np.int32]) -> list[Any]:
    given = arrays()
    image = torch.from_numpy(np.stack([given["flair_file"], given["t1w_file"]]))
    options = EXPLANATION | {"multiple": read_bundle(model).multiple, "sigma": SIGMA}
    return list(
        explain_lesions(
            network_of(model), image, torch.from_numpy(labels), seed=7, visit="sub-01", **options
        )
    )


def findings(model: Path) -> list[Finding]:
    given = arrays()
    tensors = {name: torch.from_numpy(values) for name, values in given.items()}
    scan = Scan(
        image=torch.stack([tensors["flair_file"], tensors["t1w_file"]]),
        labels=tensors["studied_file"],
        brain=tensors["brain_mask_file"],
        normal=tensors["normal_file"],
        spacing_mm=GRID.spacing_mm,
        peak_threshold=0.5,
        visit="sub-01",
        seed=7,
    )
    explanation = EXPLANATION | {"multiple": read_bundle(model).multiple, "sigma": SIGMA}
    maps = attributions(model, given["studied_file"])
    return list(
        run_experiments(
            list(EXPERIMENTS),
            network_of(model),
            scan,
            explanation=explanation,
            attributions=maps,
        )
    )


def same(text: str, expected: Any) -> bool:
    if expected is None or expected != expected:
        return text == "n/a"
    if isinstance(expected, str):
        return text == expected
    return bool(float(text) == pytest.approx(expected))


@pytest.mark.slow
def test_the_tables_on_disk_are_those_of_the_function(tmp_path: Path, model: Path) -> None:
    outputs = run(tmp_path, model)
    found = findings(model)
    for name in EXPERIMENTS:
        rows = raw_rows(Path(outputs.folder, f"{name}.tsv"))
        expected = [row for one in found if one.experiment == name for row in one.rows]
        assert len(rows) == len(expected) > 0
        for row, numbers in zip(rows, expected, strict=True):
            assert list(row) == list(EXPERIMENT_COLUMNS[name])
            assert row.pop("name", None) == (f"L00{row['index']}" if "index" in row else None)
            assert set(row) == set(numbers)
            assert all(same(row[key], value) for key, value in numbers.items())
    rows = raw_rows(Path(outputs.numbers_file))
    assert [(row["index"], row["name"]) for row in rows] == [("1", "L001"), ("2", "L002")]
    for row in rows:
        own = {}
        for one in found:
            if one.lesion == int(row["index"]):
                own |= one.numbers
        assert list(row) == NUMBERS
        assert set(own) == set(NUMBERS[2:])
        assert all(same(row[key], value) for key, value in own.items())


def test_without_normal_tissue_there_is_no_experiment(tmp_path: Path, model: Path) -> None:
    outputs = run(tmp_path, model, normal_file=np.zeros(SHAPE, bool))
    for name, columns in EXPERIMENT_COLUMNS.items():
        text = Path(outputs.folder, f"{name}.tsv").read_text()
        assert text == "\t".join(columns) + "\n"
    rows = raw_rows(Path(outputs.numbers_file))
    assert [row["name"] for row in rows] == ["L001", "L002"]
    assert {row[key] for row in rows for key in NUMBERS[2:]} == {"n/a"}


def test_without_lesions_there_are_synthetic_ones(tmp_path: Path, model: Path) -> None:
    outputs = run(tmp_path, model, studied_file=np.zeros(SHAPE, np.int32))
    assert raw_rows(Path(outputs.numbers_file)) == []
    for name in EXPERIMENTS:
        rows = raw_rows(Path(outputs.folder, f"{name}.tsv"))
        assert bool(rows) == (name == "synthetic")
