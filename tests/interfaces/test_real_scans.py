# SPDX-License-Identifier: Apache-2.0
"""The registration gate on real scans; README states these numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_lesion_xai.bids.dataset import VisitInputs, find_visits
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.interfaces.preprocess import BrainMask, Conform, RegisterFlair

pytestmark = [pytest.mark.ants, pytest.mark.slow]


class Person:
    """A real visit whose T1w is conformed, with the mask of its brain."""

    def __init__(self, inputs: VisitInputs, folder: Path) -> None:
        self.flair, self.visit = str(inputs.flair), inputs.visit
        native = str(inputs.t1w)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            conform = Conform(in_file=native, visit=inputs.visit.name).run()
            self.t1w, self.native_t1w = conform.outputs.out_file, native
            brain = BrainMask(
                conformed_file=self.t1w,
                native_file=native,
                skull_strip="auto",
                visit=inputs.visit.name,
            ).run()
            assert brain.outputs.method == "deepbet"
            self.brain_mask = brain.outputs.brain_mask_file

    def similarity_to(self, other: Person, folder: Path) -> float:
        """Return the score of this T1w and the FLAIR of `other`, registered."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            register = RegisterFlair(
                flair_file=other.flair,
                t1w_file=self.t1w,
                native_t1w_file=self.native_t1w,
                brain_mask_file=self.brain_mask,
                registration="auto",
                visit="sub-01",
            )
            return float(register.run().outputs.similarity)


@pytest.fixture(scope="module")
def people(openms_bids: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    visits, _ = find_visits(openms_bids, (), ())
    return [Person(inputs, tmp_path_factory.mktemp("person")) for inputs in visits]


def test_right_pairs_pass_by_far(people: list[Person], tmp_path: Path) -> None:
    assert len(people) == 5
    scores = [person.similarity_to(person, tmp_path) for person in people]
    assert min(scores) >= 0.53


@pytest.mark.parametrize("other", [2, 4])
def test_flair_of_another_person_is_refused(
    people: list[Person], tmp_path: Path, other: int
) -> None:
    with pytest.raises(DataError, match=r"similarity .*0\.[012]\d"):
        people[0].similarity_to(people[other], tmp_path)
