# SPDX-License-Identifier: Apache-2.0
"""Maps of networks whose layers are drawn anew."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet
from scipy.stats import pearsonr, spearmanr
from torch import nn

from bids_lesion_xai.explain import explain_lesions
from bids_lesion_xai.explain.engines import choose_engine
from bids_lesion_xai.explain.experiments.randomisation import (
    correlation,
    layers_from_output,
    redraw,
)
from tests.explain.experiments.known import (
    SPACING_MM,
    WAYS,
    distances_mm,
    experiment,
    small_scan,
)
from tests.explain.test_lesions import SHAPE, SIGMA, small_image
from tests.networks import random_unet, randomised

LAYERS = [
    "model.2.conv",
    "model.1.submodule.2.conv",
    "model.1.submodule.1.submodule.conv",
    "model.1.submodule.0.conv",
    "model.0.conv",
]
KEY = "0/sub-01/randomisation"


def options(**changes: Any) -> dict[str, Any]:
    return {"sigma": SIGMA, "n_threads": 1, **changes}


def names_of(network: nn.Module) -> list[str]:
    return layers_from_output(
        network, choose_engine(network, "auto", None, None, 0), small_image()
    )


@pytest.mark.parametrize("way", ["pruned", "whole", "flip", "window"])
def test_every_row_is_that_of_maps_made_by_hand(way: str) -> None:
    network, scan = random_unet(), small_scan()
    before = copy.deepcopy(network.state_dict())
    found = experiment("randomisation", network, explanation=options(**WAYS[way]))
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    redrawn, maps = copy.deepcopy(network), []
    for name in (None, *LAYERS):
        if name:
            redraw(redrawn, name, KEY)
        arguments = options(**WAYS[way], n_samples=5, visit="sub-01")
        every = explain_lesions(redrawn, scan.image, scan.labels, **arguments)
        maps.append({one.lesion: one.dense(SHAPE).numpy() for one in every})
    for one in found:
        near = distances_mm((scan.labels == one.lesion).numpy(), SPACING_MM) <= 15
        places = np.broadcast_to(near & scan.brain.numpy(), (2, *SHAPE))
        first = maps[0][one.lesion][places]
        for n_layers, row in enumerate(one.rows):
            values = maps[n_layers][one.lesion][places]
            assert list(row) == ["index", "n_layers", "layer", "spearman", "pearson"]
            assert row["index"] == one.lesion
            assert (row["n_layers"], row["layer"]) == (n_layers, (None, *LAYERS)[n_layers])
            ranks = spearmanr(np.abs(first), np.abs(values)).statistic
            assert row["spearman"] == pytest.approx(ranks, rel=1e-9)
            signed = pearsonr(first, values).statistic
            assert row["pearson"] == pytest.approx(signed, rel=1e-9, abs=1e-12)
        assert one.numbers == {
            "randomisation_spearman_first": one.rows[1]["spearman"],
            "randomisation_spearman_all": one.rows[-1]["spearman"],
        }


def test_a_map_is_like_itself_and_unlike_that_of_another_network() -> None:
    for found in experiment("randomisation", random_unet(), explanation=options()):
        nothing, *redrawn = found.rows
        assert (nothing["n_layers"], nothing["layer"]) == (0, None)
        assert nothing["spearman"] == nothing["pearson"] == pytest.approx(1, abs=1e-12)
        assert all(row["spearman"] < 0.99 for row in redrawn)


def test_seed_and_visit_fix_what_is_drawn() -> None:
    def drawn(key: str) -> torch.Tensor:
        network = random_unet()
        name = names_of(network)[0]
        redraw(network, name, key)
        return network.get_submodule(name).weight

    assert torch.equal(drawn(KEY), drawn(KEY))
    assert not torch.equal(drawn(KEY), drawn("1/sub-01/randomisation"))
    assert not torch.equal(drawn(KEY), drawn("0/sub-02/randomisation"))


def test_what_is_drawn_keeps_mean_and_spread_and_depends_on_no_other_layer() -> None:
    layers = [nn.Conv3d(8, 40, 3), nn.Conv3d(40, 8, 3)]
    layers[0].weight.data.mul_(3).add_(2)
    network, other = nn.Sequential(*layers).double(), copy.deepcopy(nn.Sequential(*layers))
    before = network[0].weight.detach().clone()
    redraw(network, "1", KEY)
    redraw(network, "0", KEY)
    redraw(other.double(), "0", KEY)
    found = network[0].weight.detach()
    assert torch.equal(found, other[0].weight)
    error = before.std() / before.numel() ** 0.5
    assert found.mean() == pytest.approx(float(before.mean()), abs=4 * float(error))
    assert found.std() == pytest.approx(float(before.std()), rel=0.05)
    assert abs(correlation(found.flatten().numpy(), before.flatten().numpy())) < 0.05


class Shuffled(nn.Module):
    """Runs its layers in another order than they are registered in, and one of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv3d(3, 2, 1)
        self.unused = nn.Conv3d(2, 2, 1)
        self.first = nn.Conv3d(2, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(image))


def test_layers_are_in_the_reverse_of_the_order_they_run_in() -> None:
    assert names_of(randomised(Shuffled())) == ["last", "first"]
    network = random_unet()
    assert names_of(network) == LAYERS
    assert not any(module._forward_hooks for module in network.modules())
    dynunet = DynUNet(3, 2, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 8])
    engine = choose_engine(dynunet.double().eval(), "auto", 2, (8, 8, 8), 0.25)
    names = layers_from_output(dynunet, engine, small_image())
    assert names[0].startswith("output_block")
    assert names[-1].startswith("input_block")


def test_a_constant_map_is_like_nothing() -> None:
    assert np.isnan(correlation(np.zeros(5), np.arange(5.0)))
