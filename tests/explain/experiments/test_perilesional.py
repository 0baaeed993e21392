# SPDX-License-Identifier: Apache-2.0
"""Responses to a growing margin, against masks by hand and networks of known context."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bids_lesion_xai.explain.experiments import perilesional
from bids_lesion_xai.explain.experiments.perilesional import MARGINS_MM
from bids_lesion_xai.explain.experiments.run import make_study
from tests.explain.experiments.known import (
    SPACING_MM,
    WAYS,
    ball_network,
    distances_mm,
    experiment,
    respond,
    small_scan,
    uniform_scan,
)
from tests.explain.test_lesions import SHAPE
from tests.networks import random_unet, randomised

FILLS = ("zero", "normal", "inpaint")


def inpainted(
    image: NDArray[np.float64], visible: NDArray[np.bool_], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted mean of visible voxels and the normal mean, voxel by voxel."""
    reach = np.ceil(3 * 2.0 / np.array(SPACING_MM))
    steps = [np.arange(-n, n + 1) * mm for n, mm in zip(reach, SPACING_MM, strict=True)]
    total = np.prod([np.exp(-(step**2) / 8).sum() for step in steps])
    filled = np.empty_like(image)
    seen = np.argwhere(visible)
    for voxel in np.ndindex(visible.shape):
        near = seen[(np.abs(seen - voxel) <= reach).all(1)]
        squares = (((near - voxel) * SPACING_MM) ** 2).sum(1)
        weights = np.exp(-squares / 8) / total
        sums = (image[(slice(None), *near.T)] * weights).sum(1)
        filled[(slice(None), *voxel)] = (sums + 0.01 * normal) / (weights.sum() + 0.01)
    return filled


@pytest.mark.parametrize("way", WAYS)
def test_every_row_is_that_of_an_image_masked_by_hand(way: str) -> None:
    network, scan = random_unet(), small_scan()
    image, brain = scan.image.numpy(), scan.brain.numpy()
    normal = image[:, scan.normal.numpy()].mean(1)
    found = experiment("perilesional", network, explanation=WAYS[way])
    assert [one.lesion for one in found] == [1, 2, 3]
    for one in found:
        mask = scan.labels == one.lesion
        distance = distances_mm(mask.numpy(), SPACING_MM)
        assert [(row["fill"], row["margin_mm"]) for row in one.rows] == [
            (fill, margin) for fill in FILLS for margin in MARGINS_MM
        ]
        for row in one.rows:
            visible = distance <= row["margin_mm"] + 1e-6
            fills = {
                "zero": np.zeros(image.shape),
                "normal": np.broadcast_to(normal[:, None, None, None], image.shape),
            }
            if row["fill"] == "inpaint" and row["margin_mm"] < 4:
                fills["inpaint"] = inpainted(image, visible & brain, normal)
            if row["fill"] not in fills:
                continue
            changed = np.where(visible | ~brain, image, fills[row["fill"]])
            expected = respond(network, torch.from_numpy(changed), mask, WAYS[way])
            assert row["mean_probability"] == pytest.approx(expected["mean_probability"], rel=1e-9)
            assert row["detected"] == expected["detected"]
            assert row["index"] == one.lesion
        full = respond(network, scan.image, mask, WAYS[way])["mean_probability"]
        assert one.numbers["full_probability"] == pytest.approx(full, rel=1e-9)
        assert one.rows[-1]["mean_probability"] == one.numbers["full_probability"]


