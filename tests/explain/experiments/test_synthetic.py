# SPDX-License-Identifier: Apache-2.0
"""Responses to synthetic lesions: their shape, their places, and what a network makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, pi
from typing import Any

import numpy as np
import pytest
import torch

from bids_lesion_xai.explain.experiments import Scan, synthetic
from bids_lesion_xai.explain.experiments.run import make_study
from bids_lesion_xai.explain.experiments.synthetic import Sphere
from tests.explain.experiments.known import (
    THRESHOLD,
    distances_mm,
    experiment,
    flair_only,
    respond,
)
from tests.networks import random_unet

SHAPE = (22, 19, 14)
SPACING_MM = (1.0, 1.2, 1.5)
SIGNS = {"flair": (1, 0), "t1w": (0, -1), "both": (1, -1)}


def tissue(**changes: Any) -> Scan:
    """Return random tissue without lesions; an ellipsoid and some of the rest is normal."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator)
    middle = (np.array(SHAPE) - 1) / 2
    places = np.stack(np.indices(SHAPE), -1)
    normal = torch.from_numpy(np.linalg.norm((places - middle) / (9, 8, 6.5), axis=-1) <= 1)
    fields = {
        "image": image,
        "labels": torch.zeros(SHAPE, dtype=torch.int32),
        "brain": torch.ones(SHAPE, dtype=torch.bool),
        "normal": normal,
        "spacing_mm": SPACING_MM,
        "peak_threshold": THRESHOLD,
        "visit": "sub-01",
    }
    return Scan(**{**fields, **changes})


def rows_of(scan: Scan, network: Any = None, **options: Any) -> list[dict[str, Any]]:
    study = make_study(network or random_unet(), scan, {"n_threads": 1})
    defaults: dict[str, Any] = {"diameters_mm": (3.0, 4.0), "n_positions": 3}
    defaults |= {"margins_mm": (2.0, inf), "contrasts": (0.0, 1.5), "surroundings_mm": 2.0}
    return [row for one in synthetic.run(study, **{**defaults, **options}) for row in one.rows]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.1, 2.3), (0.5, 0.5, 3.0)])
@pytest.mark.parametrize("diameter_mm", [1.0, 3.0, 5.0, 8.0])
def test_a_sphere_has_its_volume_on_any_grid(
    diameter_mm: float, spacing_mm: tuple[float, float, float]
) -> None:
    sphere = Sphere(1, (0, 0, 0), diameter_mm, spacing_mm)
    shares = sphere.shares()
    assert shares.min() == 0
    assert shares.max() <= 1
    volume_mm3 = shares.sum() * np.prod(spacing_mm)
    # Thin slices of a small sphere have few points in them.
    tolerance = 0.25 if diameter_mm < 2 * max(spacing_mm) else 0.02
    assert volume_mm3 == pytest.approx(pi / 6 * diameter_mm**3, rel=tolerance)
    np.testing.assert_array_equal(shares, shares[::-1, ::-1, ::-1])
    # Nothing of it lies beyond the box, and its faces are empty or nearly so.
    wholly = distances_mm(shares == shares.max(), spacing_mm)
    assert shares[wholly > diameter_mm / 2 + np.linalg.norm(spacing_mm)].sum() == 0


def brute_force(scan: Scan, row: dict[str, Any]) -> dict[str, float]:
    """Return the response to an image with a sphere, from 8 x 8 x 8 points of each voxel."""
    centre = np.array([row["x"], row["y"], row["z"]])
    places = np.stack(np.indices(SHAPE), -1)
    near = np.argwhere(np.abs(places - centre).max(-1) < 5)
    points = np.stack(np.meshgrid(*[(np.arange(8) + 0.5) / 8 - 0.5] * 3, indexing="ij"), -1)
    shares = np.zeros(SHAPE)
    for voxel in near:
        offsets_mm = (voxel - centre + points.reshape(-1, 3)) * SPACING_MM
        inside = np.linalg.norm(offsets_mm, axis=1) <= row["diameter_mm"] / 2
        shares[tuple(voxel)] = inside.mean()
    mask = shares >= min(0.5, shares.max())
    image = scan.image.numpy().copy()
    for channel, sign in enumerate(SIGNS[row["channel"]]):
        image[channel] += sign * row["contrast"] * shares
    image[:, distances_mm(mask, SPACING_MM) > row["margin_mm"] + 1e-6] = 0
    return respond(random_unet(), torch.from_numpy(image), torch.from_numpy(mask))


