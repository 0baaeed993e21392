# SPDX-License-Identifier: Apache-2.0
"""The worked example: the page fits the command that fills it. Its run takes half an hour."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "example.md"
_SPEC = importlib.util.spec_from_file_location("example", DOCS / "example.py")
assert _SPEC is not None
assert _SPEC.loader is not None
example = importlib.util.module_from_spec(_SPEC)
# Its dataclass looks itself up there.
sys.modules["example"] = example
_SPEC.loader.exec_module(example)


def test_every_table_has_its_place_and_is_filled() -> None:
    page = PAGE.read_text(encoding="utf-8")
    places = re.findall(r"<!-- (\w+): begin .*?-->\n(.*?)<!-- (\w+): end -->", page, re.DOTALL)
    assert [first for first, _, _ in places] == [last for *_, last in places]
    assert {name for name, *_ in places} == set(example.TABLES)
    for _, content, _ in places:
        assert content.count("\n| ") > 2


def test_tables_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    marks = [
        f"<!-- {name}: begin (docs/example.py) -->\nold\n<!-- {name}: end -->"
        for name in example.TABLES
    ]
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", *marks, "after"]))
    example.write({name: f"new {name} \\1" for name in example.TABLES}, page)
    expected = [
        mark.replace("old", f"new {name} \\1")
        for name, mark in zip(example.TABLES, marks, strict=True)
    ]
    assert page.read_text() == "\n".join(["before", *expected, "after"])
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place for the table visits"):
        example.write({"visits": ""}, page)


def test_figures_of_the_page_are_there_and_small() -> None:
    named = set(re.findall(r"\]\((\w+\.png)\)", PAGE.read_text(encoding="utf-8")))
    assert named == {path.name for path in DOCS.glob("example_*.png")}
    sizes = [(DOCS / name).stat().st_size for name in named]
    assert 0 < max(sizes) < 300_000
    assert sum(sizes) < 1_500_000


@pytest.mark.parametrize(
    ("estimate", "low", "p_holm", "answer"),
    [
        (0.6, 0.55, 0.01, "yes"),
        (0.6, 0.55, 0.2, "yes, but not corrected"),
        (0.6, 0.45, 0.2, "direction only"),
        (0.6, float("nan"), float("nan"), "direction only"),
        (0.4, 0.35, 0.2, "no"),
        (0.4, 0.35, 0.01, "no, the opposite"),
    ],
)
def test_a_verdict_follows_the_interval_and_its_corrected_p(
    estimate: float, low: float, p_holm: float, answer: str
) -> None:
    numbers = {"estimate": estimate, "low": low, "high": 2 * estimate - low, "p_holm": p_holm}
    claim = example.pd.Series(numbers)
    assert example.verdict(claim, above=True, null=0.5) == answer
