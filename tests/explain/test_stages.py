# SPDX-License-Identifier: Apache-2.0
"""Evaluating only what a box depends on gives what the whole volume gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import DynUNet, SwinUNETR, UNet
from torch import nn

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.box import Box, Indices, bounding_box
from bids_lesion_xai.explain.engines import choose_engine
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.stages import Stage
from bids_lesion_xai.explain.translate import UnboundedError, translate
from tests.networks import random_unet, randomised

# Arguments of the U-Net, the shape of the volume, and the product of the strides.
UNETS: dict[str, tuple[dict[str, Any], Indices, int]] = {
    "as published": ({}, (28, 12, 12), 4),
    "deeper": ({"channels": (2, 3, 4, 5), "strides": (2, 2, 2)}, (16, 16, 40), 8),
    "no norm, ReLU": ({"norm": None, "act": "RELU"}, (12, 28, 8), 4),
    "stride 1": ({"channels": (3, 4), "strides": (1,), "act": "ELU"}, (9, 11, 10), 1),
    "strides 1 and 2": ({"strides": (1, 2), "num_res_units": 1}, (16, 6, 10), 2),
    "strides 2 and 1": ({"strides": (2, 1), "num_res_units": 2, "norm": None}, (8, 10, 18), 2),
    "residual": ({"num_res_units": 2, "act": "LEAKYRELU"}, (8, 12, 28), 4),
    "anisotropic": (
        {"kernel_size": (3, 3, 1), "up_kernel_size": (3, 3, 1), "strides": ((2, 2, 1),) * 2},
        (16, 20, 7),
        4,
    ),
    "kernel 5": (
        {"channels": (2, 3), "strides": (2,), "kernel_size": 5, "up_kernel_size": 5},
        (18, 8, 10),
        2,
    ),
    "negative slope": ({"act": ("PRELU", {"init": -0.3})}, (12, 8, 28), 4),
    "slope of each channel": (
        {"channels": (4, 4, 4), "act": ("PRELU", {"num_parameters": 4})},
        (28, 8, 12),
        4,
    ),
    "activation first": ({"adn_ordering": "AN", "num_res_units": 1}, (8, 12, 24), 4),
    "in place": ({"act": ("ELU", {"inplace": True})}, (8, 28, 12), 4),
    "tanh": ({"act": "TANH", "dropout": 0.3, "adn_ordering": "ADN"}, (24, 8, 12), 4),
}


def places(extent: Indices, size: Indices) -> Iterator[Box]:
    """Yield boxes in the middle, on the 6 faces, on the 12 edges and in the 8 corners."""
    for ends in itertools.product((0, 0.5, 1), repeat=3):
        start = tuple(int(e * (n - s)) for e, n, s in zip(ends, extent, size, strict=True))
        yield Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))


def phases(extent: Indices, product: int, size: Indices, count: int) -> Iterator[Box]:
    """Yield boxes whose starts have `count` of all phases modulo the product of the strides."""
    rng = np.random.default_rng(product)
    every = list(itertools.product(range(product), repeat=3))
    for i in rng.permutation(len(every))[:count]:
        start = tuple(
            min(phase + product * int(rng.integers(n // product)), n - s)
            for phase, n, s in zip(every[i], extent, size, strict=True)
        )
        yield Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))


def assert_exact(network: nn.Module, extent: Indices, boxes: Iterator[Box]) -> None:
    """Compare values and gradients of every box with those of the whole volume."""
    torch.manual_seed(0)
    # Parts of one, of two and of all gradients.
    for batch_elements, box in zip(itertools.cycle((1, 300, 10**9)), boxes, strict=False):
        image = torch.randn(1, 2, *extent, dtype=torch.float64, requires_grad=True)
        logits = network(image)
        whole = logits[(..., *box.slices((0, 0, 0)))]
        directions = torch.randn(3, *whole.shape[1:], dtype=torch.float64)

        stage = translate(network, batch_elements)
        region = stage.needed(box).clip(extent)
        part = image.detach()[(..., *region.slices((0, 0, 0)))]
        with torch.no_grad():
            found, pull = stage.forward(Piece(part, region.start, extent), box)
            # Twice: the first must leave behind what the second needs.
            pulled = [list(pull(Piece(directions.clone(), box.start, extent))) for _ in range(2)]

        assert found.start == box.start
        assert found.extent == tuple(logits.shape[2:])
        assert_same(found.values, whole)
        for pieces in pulled:
            gradients = torch.cat([piece.cut(Box((0, 0, 0), extent)) for piece in pieces])
            for gradient, direction in zip(gradients, directions, strict=True):
                expected = torch.autograd.grad(whole, image, direction[None], retain_graph=True)
                assert_same(gradient[None], expected[0])


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    peak = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * peak)


@pytest.mark.parametrize("name", UNETS)
def test_any_place_in_the_volume_is_exact(name: str) -> None:
    arguments, extent, _ = UNETS[name]
    boxes = places(extent, (3, 1, 2))
    # All 27 for one network; the 6 faces and 8 corners for the others.
    some = itertools.islice(boxes, 0, None, 1 if name == "as published" else 2)
    assert_exact(random_unet(**arguments), extent, some)


@pytest.mark.parametrize("name", UNETS)
def test_any_phase_of_the_strides_is_exact(name: str) -> None:
    arguments, extent, product = UNETS[name]
    assert_exact(random_unet(**arguments), extent, phases(extent, product, (1, 2, 1), 10))


def test_the_whole_output_needs_the_whole_input() -> None:
    extent = (8, 12, 8)
    assert_exact(random_unet(), extent, iter([Box((0, 0, 0), extent)]))


LAYERS = {
    "conv, stride 2, odd extent": nn.Conv3d(2, 2, 3, stride=2, padding=1),
    "conv, stride 3, kernel 2": nn.Conv3d(2, 2, 2, stride=3),
    "conv, dilated": nn.Conv3d(2, 2, 3, dilation=2, padding=2),
    "conv, grouped, anisotropic": nn.Conv3d(2, 2, (3, 1, 5), padding=(1, 0, 4), groups=2),
    "transposed, stride 2": nn.ConvTranspose3d(2, 2, 3, stride=2, padding=1, output_padding=1),
    "transposed, kernel 2": nn.ConvTranspose3d(2, 2, 2, stride=2),
    "transposed, dilated": nn.ConvTranspose3d(2, 2, 3, dilation=2, padding=1, stride=2),
    "down and up": nn.Sequential(
        nn.Conv3d(2, 2, 3, stride=2, padding=1),
        nn.Softplus(),
        nn.ConvTranspose3d(2, 2, 3, stride=2, padding=1, output_padding=1),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_exact_at_every_place_of_an_odd_volume(name: str) -> None:
    extent = (7, 9, 11)
    layer = randomised(nn.Sequential(LAYERS[name]))
    shape = tuple(layer(torch.zeros(1, 2, *extent, dtype=torch.float64)).shape[2:])
    assert_exact(layer, extent, places(shape, (2, 1, 1)))


def positive(network: nn.Module) -> nn.Module:
    """Return `network` with positive weights, so that no two paths to a logit cancel."""
    for weight in network.parameters():
        weight.uniform_(0.1, 1)
    return network


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("phase", [0, 1, 2, 3])
def test_the_support_is_not_larger_than_it_must_be(strides: tuple[int, ...], phase: int) -> None:
    network = positive(random_unet(strides=strides, norm=None, act="RELU"))
    image = torch.rand(1, 2, 52, 52, 52, dtype=torch.float64, requires_grad=True)
    box = Box((24 + phase, 24, 27), (26 + phase, 25, 28))
    logits = network(image)[(0, 1, *box.slices((0, 0, 0)))]
    reached = torch.autograd.grad(logits.sum(), image)[0][0, 0] > 0
    region = translate(network, 1).needed(box)
    assert bounding_box(reached) == region
    assert reached[region.slices((0, 0, 0))].all()


class Reversed(nn.Sequential):
    """A Sequential that is none."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.flip(2))