def test_every_row_is_that_of_an_image_changed_by_hand() -> None:
    scan = tissue()
    rows = rows_of(scan, n_positions=2)
    assert len(rows) == 2 * 2 * 3 * 2 * 2
    for row in rows:
        expected = brute_force(scan, row)
        assert row["mean_probability"] == pytest.approx(expected["mean_probability"], rel=1e-9)
        assert row["detected"] == expected["detected"]


def test_without_contrast_it_is_the_tissue_on_all_channels() -> None:
    rows = [row for row in rows_of(tissue()) if row["contrast"] == 0]
    keys = ("position", "diameter_mm", "margin_mm")
    found = {tuple(row[key] for key in keys): set() for row in rows}
    for row in rows:
        found[tuple(row[key] for key in keys)].add(row["mean_probability"])
    assert {len(values) for values in found.values()} == {1}


def test_what_is_blind_to_t1w_does_not_respond_to_it() -> None:
    rows = rows_of(tissue(), flair_only(random_unet()))
    by_key = {(r["position"], r["diameter_mm"], r["margin_mm"], r["contrast"], r["channel"]): r
              for r in rows}  # fmt: skip
    for (*place, contrast, channel), row in by_key.items():
        if channel == "t1w":
            without = by_key[(*place, 0.0, "flair")]
            assert row["mean_probability"] == without["mean_probability"]
        if channel == "both":
            flair = by_key[(*place, contrast, "flair")]
            assert row["mean_probability"] == flair["mean_probability"]
        if channel == "flair" and contrast:
            assert row["mean_probability"] != by_key[(*place, 0.0, "flair")]["mean_probability"]


def places_of(rows: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys((row["x"], row["y"], row["z"]) for row in rows))


def test_all_of_a_lesion_and_its_surroundings_are_normal_appearing() -> None:
    scan = tissue()
    places = places_of(rows_of(scan, contrasts=(0.0,), margins_mm=(inf,), n_positions=50))
    assert len(places) > 3
    for place in places:
        mask = np.zeros(SHAPE, bool)
        mask[place] = True
        near = distances_mm(mask, SPACING_MM) <= 4 / 2 + 2
        assert scan.normal.numpy()[near].all()
        # No face of the volume is that near either.
        assert all(
            min(i + 1, n - i) * mm > 4 for i, n, mm in zip(place, SHAPE, SPACING_MM, strict=True)
        )
    apart = [
        np.linalg.norm((np.array(a) - b) * SPACING_MM)
        for i, a in enumerate(places)
        for b in places[:i]
    ]
    assert min(apart) >= 4


def test_seed_and_visit_fix_the_places_and_tissue_elsewhere_does_not() -> None:
    options: dict[str, Any] = {"contrasts": (0.0,), "margins_mm": (inf,)}
    first = places_of(rows_of(tissue(), **options))
    assert places_of(rows_of(tissue(), **options)) == first
    assert places_of(rows_of(tissue(seed=1), **options)) != first
    assert places_of(rows_of(tissue(visit="sub-02"), **options)) != first
    more = tissue().normal.clone()
    more[0, 0, 0] = True
    assert places_of(rows_of(tissue(normal=more), **options)) == first


def test_diameters_that_fit_nowhere_are_left_out() -> None:
    rows = rows_of(tissue(), diameters_mm=(3.0, 40.0))
    assert {row["diameter_mm"] for row in rows} == {3.0}
    assert rows_of(tissue(), diameters_mm=(40.0,)) == []


def test_findings_belong_to_no_lesion_and_have_no_numbers() -> None:
    wide = tissue(normal=torch.ones(SHAPE, dtype=torch.bool))
    found = experiment("synthetic", random_unet(), wide)
    assert {one.lesion for one in found} == {None}
    assert [one.numbers for one in found] == [{}] * len(found)
    assert found
