# SPDX-License-Identifier: Apache-2.0
"""Contents of the JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.derivatives import DERIVATIVES, SALIENCY_UNITS
from bids_lesion_xai.bids.sidecar import (
    dataset_description,
    generator,
    require_own,
    sidecar,
    to_json,
)
from bids_lesion_xai.errors import OutputError


@pytest.fixture(autouse=True)
def _no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CONTAINER", "CONTAINER_TAG", "CONTAINER_URI"):
        monkeypatch.delenv(f"LESION_XAI_{variable}", raising=False)


def describe(tmp_path: Path, raw: Any = None) -> dict[str, Any]:
    bids_dir = tmp_path / "data" / "raw"
    bids_dir.mkdir(parents=True)
    if raw is not None:
        text = raw if isinstance(raw, str) else json.dumps(raw)
        (bids_dir / "dataset_description.json").write_text(text, encoding="utf-8")
    return dataset_description(bids_dir, tmp_path / "derived")


@pytest.mark.parametrize("key", DERIVATIVES)
def test_a_sidecar_holds_what_the_table_of_outputs_says(key: str) -> None:
    row = DERIVATIVES[key]
    facts = {name: [name] for name in reversed(row.facts)}
    content = sidecar(row, facts)
    units = ["Units"] if row.units else []
    assert list(content) == list(dict.fromkeys(["Description", *units, *row.facts, *row.columns]))
    assert content["Description"] == row.description
    assert all(content[name] == [name] for name in row.facts)
    for name, column in row.columns.items():
        stated = ["Units"] if column.units == SALIENCY_UNITS else column.units
        assert content[name].get("Units", "") == stated


@pytest.mark.parametrize("key", DERIVATIVES)
@pytest.mark.parametrize("units", [SALIENCY_UNITS, "probability"])
def test_values_and_columns_of_saliency_have_the_units_that_are_stated(
    key: str, units: str
) -> None:
    row = DERIVATIVES[key]
    facts = dict.fromkeys(row.facts, 0) | ({"Units": units} if "Units" in row.facts else {})
    content = sidecar(row, facts)
    expected = {name: column.units for name, column in row.columns.items()} | {"": row.units}
    found = {name: content[name].get("Units", "") for name in row.columns}
    found[""] = row.units and content["Units"]
    if "Units" in row.facts:
        assert content["Units"] == units
        stands = {name: units for name, unit in expected.items() if unit == SALIENCY_UNITS}
        assert stands
        expected |= stands
    assert found == expected


def test_facts_that_are_missing_or_too_many_are_named() -> None:
    row = DERIVATIVES["brain_mask"]
    facts = dict.fromkeys(row.facts, 0) | {"Colour": "red"}
    del facts["Sources"]
    with pytest.raises(ValueError, match=r"brain_mask.*Sources.*Colour"):
        sidecar(row, facts)


@pytest.mark.parametrize("raw", [None, "", "{", "[1]", "{}"])
def test_a_raw_dataset_without_description_is_described(tmp_path: Path, raw: str | None) -> None:
    content = describe(tmp_path, raw)
    assert content["Name"] == "bids_lesion_xai of a BIDS dataset"
    assert content["DatasetType"] == "derivative"
    assert content["SourceDatasets"] == [{"URL": "../data/raw"}]
    assert content["DatasetLinks"] == {"raw": "../data/raw"}
    assert content["GeneratedBy"][0]["Version"] == __version__
    assert "Container" not in content["GeneratedBy"][0]


def test_name_license_and_authors_are_inherited(tmp_path: Path) -> None:
    raw = {"Name": "MS 1", "License": "CC0", "Authors": ["A", "B"], "Funding": ["C"]}
    content = describe(tmp_path, raw)
    assert content["Name"] == "bids_lesion_xai of MS 1"
    assert (content["License"], content["Authors"]) == ("CC0", ["A", "B"])
    assert "Funding" not in content


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        (None, "Authors of the source dataset"),
        ([], "Authors of the source dataset"),
        ("A, B", "Authors of the source dataset"),
        (["A"], "A"),
    ],
)
def test_two_authors_are_named_at_least(tmp_path: Path, authors: Any, expected: str) -> None:
    content = describe(tmp_path, {"Name": "MS 1", "Authors": authors})
    assert content["Authors"] == [expected, "The bids_lesion_xai developers"]


def test_a_dataset_is_linked_by_its_doi(tmp_path: Path) -> None:
    content = describe(tmp_path, {"Name": "MS 1", "DatasetDOI": "doi:10.1/x"})
    assert content["SourceDatasets"] == [{"URL": "doi:10.1/x", "DOI": "doi:10.1/x"}]
    assert content["DatasetLinks"] == {"raw": "doi:10.1/x"}


def test_the_container_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESION_XAI_CONTAINER", "docker")
    monkeypatch.setenv("LESION_XAI_CONTAINER_TAG", "lesion-xai:0.1.0")
    container = describe(tmp_path)["GeneratedBy"][0]["Container"]
    assert container == {"Type": "docker", "Tag": "lesion-xai:0.1.0"}
    monkeypatch.setenv("LESION_XAI_CONTAINER_URI", "docker://registry/lesion-xai:0.1.0")
    monkeypatch.setenv("APPTAINER_CONTAINER", "/home/somebody/lesion_xai.sif")
    assert generator()["Container"] == {
        "Type": "apptainer",
        "Tag": "lesion-xai:0.1.0",
        "URI": "docker://registry/lesion-xai:0.1.0",
    }


def test_other_versions_of_earlier_runs_stay_named(tmp_path: Path) -> None:
    first = describe(tmp_path)
    older = {**first["GeneratedBy"][0], "Version": "0.0.1"}
    (tmp_path / "derived").mkdir()
    path = tmp_path / "derived" / "dataset_description.json"
    path.write_text(to_json({**first, "GeneratedBy": [older]}), encoding="utf-8")
    for _ in range(2):
        content = dataset_description(tmp_path / "data" / "raw", tmp_path / "derived")
        assert content["GeneratedBy"] == [*first["GeneratedBy"], older]
        path.write_text(to_json(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("raw", "output", "link"),
    [
        ("/data/study/raw", "/data/study/derivatives/app", "../../raw"),
        ("/data/study/raw", "/data/study/raw/derivatives/app", "../.."),
        ("/data/out/sourcedata/raw", "/data/out", "sourcedata/raw"),
        ("/home/somebody/secret/raw", "/scratch/out", "../raw"),
        ("/home/somebody/secret/raw", "/home/another/out", "../raw"),
    ],
)
def test_a_link_tells_no_path_of_the_machine(raw: str, output: str, link: str) -> None:
    content = dataset_description(Path(raw), Path(output), {"masks": Path(raw)})
    assert content["DatasetLinks"] == {"raw": link, "masks": link}


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"Name": "raw", "BIDSVersion": "1.10.0"}, "not made by this software"),
        ({"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}, {"Name": "y"}]}, "by fMRIPrep, y"),
        ({"Name": "x", "GeneratedBy": "bids_lesion_xai"}, "not made by this software"),
    ],
    ids=["raw", "others", "odd"],
)
def test_the_dataset_of_others_is_no_output_folder(
    tmp_path: Path, description: dict[str, Any], words: str
) -> None:
    path = tmp_path / "dataset_description.json"
    path.write_text(to_json(description), encoding="utf-8")
    with pytest.raises(OutputError, match=f"{tmp_path} is a dataset that was .*{words}"):
        require_own(tmp_path)
    path.write_text(to_json({**description, "GeneratedBy": [generator()]}), encoding="utf-8")
    require_own(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", b"\xff", None])
def test_an_output_folder_whose_description_tells_nothing_is_refused(
    tmp_path: Path, content: str | bytes | None
) -> None:
    require_own(tmp_path)
    path = tmp_path / "dataset_description.json"
    if content is None:
        path.symlink_to(".git/annex/objects/gone")
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OutputError, match=f"OUTPUT_DIR {tmp_path}.* dataset_desc") as caught:
        require_own(tmp_path)
    assert ("datalad get dataset_description.json" in str(caught.value)) == (content is None)


def test_json_is_the_same_for_the_same_content_and_readable() -> None:
    content = {"b": [1, 2.5], "a": "σ × 2"}
    text = to_json(content)
    assert text == to_json(dict(content))
    assert text.endswith("}\n")
    assert "σ × 2" in text
    assert list(json.loads(text).items()) == list(content.items())
