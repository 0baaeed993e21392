# SPDX-License-Identifier: Apache-2.0
"""File names: entities to a name and back."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_lesion_xai.bids.naming import ENTITY_ORDER, format_name, parse_name

LABELS = st.from_regex(r"[0-9a-zA-Z]{1,6}", fullmatch=True)
ENTITIES = st.dictionaries(st.sampled_from(ENTITY_ORDER), LABELS)
EXTENSIONS = st.sampled_from(["", ".json", ".tsv", ".nii", ".nii.gz", ".txt"])


@given(ENTITIES, LABELS, EXTENSIONS)
def test_parsing_is_the_inverse_of_formatting(
    entities: dict[str, str], suffix: str, extension: str
) -> None:
    assert parse_name(format_name(entities, suffix, extension)) == (entities, suffix, extension)


@given(ENTITIES, LABELS, EXTENSIONS)
def test_formatting_is_the_inverse_of_parsing(
    entities: dict[str, str], suffix: str, extension: str
) -> None:
    name = format_name(entities, suffix, extension)
    assert format_name(*parse_name(name)) == name


@given(ENTITIES, st.randoms())
def test_the_order_of_the_entities_is_that_of_bids(entities: dict[str, str], rng: Random) -> None:
    shuffled = list(entities.items())
    rng.shuffle(shuffled)
    name = format_name(dict(shuffled), "mask", ".nii")
    assert name == format_name(entities, "mask", ".nii")
    positions = [ENTITY_ORDER.index(key) for key in parse_name(name).entities]
    assert positions == sorted(positions)


def test_unknown_entities_are_refused() -> None:
    with pytest.raises(ValueError, match="hemi"):
        format_name({"sub": "01", "hemi": "L"}, "mask", ".nii.gz")