def published_with(**norm: Any) -> UNet:
    return UNet(3, 2, 2, (4, 8), (2,), norm=("batch", norm))


def hooked() -> nn.Module:
    network = random_unet()
    network.model[0].conv.register_forward_hook(lambda *given: 2 * given[-1])
    return network


def patched() -> nn.Module:
    network = random_unet()
    network.model[0].conv.forward = lambda image: image
    return network


UNKNOWN = {
    "hook": hooked,
    "forward of one module": patched,
    "instance norm": lambda: UNet(3, 2, 2, (4, 8), (2,), norm="instance"),
    "group norm": lambda: UNet(3, 2, 2, (4, 8), (2,), norm=("group", {"num_groups": 1})),
    "batch norm of the batch": lambda: published_with(track_running_stats=False),
    "own forward": lambda: Reversed(nn.Conv3d(2, 2, 3, padding=1)),
    "reflected padding": lambda: nn.Sequential(
        nn.Conv3d(2, 2, 3, padding=1, padding_mode="reflect")
    ),
    "padding by name": lambda: nn.Sequential(nn.Conv3d(2, 2, 3, padding="same")),
    "sum of branches": lambda: SkipConnection(nn.Conv3d(2, 2, 3, padding=1), mode="add"),
    "stride beyond kernel": lambda: UNet(3, 2, 2, (4, 8), (4,), norm=None),
    "stride of the kernel, with a rest": lambda: UNet(3, 2, 2, (4, 8), (3,), norm=None),
    "padding beyond kernel": lambda: nn.Sequential(nn.Conv3d(2, 2, 3, padding=3)),
    "DynUNet": lambda: DynUNet(3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 4]),
    "SwinUNETR": lambda: SwinUNETR(
        in_channels=2, out_channels=2, feature_size=12, depths=(1, 1, 1, 1)
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_layer_of_unknown_reach_is_refused(name: str) -> None:
    network = UNKNOWN[name]().eval()
    with pytest.raises(UnboundedError):
        translate(network, 1)
    assert choose_engine(network, "auto", None, None, 0.25).name == "whole"
    for engine in ("pruned", "crop"):
        with pytest.raises(UsageError, match="Use engine whole"):
            choose_engine(network, engine, None, None, 0.25)


@pytest.mark.parametrize("name", UNETS)
def test_the_volume_is_padded_to_the_strides(name: str) -> None:
    arguments, extent, product = UNETS[name]
    stage: Stage = translate(random_unet(**arguments), 1)
    assert max(stage.multiple) == product
    engine = choose_engine(random_unet(**arguments), "auto", None, None, 0.25)
    assert engine.extent(tuple(n - 1 for n in extent)) == tuple(
        n - 1 + (1 - n) % m for n, m in zip(extent, stage.multiple, strict=True)
    )


@pytest.mark.parametrize(
    ("strides", "product"), [((2, 2), (4, 4, 4)), (((2, 2, 1), (2, 1, 1)), (4, 2, 1))]
)
def test_a_unet_of_another_norm_is_padded_to_its_strides_too(
    strides: tuple[Any, ...], product: Indices
) -> None:
    network = random_unet(strides=strides, norm="instance")
    engine = choose_engine(network, "auto", None, None, 0.25)
    assert (engine.name, engine.extent((5, 5, 5))) == (
        "whole",
        tuple(5 + -5 % m for m in product),
    )


def test_the_feature_maps_of_one_window_are_kept_however_many_there_are() -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    engine = choose_engine(random_unet(), "window", None, (8, 8, 8), 0.25)
    piece = Piece(torch.rand(1, 2, 20, 20, 20, dtype=torch.float64), (0, 0, 0), (20, 20, 20))
    voxels = []
    for side in (1, 20):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.run(piece, Box((0, 0, 0), (side,) * 3))
        # Of every window its input is kept, part of the image, and its weights.
        voxels.append(sum(one.numel() for one in kept))
    one_window, all_windows = voxels
    assert all_windows < 27 * one_window / 2


def test_engines_are_chosen_by_name() -> None:
    network = random_unet()
    names = {"auto": "pruned", "pruned": "pruned", "crop": "crop", "whole": "whole"}
    for asked, given in names.items():
        assert choose_engine(network, asked, None, None, 0.25).name == given
    for asked in ("auto", "window"):
        assert choose_engine(network, asked, None, (8, 8, 8), 0.25).name == "window"


@pytest.mark.parametrize(
    ("engine", "multiple", "window", "words"),
    [
        ("fast", None, None, "fast"),
        ("window", None, None, "shape of the window"),
        ("pruned", None, (8, 8, 8), "not windows"),
        ("pruned", 6, None, "multiple of the strides"),
        ("crop", 2, None, "multiple of the strides"),
    ],
)
def test_an_engine_that_would_not_be_exact_is_refused(
    engine: str, multiple: int | None, window: Indices | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        choose_engine(random_unet(), engine, multiple, window, 0.25)
