# SPDX-License-Identifier: Apache-2.0
"""Both directions of a kernel, whichever way they take, against torch and each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from bids_lesion_xai.explain.kernel import Kernel

# Channels of the smaller and the larger side, then arguments, then the side of the smaller box:
# large boxes of few channels interleave, small boxes of many channels are products of matrices.
CASES: dict[str, tuple[int, int, dict[str, Any], tuple[int, int, int]]] = {
    "few channels": (3, 2, {"stride": (2, 2, 2)}, (9, 7, 8)),
    "few channels, stride 1": (3, 2, {"stride": (1, 1, 1)}, (9, 7, 8)),
    "strides of each axis": (4, 1, {"stride": (1, 2, 3), "size": (3, 2, 5)}, (6, 9, 7)),
    "kernel below stride": (4, 2, {"stride": (2, 2, 2), "size": (1, 2, 1)}, (7, 6, 8)),
    "many channels": (24, 20, {"stride": (2, 2, 2)}, (2, 1, 3)),
    "many channels, stride 1": (24, 20, {"stride": (1, 1, 1)}, (2, 3, 2)),
    "large box of many channels": (8, 10, {"stride": (2, 2, 2)}, (9, 8, 7)),
    "groups": (8, 6, {"stride": (2, 2, 2), "groups": 2}, (4, 5, 6)),
    "dilation": (4, 3, {"stride": (2, 1, 1), "dilation": (2, 1, 3)}, (4, 5, 6)),
}


def kernel_and_sides(
    name: str, dtype: torch.dtype
) -> tuple[Kernel, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Return a kernel, values of its smaller and of its larger side, and torch's arguments."""
    small, large, options, shape = CASES[name]
    rest = {"dilation": (1, 1, 1), "groups": 1, **options}
    size = rest.pop("size", (3, 3, 3))
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(
        small, large // rest["groups"], *size, dtype=torch.float64, generator=generator
    ).to(dtype)
    sides = [
        s * (n - 1) + d * (k - 1) + 1
        for s, n, d, k in zip(rest["stride"], shape, rest["dilation"], size, strict=True)
    ]
    values = (
        torch.randn(2, channels, *side, dtype=torch.float64, generator=generator).to(dtype)
        for channels, side in ((small, shape), (large, sides))
    )
    kernel = Kernel(weight, padding=(0, 0, 0), **rest)
    return kernel, *values, {"weight": weight, **rest}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_is_what_torch_computes(name: str, with_bias: bool, dtype: torch.dtype) -> None:
    kernel, small, large, arguments = kernel_and_sides(name, dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-13
    biases = (torch.linspace(-1, 1, side.shape[1], dtype=dtype) for side in (small, large))
    of_small, of_large = biases if with_bias else (None, None)
    gathered = functional.conv3d(large, bias=of_small, **arguments)
    scattered = functional.conv_transpose3d(small, bias=of_large, **arguments)
    for found, expected in (
        (kernel.gather(large, of_small), gathered),
        (kernel.scatter(small, of_large), scattered),
    ):
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_each_direction_is_the_transpose_of_the_other(name: str) -> None:
    kernel, small, large, _ = kernel_and_sides(name, torch.float64)
    there = (kernel.gather(large) * small).sum()
    back = (kernel.scatter(small) * large).sum()
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)
