# SPDX-License-Identifier: Apache-2.0
"""Deletion and insertion: the closed form of a linear network, and brute force of others."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bids_lesion_xai.explain import Attribution, explain_lesions
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.experiments import Scan
from bids_lesion_xai.explain.experiments.faithfulness import SHARES
from bids_lesion_xai.explain.noise import NoiseField
from tests.explain.experiments.known import WAYS, experiment, respond, small_scan
from tests.explain.test_lesions import SHAPE
from tests.networks import random_unet, randomised

MODES, ORDERS = ("deletion", "insertion"), ("saliency", "random", "intensity")


def explained(network: nn.Module, scan: Scan, **options: object) -> list[Attribution]:
    arguments = {"method": "gradient", "n_threads": 1, **options}
    return list(explain_lesions(network, scan.image, scan.labels, **arguments))


def orders_by_hand(scan: Scan, one: Attribution) -> dict[str, list[NDArray[np.int64]]]:
    """Return the features, indices of the flat image, in each order."""
    image = scan.image.numpy()
    within = np.zeros(SHAPE, bool)
    within[one.box.slices((0, 0, 0))] = True
    features = np.flatnonzero(np.broadcast_to(within & scan.brain.numpy(), image.shape))
    normal = image[:, scan.normal.numpy()].mean(1)[:, None, None, None]
    whole = Box((0, 0, 0), SHAPE)
    noise = [NoiseField(0, "sub-01/faithfulness").draw(i, 2, whole) for i in range(3)]
    firsts = {
        "saliency": [np.abs(one.dense(SHAPE).numpy())],
        "random": noise,
        "intensity": [np.abs(image - normal)],
    }
    return {
        name: [features[np.argsort(-first.ravel()[features], kind="stable")] for first in several]
        for name, several in firsts.items()
    }


def test_of_a_linear_network_is_the_sum_of_what_was_replaced() -> None:
    network, scan = randomised(nn.Sequential(nn.Conv3d(2, 2, 5, padding=2))), small_scan()
    attributions = explained(network, scan)
    found = experiment("faithfulness", network, attributions=attributions)
    for result, one in zip(found, attributions, strict=True):
        image = scan.image.numpy()
        normal = image[:, scan.normal.numpy()].mean(1)[:, None, None, None]
        effects = (one.dense(SHAPE).numpy() * (image - normal)).ravel()
        full = respond(network, scan.image, scan.labels == one.lesion)["mean_logit"]
        orders = orders_by_hand(scan, one)
        assert len(result.rows) == 2 * 3 * len(SHARES)
        for row in result.rows:
            kept = []
            for order in orders[row["order"]]:
                count = round(row["share"] * len(order))
                gone = order[:count] if row["mode"] == "deletion" else order[count:]
                kept.append(full - effects[gone].sum())
            assert row["mean_logit"] == pytest.approx(np.mean(kept), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_every_row_is_that_of_an_image_changed_by_hand(way: str) -> None:
    network, scan = random_unet(), small_scan()
    attributions = explained(network, scan, **WAYS[way])
    found = experiment("faithfulness", network, attributions=attributions, explanation=WAYS[way])
    normal = scan.normal_means.expand(scan.image.shape).flatten()
    for result, one in zip(found, attributions, strict=True):
        orders = orders_by_hand(scan, one)
        for row in result.rows:
            logits = []
            for order in orders[row["order"]]:
                count = round(row["share"] * len(order))
                gone = torch.from_numpy(
                    order[:count] if row["mode"] == "deletion" else order[count:]
                )
                image = scan.image.flatten().clone()
                image[gone] = normal[gone]
                image = image.view(scan.image.shape)
                mask = scan.labels == one.lesion
                logits.append(respond(network, image, mask, WAYS[way])["mean_logit"])
            assert row["mean_logit"] == pytest.approx(np.mean(logits), rel=1e-9)


def test_areas_are_those_under_the_rows() -> None:
    network, scan = random_unet(), small_scan()
    attributions = explained(network, scan)
    for found in experiment("faithfulness", network, attributions=attributions):
        keys = [f"{mode}_auc_{order}" for mode in MODES for order in ORDERS]
        assert list(found.numbers) == keys
        for mode in MODES:
            for order in ORDERS:
                rows = [r for r in found.rows if (r["mode"], r["order"]) == (mode, order)]
                ends = [rows[0]["mean_logit"], rows[-1]["mean_logit"]]
                whole, empty = ends if mode == "deletion" else ends[::-1]
                y = [(r["mean_logit"] - empty) / (whole - empty) for r in rows[1:]]
                x = np.log10([r["share"] for r in rows[1:]])
                area = np.trapezoid(y, x) / (x[-1] - x[0])
                assert found.numbers[f"{mode}_auc_{order}"] == pytest.approx(area, rel=1e-9)


def test_a_function_gives_what_an_iterable_gives() -> None:
    network, scan = random_unet(), small_scan()
    attributions = explained(network, scan)
    by_label = {one.lesion: one for one in attributions}
    streamed = experiment("faithfulness", network, attributions=iter(attributions))
    assert experiment("faithfulness", network, attributions=by_label.__getitem__) == streamed


def test_where_the_normal_mean_changes_nothing_there_is_no_area() -> None:
    scan = small_scan(image=torch.full((2, *SHAPE), 0.5, dtype=torch.float64))
    network = random_unet()
    (found, *_) = experiment("faithfulness", network, scan, attributions=explained(network, scan))
    assert all(isnan(area) for area in found.numbers.values())
