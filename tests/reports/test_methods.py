# SPDX-License-Identifier: Apache-2.0
"""The methods say what was done, of every visit, and cite what was used and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai.conventions import EXPERIMENTS, INPUT_METHODS
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.reports.citation import write_citation
from bids_lesion_xai.reports.methods import bibliography, cited, numbered, paragraph, reference
from tests.outputs import ONE_SAMPLE, TWO_SESSIONS, publish_outputs

FACTS: dict[str, Any] = {
    "SkullStripMethod": "deepbet",
    "RegistrationMethod": "rigid",
    "BiasCorrection": "full",
    "Threshold": 0.35,
    "PeakThreshold": 0.35,
    "MinimumVolume_mm3": 6.0,
    "Connectivity": 18,
    "Method": "smoothgrad",
    "Aggregation": "mean",
    "Target": "logit",
    "NumberOfSamples": 37,
    "TargetError": None,
    "NoiseLevel": 0.07,
    "NoiseRule": "robust",
    "Baseline": None,
    "RandomSeed": 11,
    "Engine": "pruned",
    "Device": "cpu",
    "Model": {
        "Name": "small",
        "Version": "1.2.3",
        "SHA256": "abcdef" * 10,
        "TestTimeAugmentation": "none",
    },
    "Experiments": [],
    "HasReference": False,
    "HasTissues": False,
    "Software": {"Version": "0.1.0", "Container": {"Type": "docker", "Tag": "x:1"}},
    "Libraries": {"nipype": "1.11.0", "torch": "2.13.0"},
}
WITH_NOISE = ("smoothgrad", "smoothgrad-squared", "vargrad")


def facts(**changes: Any) -> dict[str, Any]:
    return {**FACTS, **changes}


def test_the_settings_are_filled_in() -> None:
    text = paragraph(FACTS)
    for words in (
        *("bids_lesion_xai 0.1.0 (container docker x:1)", "Nipype 1.11.0", "PyTorch 2.13.0"),
        *("small 1.2.3 (SHA-256 abcdefabcdef)", "at least 0.35", "18-connected", "6 mm³"),
        *("samples: 37", "0.07 times", "seed: 11", "on CPU"),
    ):
        assert words in text
    assert "None" not in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"SkullStripMethod": "given"}, "deepbet"),
        ({"SkullStripMethod": "derivative"}, "deepbet"),
        ({"RegistrationMethod": "given"}, "rigidly"),
        ({"BiasCorrection": "coarse"}, None),
        ({"Threshold": None, "PeakThreshold": None}, "at least 0.35"),
        ({"PeakThreshold": 0.8}, None),
        ({"Method": "gradient"}, "noise"),
        ({"TargetError": 0.2}, None),
        ({"HasReference": True}, None),
        ({"HasTissues": True}, None),
        ({"Device": "cuda:0"}, "CPU"),
        ({"Experiments": ["channel"]}, None),
        ({"Libraries": {}}, "2.13.0"),
        ({"Model": {**FACTS["Model"], "TestTimeAugmentation": "flip"}}, None),
        ({"Method": "integrated-gradients", "Baseline": "zero"}, "noise"),
        ({"RandomSeed": 12}, "seed: 11"),
    ],
)
def test_what_was_done_otherwise_is_told_otherwise(
    change: dict[str, Any], word: str | None
) -> None:
    before, after = paragraph(FACTS), paragraph(facts(**change))
    assert before != after
    if word:
        assert word in before
        assert word not in after


@pytest.mark.parametrize("method", INPUT_METHODS)
def test_every_method_has_its_own_reference(method: str) -> None:
    baseline = "zero" if method == "integrated-gradients" else None
    keys = cited([paragraph(facts(Method=method, Baseline=baseline))])
    others = {
        key
        for other in INPUT_METHODS
        if other != method
        for key in cited([paragraph(facts(Method=other))])
    }
    assert len(set(keys) - others) == 1


def test_only_what_was_used_is_cited() -> None:
    assert "fisch2023" in cited([paragraph(FACTS)])
    keys = cited([paragraph(facts(SkullStripMethod="given"))])
    assert "fisch2023" not in keys
    assert "lesjak2018" not in keys
    # Nor is it said of another model of the same name what the shipped one was trained on.
    named = {**FACTS["Model"], "Name": DEFAULT_BUNDLE.name}
    assert "lesjak2018" not in cited([paragraph(facts(Model=named))])
    shipped = {**FACTS["Model"], "SHA256": read_bundle(DEFAULT_BUNDLE).sha256}
    assert "lesjak2018" in cited([paragraph(facts(Model=shipped))])
    assert "adebayo2018" in cited([paragraph(facts(Experiments=list(EXPERIMENTS)))])


def test_every_work_of_the_bibliography_can_be_shown() -> None:
    assert len(bibliography()) > 14
    for key, entry in bibliography().items():
        shown = reference(key)
        assert "{" not in shown
        (year,) = re.findall(r"year = \{(\d{4})\}", entry)
        assert f"({year})" in shown
        assert entry.count("{") == entry.count("}")


def test_works_are_numbered_in_their_order() -> None:
    keys = cited(["One [@b] two [@a; @b].", "Three [@c]."])
    assert keys == ["b", "a", "c"]
    assert numbered("One [@b] two [@a; @b].", keys) == "One [1] two [2, 1]."


def test_the_citation_is_that_of_all_visits_that_are_complete(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, TWO_SESSIONS)
    markdown, bibtex = write_citation(store)
    alone = markdown.read_text(encoding="utf-8")
    assert "## Visits" not in alone
    assert "smilkov2017" in bibtex.read_text()
    publish_outputs(tmp_path, [ONE_SAMPLE], "vargrad", {"Threshold": 0.8})
    write_citation(store)
    text = markdown.read_text(encoding="utf-8")
    assert f"## Visits {', '.join(visit.name for visit in TWO_SESSIONS)}" in text
    assert f"## Visits {ONE_SAMPLE.name}" in text
    assert {"smilkov2017", "adebayo2018"} <= set(re.findall(r"\{(\w+),", bibtex.read_text()))
    n_works = len(bibtex.read_text().splitlines())
    numbers = {
        int(one) for found in re.findall(r"\[([\d, ]+)\]", text) for one in found.split(",")
    }
    assert numbers == set(range(1, n_works + 1))
    store.clear(ONE_SAMPLE)
    write_citation(store)
    assert markdown.read_text(encoding="utf-8") == alone


def test_without_a_complete_visit_nothing_is_claimed(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [])
    markdown, bibtex = write_citation(store)
    assert "No visit is complete yet" in markdown.read_text(encoding="utf-8")
    assert "spagnolo2026" in bibtex.read_text()