@pytest.mark.parametrize(
    "lesion", [[(15, 9, 6)], [(15, 9, 6), (16, 9, 6), (16, 10, 6), (16, 10, 7)]]
)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (1.0, 0.8, 0.4)])
def test_a_network_that_needs_4_mm_has_a_margin_of_4_mm(
    spacing_mm: tuple[float, ...], lesion: list[tuple[int, ...]]
) -> None:
    scan = uniform_scan((32, 20, 14), spacing_mm, lesion)
    if spacing_mm[2] < 0.5:
        scan = uniform_scan((20, 20, 30), spacing_mm, [(10, 10, z + 8) for *_, z in lesion])
    (found,) = experiment("perilesional", ball_network(4.0, spacing_mm), scan)
    assert found.numbers["full_probability"] > 0.999
    assert found.numbers["margin_95_zero_mm"] == found.numbers["settled_95_zero_mm"] == 4
    if len(lesion) == 1:
        assert found.numbers["margin_50_zero_mm"] == 4
    # Tissue like the one that is hidden is as good as that.
    for fill in ("normal", "inpaint"):
        assert found.numbers[f"margin_50_{fill}_mm"] == found.numbers[f"margin_95_{fill}_mm"] == 0
    detected = [row["detected"] for row in found.rows if row["fill"] == "zero"]
    if len(lesion) == 1:
        assert detected == [int(margin >= 4) for margin in MARGINS_MM]


@pytest.mark.parametrize("engine", ["pruned", "crop"])
def test_a_margin_over_the_receptive_field_shows_all_though_some_is_hidden(engine: str) -> None:
    network, scan = randomised(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1))), small_scan()
    (found, *_) = experiment(
        "perilesional",
        network,
        explanation={"engine": engine, "multiple": 1},
    )
    # A kernel of 3 reaches one voxel along each axis: 2.7 mm.
    farthest = distances_mm((scan.labels == 1).numpy(), SPACING_MM).max()
    assert farthest > 6
    full = found.numbers["full_probability"]
    for row in found.rows:
        assert (row["mean_probability"] == full) == (row["margin_mm"] >= 3)


def test_a_score_that_is_never_reached_has_no_margin() -> None:
    scan = uniform_scan((32, 20, 14), (1.0, 1.0, 1.0), [(15, 9, 6)])
    network = ball_network(4.0, (1.0, 1.0, 1.0))
    study = make_study(network, scan, {"n_threads": 1})
    (found,) = perilesional.run(study, margins_mm=(0.0, 2.0), fills=("zero",))
    assert isnan(found.numbers["margin_50_zero_mm"])
    assert isnan(found.numbers["settled_50_zero_mm"])
    assert len(found.rows) == 2


def test_margins_are_where_the_rows_reach_a_share_of_the_full_score_and_stay_there() -> None:
    seen = set()
    # Strong tissue, so that curves rise and fall.
    scan = small_scan(image=20 * small_scan().image)
    for found in experiment("perilesional", random_unet(), scan):
        full = found.numbers["full_probability"]
        for fill in FILLS:
            rows = [row for row in found.rows if row["fill"] == fill]
            for percentage in (50, 95):
                there = [row["mean_probability"] >= percentage / 100 * full for row in rows]
                # The last margin shows all there is.
                assert there[-1]
                first = there.index(True)
                settled = max((i + 1 for i, one in enumerate(there) if not one), default=0)
                key = f"{percentage}_{fill}_mm"
                assert found.numbers[f"margin_{key}"] == MARGINS_MM[first]
                assert found.numbers[f"settled_{key}"] == MARGINS_MM[settled]
                seen.add(first == settled)
    assert seen == {True, False}


def test_air_is_never_filled() -> None:
    network, scan = random_unet(), small_scan()
    air = torch.where(scan.brain, 0.0, 5.0)
    bright = small_scan(image=scan.image + air)
    dark, light = (experiment("perilesional", network, one)[0] for one in (scan, bright))
    # What the network sees of the air tells the two apart even if all tissue is hidden.
    assert dark.rows[0]["mean_probability"] != light.rows[0]["mean_probability"]
    none = small_scan(brain=torch.zeros(SHAPE, dtype=torch.bool))
    for found in experiment("perilesional", network, none):
        full = found.numbers["full_probability"]
        assert {row["mean_probability"] for row in found.rows} == {full}
