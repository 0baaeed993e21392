# SPDX-License-Identifier: Apache-2.0
"""Following lesions from session to session of people who moved."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces import follow
from bids_lesion_xai.interfaces.follow import follow_lesions
from bids_lesion_xai.interfaces.itk import resample_labels, write_identity
from tests.phantoms import CENTRE_MM, T1W, brain_mask, head, moved, oblique_grid, rigid, world_mm

pytestmark = pytest.mark.ants

# Label to centre, in mm from that of the head, and radius in mm.
Balls = dict[int, tuple[tuple[int, int, int], float]]
SESSIONS = (Visit("01", "a"), Visit("01", "b"), Visit("01", "c"))
GRID = oblique_grid((1.0, 1.0, 1.0), half_extent_mm=54)
OTHER_GRID = oblique_grid((1.0, 1.0, 1.0), degrees=(3, 0, -5), half_extent_mm=54)
SMALL = oblique_grid((4.0, 4.0, 4.0), degrees=(3, 0, -5))
STAYS, GROWS, VANISHES = (20, 10, 5), (-20, 5, 10), (0, 30, 12)
# One that grows and changes its label, one that vanishes, one that is new, then a split.
BEFORE: Balls = {1: (STAYS, 7), 2: (GROWS, 4), 3: (VANISHES, 3)}
AFTER: Balls = {1: (GROWS, 8), 2: (STAYS, 7), 3: ((0, -30, 12), 2)}
SPLIT: Balls = {1: (GROWS, 8), 2: ((22, 10, 5), 4), 3: ((13, 10, 5), 2), 4: (VANISHES, 3)}


def publish(
    store: Store, visit: Visit, grid: Grid, balls: Balls, place: Grid | None = None
) -> None:
    """Put what is read of a visit into the store: drawn on `grid`, said to lie at `place`."""
    labels = np.zeros(grid.shape, np.int32)
    for label, (centre_mm, radius_mm) in balls.items():
        distance = np.linalg.norm(world_mm(grid) - CENTRE_MM - centre_mm, axis=-1)
        labels[distance <= radius_mm] = label
    brain = brain_mask(grid)
    images = {
        "preproc_t1w": np.where(brain, (head(grid, T1W) - 500) / 200, 0).astype(np.float32),
        "brain_mask": brain,
        "lesion_labels": labels,
    }
    for key, values in images.items():
        path = store.path(key, visit)
        path.parent.mkdir(parents=True, exist_ok=True)
        nifti.save(path, values, place or grid)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def still(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return three sessions of one person who did not move, and one of another person."""

    def stay(t1w: object, moving: object, inside: object, path: Path) -> tuple[object, float]:
        write_identity(path)
        return moving, 1.0

    monkeypatch.setattr(follow, "register", stay)
    for visit, balls in zip(SESSIONS, (BEFORE, AFTER, SPLIT), strict=True):
        publish(store, visit, SMALL, balls)
    publish(store, Visit("02"), SMALL, BEFORE)
    return store


@pytest.mark.slow
def test_lesions_that_grow_appear_vanish_and_split_are_told_apart_in_heads_that_moved(
    store: Store,
) -> None:
    first, second, third = SESSIONS
    publish(store, first, GRID, BEFORE)
    publish(store, second, OTHER_GRID, AFTER, moved(OTHER_GRID, rigid((6, -8, 5), (9, -7, 8))))
    publish(store, third, GRID, SPLIT, moved(GRID, rigid((-5, 3, 12), (-6, 8, 0))))
    numbers, problems = follow_lesions(store, SESSIONS)
    assert problems == []
    assert numbers == {
        first: {1: 1, 2: 2, 3: 3},
        second: {1: 2, 2: 1, 3: 4},
        # The larger part of the split; what comes back is new.
        third: {1: 2, 2: 1, 3: 5, 4: 6},
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.1)])
def test_labels_do_not_change_where_nothing_moved(
    spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    grid = oblique_grid(spacing, flips=(-1, 1, 1), degrees=(14, -9, 21))
    labels = np.random.default_rng(0).integers(0, 2**24, grid.shape, np.int32)
    path = tmp_path / "identity.txt"
    write_identity(path)
    for transform_file in (None, path):
        same = resample_labels(labels, grid, grid, transform_file)
        assert same.dtype == np.int32
        np.testing.assert_array_equal(same, labels)


def test_the_order_of_the_visits_and_other_people_do_not_matter(still: Store) -> None:
    visits = [*SESSIONS, Visit("02")]
    forward, backward = follow_lesions(still, visits), follow_lesions(still, visits[::-1])
    assert forward == backward == follow_lesions(still, SESSIONS)
    numbers, _ = forward
    assert set(numbers) == set(SESSIONS)
    assert numbers[SESSIONS[0]] == {1: 1, 2: 2, 3: 3}
    assert numbers[SESSIONS[1]] == {1: 2, 2: 1, 3: 4}


def test_sessions_follow_each_other_by_the_numbers_in_their_labels(still: Store) -> None:
    months = [Visit("03", label) for label in ("M0", "M6", "M12")]
    for visit, balls in zip(months, (BEFORE, AFTER, SPLIT), strict=True):
        publish(still, visit, SMALL, balls)
    numbers, problems = follow_lesions(still, [*months, *SESSIONS])
    assert problems == []
    for month, session in zip(months, SESSIONS, strict=True):
        assert numbers[month] == numbers[session]


def test_nobody_with_two_sessions_is_nothing_to_follow(still: Store) -> None:
    assert follow_lesions(still, [SESSIONS[0], Visit("02")]) == ({}, [])


def test_a_session_without_lesions_has_no_numbers(still: Store) -> None:
    publish(still, SESSIONS[1], SMALL, {})
    numbers, problems = follow_lesions(still, SESSIONS)
    assert problems == []
    assert numbers[SESSIONS[1]] == {}
    assert list(numbers[SESSIONS[2]].values()) == [4, 5, 6]


def cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.path("preproc_t1w", SESSIONS[1])
    path.write_bytes(path.read_bytes()[:99])


def no_labels(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.path("lesion_labels", SESSIONS[1]).unlink()


def other_mask(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = SMALL.crop((1, 1, 1), (3, 3, 3))
    nifti.save(store.path("brain_mask", SESSIONS[0]), np.ones(grid.shape, bool), grid)


def other_head(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "register", lambda *_: (None, 0.2))


PROBLEMS = {
    cut: "sub-01_ses-b: .*T1w.nii.gz cannot be read",
    no_labels: "sub-01_ses-b: .*dseg.nii.gz is not here",
    other_mask: "sub-01_ses-a: .*mask.nii.gz is not on the grid of T1w",
    other_head: "sub-01_ses-b: T1w does not match that of sub-01_ses-a .* similarity 0.20",
}


@pytest.mark.parametrize("damage", PROBLEMS, ids=lambda damage: damage.__name__)
def test_a_person_with_a_damaged_visit_is_left_out_and_named(
    damage: Callable[[Store, pytest.MonkeyPatch], None],
    still: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = (Visit("03", "1"), Visit("03", "2"))
    for visit in other:
        publish(still, visit, SMALL, BEFORE)
    damage(still, monkeypatch)
    with caplog.at_level(logging.INFO):
        numbers, problems = follow_lesions(still, [*SESSIONS, *other])
    assert not set(numbers) & set(SESSIONS)
    assert re.search(PROBLEMS[damage], problems[0])
    assert caplog.messages[-1] == "following lesions: person 2 of 2"
    if damage is not other_head:
        assert numbers == {visit: {1: 1, 2: 2, 3: 3} for visit in other}
