# SPDX-License-Identifier: Apache-2.0
"""Responses without an image, against the same by hand and a network that is blind to T1w."""

from __future__ import annotations

import pytest
import torch

from tests.explain.experiments.known import (
    WAYS,
    experiment,
    flair_only,
    respond,
    small_scan,
)
from tests.networks import random_unet

REPLACED = {"none": [], "flair": [0], "t1w": [1], "both": [0, 1]}


@pytest.mark.parametrize("way", WAYS)
def test_every_row_is_that_of_an_image_replaced_by_hand(way: str) -> None:
    network, scan = random_unet(), small_scan()
    for found in experiment("channel", network, explanation=WAYS[way]):
        mask = scan.labels == found.lesion
        assert [row["replaced"] for row in found.rows] == list(REPLACED)
        for row in found.rows:
            image = scan.image.clone()
            for channel in REPLACED[row["replaced"]]:
                image[channel, scan.brain] = scan.image[channel, scan.normal].mean()
            expected = respond(network, image, mask, WAYS[way])
            assert list(row) == ["index", "replaced", *expected]
            assert row["index"] == found.lesion
            for key, value in expected.items():
                assert row[key] == pytest.approx(value, rel=1e-9)
        full, flair, t1w, _ = (row["mean_probability"] for row in found.rows)
        expected_drops = {"channel_flair_drop": full - flair, "channel_t1w_drop": full - t1w}
        assert found.numbers == expected_drops


def test_what_is_blind_to_t1w_loses_nothing_without_it() -> None:
    for found in experiment("channel", flair_only(random_unet())):
        assert found.numbers["channel_t1w_drop"] == 0
        assert found.numbers["channel_flair_drop"] != 0
        rows = {row["replaced"]: row for row in found.rows}
        assert rows["both"]["mean_logit"] == rows["flair"]["mean_logit"]


def test_an_image_that_is_its_normal_mean_is_not_missed() -> None:
    scan = small_scan()
    image = torch.stack([scan.image[0], torch.full_like(scan.image[1], 0.75)])
    for found in experiment("channel", random_unet(), small_scan(image=image)):
        assert found.numbers["channel_t1w_drop"] == pytest.approx(0, abs=1e-15)
