# SPDX-License-Identifier: Apache-2.0
"""Explanations on a GPU are those of the CPU."""

from __future__ import annotations

import pytest
import torch

from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.explain import explain_lesions
from bids_lesion_xai.explain.catalogue import AGGREGATIONS
from bids_lesion_xai.explain.experiments import Scan, run_experiments
from tests.networks import random_unet

SIGMA = (0.3, 0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_agrees_with_the_cpu_to_1e_4_of_the_peak(aggregation: str) -> None:
    network = random_unet((16, 32, 64), (2, 2)).float()
    image = torch.randn(2, 41, 38, 35, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(41, 38, 35, dtype=torch.int32)
    labels[20:24, 17:20, 14:18], labels[0, 0, 34] = 1, 2
    options = {"aggregation": aggregation, "n_samples": 3, "sigma": SIGMA}
    expected = list(explain_lesions(network, image, labels, **options))
    there = (network.cuda(), image.cuda(), labels.cuda())
    found, again = (list(explain_lesions(*there, **options)) for _ in range(2))
    for one, same, other in zip(found, again, expected, strict=True):
        assert one.values.is_cuda
        assert torch.equal(one.values, same.values)
        peak = float(other.values.abs().max())
        torch.testing.assert_close(one.values.cpu(), other.values, rtol=0, atol=1e-4 * peak)


@pytest.mark.gpu
def test_rounds_no_product_unless_it_is_allowed_to() -> None:
    image = torch.zeros(2, 8, 8, 8, device="cuda")
    labels = torch.zeros(8, 8, 8, dtype=torch.int32, device="cuda")
    labels[4, 4, 4] = 1
    seen: list[bool] = []
    network = random_unet().float().cuda()
    network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    for allowed in (False, True):
        list(explain_lesions(network, image, labels, engine="whole", allow_tf32=allowed))
        assert set(seen) == {allowed}
        seen.clear()
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_find_what_they_find_on_the_cpu(experiment: str) -> None:
    network = random_unet((16, 32, 64), (2, 2)).float()
    image = torch.randn(2, 41, 38, 35, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(41, 38, 35, dtype=torch.int32)
    labels[20:24, 17:20, 14:18], labels[0, 0, 34] = 1, 2
    found = []
    for device in ("cpu", "cuda"):
        tensors = [one.to(device) for one in (image, labels, labels >= 0, labels == 0)]
        scan = Scan(*tensors, (1.0, 1.0, 1.0), 0.5)
        network.to(device)
        attributions = list(explain_lesions(network, *tensors[:2], n_samples=2, sigma=SIGMA))
        findings = run_experiments([experiment], network, scan, attributions=attributions)
        found.append([row for one in findings for row in one.rows])
    for there, here in zip(*reversed(found), strict=True):
        # Orders of values that are nearly equal may differ.
        for key, value in here.items():
            is_float = isinstance(value, float)
            expected = pytest.approx(value, rel=1e-2, abs=1e-2, nan_ok=True) if is_float else value
            assert there[key] == expected
