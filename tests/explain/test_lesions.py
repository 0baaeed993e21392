# SPDX-License-Identifier: Apache-2.0
"""Explanations of single lesions, against closed forms, brute force, MONAI and Captum."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet, SwinUNETR
from monai.visualize.gradient_based import VanillaGrad
from scipy.stats import kstatvar
from torch import nn
from torch.nn import functional

from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain import (
    Attribution,
    Progress,
    catalogue,
    explain_lesions,
    published,
)
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.catalogue import AGGREGATIONS, BASELINES, METHODS
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.points import FEWEST_SAMPLES
from bids_lesion_xai.explain.reductions import channel_shares
from bids_lesion_xai.explain.stages import Level, PullBatch
from tests.networks import random_unet, randomised

SHAPE = (9, 10, 7)
MULTIPLE = 4
SIGMA = (0.3, 0.5)


def small_image(shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def three_lesions() -> torch.Tensor:
    """Return an L, a corner of the volume, and two voxels apart."""
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[3:6, 4, 3] = labels[3, 4:6, 3] = 1
    labels[8, 8:, 6] = 2
    labels[1, 6, 3] = labels[1, 8, 3] = 3
    return labels


def explain(
    network: nn.Module,
    image: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    **options: Any,
) -> list[Attribution]:
    image = small_image() if image is None else image
    labels = three_lesions() if labels is None else labels
    defaults = {"n_samples": 3, "sigma": SIGMA, "visit": "sub-01", "n_threads": 1}
    return list(explain_lesions(network, image, labels, **{**defaults, **options}))


def noisy(image: torch.Tensor, sample: int, seed: int = 0, visit: str = "sub-01") -> torch.Tensor:
    """Return `image` with the noise of one sample on the whole volume."""
    box = Box((0, 0, 0), tuple(image.shape[1:]))
    noise = torch.from_numpy(NoiseField(seed, visit).draw(sample, 2, box)).to(image)
    return image + image.new_tensor(SIGMA)[:, None, None, None] * noise


def logit_maps(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the logits on the whole volume, shape (K, X, Y, Z), padded as for the prediction."""
    after = [n for side in reversed(image.shape[1:]) for n in (0, -side % MULTIPLE)]
    x, y, z = image.shape[1:]
    return network(functional.pad(image, after)[None])[0, :, :x, :y, :z]


TARGETS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "logit": lambda logits: logits[1],
    "logodds": lambda logits: logits[1] - logits[0],
    "probability": lambda logits: 1 / (1 + (logits[0] - logits[1]).exp()),
}


def voxel_gradients(
    network: nn.Module, image: torch.Tensor, mask: torch.Tensor, target: str = "logit"
) -> np.ndarray[Any, Any]:
    """Return the gradients, shape (voxels, C, X, Y, Z), of one target each, in C order."""
    image = image.clone().requires_grad_()
    targets = TARGETS[target](logit_maps(network, image))[mask]
    rows = [torch.autograd.grad(one, image, retain_graph=True)[0] for one in targets]
    return torch.stack(rows).numpy()


def brute_force(gradients: np.ndarray[Any, Any], aggregation: str) -> np.ndarray[Any, Any]:
    if aggregation == "max":
        first_largest = np.abs(gradients).argmax(0)[None]
        return np.take_along_axis(gradients, first_largest, 0)[0]
    if aggregation == "rms":
        return np.sqrt((gradients**2).mean(0))
    return {"mean": gradients.mean, "sum": gradients.sum}[aggregation](axis=0)


def assert_near(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Compare to a fraction of the largest magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    peak = float(np.abs(expected).max())
    assert peak > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * peak)


def assert_same_bits(found: Attribution, expected: Attribution) -> None:
    assert (found.lesion, found.offset) == (expected.lesion, expected.offset)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.standard_error, expected.standard_error)
    assert torch.equal(found.inside_error, expected.inside_error)
    assert torch.equal(found.share_error, expected.share_error)


class Quadratic(nn.Module):
    """The lesion logit of a voxel is 2 x^2 - 3 y^2 of its channels x and y."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        squares = 2 * image[:, :1] ** 2 - 3 * image[:, 1:] ** 2
        return torch.cat([torch.zeros_like(squares), squares], 1)


@pytest.mark.parametrize("sigma", [(0.0, 0.0), (0.1, 5.0)])
@pytest.mark.parametrize("engine", ["pruned", "whole"])
def test_of_a_linear_network_is_the_transposed_convolution_of_the_lesion(
    sigma: tuple[float, ...], engine: str
) -> None:
    network = randomised(nn.Sequential(nn.Conv3d(2, 2, 5, padding=2)))
    labels = three_lesions()
    for found in explain(network, sigma=sigma, engine=engine):
        mask = (labels == found.lesion).double()
        spread = functional.conv_transpose3d(
            (mask / mask.sum())[None, None], network[0].weight[1:], padding=2
        )
        assert_near(found.dense(SHAPE), spread[0], 1e-14)
        # Equal gradients differ by rounding at most.
        assert found.standard_error.max() < 1e-14


def samples_by_brute_force(
    method: str,
    network: nn.Module,
    mask: torch.Tensor,
    aggregation: str,
    target: str,
    n_samples: int = 3,
) -> np.ndarray[Any, Any]:
    """Return the aggregated gradients at the points of a method, shape (points, C, X, Y, Z)."""
    image = small_image()
    if method == "gradient":
        points = [image]
    elif method == "integrated-gradients":
        points = [share * image for share in (np.polynomial.legendre.leggauss(3)[0] + 1) / 2]
    else:
        points = [noisy(image, i) for i in range(n_samples)]
    return np.stack(
        [brute_force(voxel_gradients(network, one, mask, target), aggregation) for one in points]
    )


def integral(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    weights = np.polynomial.legendre.leggauss(3)[1] / 2
    return np.tensordot(weights, samples, 1) * small_image().numpy()


# What each method makes of its samples; Grad-CAM++ takes none and has tests of its own.
REDUCTIONS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "gradient": lambda samples: samples[0],
    "smoothgrad": lambda samples: samples.mean(0),
    "smoothgrad-squared": lambda samples: (samples**2).mean(0),
    "vargrad": lambda samples: samples.var(0),
    "integrated-gradients": integral,
}
ENGINES = ("pruned", "crop", "whole")


def test_the_oracle_knows_every_method_aggregation_target_and_engine() -> None:
    assert {*REDUCTIONS, "gradcam++"} == set(METHODS)
    assert set(TARGETS) == set(catalogue.TARGETS)
    assert {*ENGINES, "auto", "window"} == set(catalogue.ENGINES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("method", REDUCTIONS)
def test_equals_brute_force_over_the_voxels(method: str, aggregation: str, target: str) -> None:
    network, labels = random_unet(), three_lesions()
    expected = [
        samples_by_brute_force(method, network, labels == lesion, aggregation, target)
        for lesion in (1, 2, 3)
    ]
    options = {"method": method, "aggregation": aggregation, "target": target}
    for engine in ENGINES:
        for found, samples in zip(
            explain(network, engine=engine, **options), expected, strict=True
        ):
            assert_near(found.dense(SHAPE), REDUCTIONS[method](samples))
            assert (found.engine, found.n_samples) == (engine, len(samples))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_standard_errors_are_those_of_the_samples(aggregation: str) -> None:
    network, labels = random_unet(), three_lesions()
    squared = explain(network, aggregation=aggregation, method="smoothgrad-squared")
    for found, of_squares in zip(explain(network, aggregation=aggregation), squared, strict=True):
        mask = labels == found.lesion
        samples = samples_by_brute_force("smoothgrad", network, mask, aggregation, "logit")
        part = (..., *found.box.slices((0, 0, 0)))
        for one, values in ((found, samples), (of_squares, samples**2)):
            assert_near(one.standard_error, values[part].std(0, ddof=1) / np.sqrt(3))
            inside = values[:, :, mask.numpy()].mean(2)
            assert_near(one.inside_error, inside.std(0, ddof=1) / np.sqrt(3))


def shares_of(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    totals = np.abs(samples.mean(0)).sum((1, 2, 3))
    return np.asarray(totals / totals.sum())


def test_the_error_of_a_share_is_that_of_the_jackknife_over_samples() -> None:
    network, labels, n = random_unet(), three_lesions(), 6
    for found in explain(network, n_samples=n):
        mask = labels == found.lesion
        samples = samples_by_brute_force("smoothgrad", network, mask, "mean", "logit", n)
        without = np.stack([shares_of(np.delete(samples, i, 0)) for i in range(n)])
        expected = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
        assert_near(found.share_error, expected)


# 40 and 43 samples are ten groups of equal and of unequal size.
@pytest.mark.parametrize("n_samples", [40, 43])
def test_the_error_of_a_share_is_its_scatter_over_seeds(n_samples: int) -> None:
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[2:6, 1:5, 1:4] = 1
    n_seeds = 100
    found = [
        one
        for seed in range(n_seeds)
        for one in explain(Quadratic().eval(), labels=labels, n_samples=n_samples, seed=seed)
    ]
    shares = np.array([channel_shares(one.values)[0] for one in found])
    errors = np.array([float(one.share_error[0]) for one in found])
    # Both are known to 1 / sqrt(2 * 100) and better.
    assert np.sqrt((errors**2).mean()) == pytest.approx(shares.std(ddof=1), rel=0.25)
    for one in found[:5]:
        assert one.share_error[0] == pytest.approx(float(one.share_error[1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_standard_error_of_a_variance_is_that_of_its_k_statistics(dtype: torch.dtype) -> None:
    network, labels = random_unet(), three_lesions()
    of_dtype = (random_unet().to(dtype), small_image().to(dtype))
    for found in explain(*of_dtype, method="vargrad", n_samples=6):
        mask = labels == found.lesion
        samples = samples_by_brute_force("smoothgrad", network, mask, "mean", "logit", 6)
        part = (..., *found.box.slices((0, 0, 0)))
        # The variance of the statistic k2, unbiased, and k2 is 6/5 of the variance.
        of_k2 = kstatvar(samples, 2, axis=0)
        expected = np.sqrt(np.maximum(of_k2, 0)) * 5 / 6
        # Where it is near 0, the root of a difference that is rounded.
        tolerance = 1e-6 if dtype is torch.float64 else 1e-3
        assert_near(np.nan_to_num(found.standard_error), expected[part], tolerance)
        assert torch.isnan(found.inside_error).all()
        assert torch.isnan(found.share_error).all()


def test_a_variance_of_negative_estimated_variance_has_no_error() -> None:
    network, labels = random_unet(), three_lesions()
    (found, *_) = explain(network, method="vargrad", n_samples=4)
    samples = samples_by_brute_force("smoothgrad", network, labels == 1, "mean", "logit", 4)
    of_k2 = kstatvar(samples, 2, axis=0)[(..., *found.box.slices((0, 0, 0)))]
    smallest = 1e-9 * of_k2.max()
    assert (of_k2 < -smallest).any()
    assert torch.isnan(found.standard_error[of_k2 < -smallest]).all()
    assert not torch.isnan(found.standard_error[of_k2 > smallest]).any()


def test_the_variance_of_few_samples_has_no_error() -> None:
    for found in explain(random_unet(), method="vargrad", n_samples=3):
        assert torch.isnan(found.standard_error).all()


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "gradcam++"])
def test_what_has_no_noise_has_no_error(method: str) -> None:
    for found in explain(random_unet(), method=method):
        assert not found.standard_error.any()
        assert not found.inside_error.any()
        assert not found.share_error.any()


@pytest.mark.parametrize("baseline", BASELINES)
def test_integrated_gradients_add_up_to_the_difference_from_the_baseline(baseline: str) -> None:
    network, labels = random_unet(act="TANH"), three_lesions()
    image = small_image()
    image[:, :, :3] = 0
    brain = (image != 0).any(0)
    reference = torch.zeros_like(image)
    if baseline == "brain-mean":
        reference[:, brain] = image[:, brain].mean(1, keepdim=True)
    options = {"method": "integrated-gradients", "baseline": baseline, "aggregation": "sum"}
    for found in explain(network, image, n_samples=30, **options):
        mask = labels == found.lesion
        after, before = (logit_maps(network, one)[1][mask].sum() for one in (image, reference))
        assert_near(found.values.sum(), after - before, 1e-6)


def test_the_largest_magnitude_is_of_the_first_voxel_in_c_order_if_two_are_equal() -> None:
    # The logit of voxel v is x[v - 1] - x[v + 1]: the voxel between two is seen by both.
    network = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1, bias=False)).double().eval()
    nn.init.zeros_(network[0].weight)
    with torch.no_grad():
        network[0].weight[1, 0, 0, 1, 1], network[0].weight[1, 0, 2, 1, 1] = 1, -1
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[3, 5, 5] = labels[5, 5, 5] = 1
    (found,) = explain(network, labels=labels, aggregation="max")
    assert found.dense(SHAPE)[0, :, 5, 5].tolist() == [0, 0, 1, 0, -1, 0, -1, 0, 0]


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_the_number_of_threads_changes_no_bit(aggregation: str) -> None:
    image, network = small_image().float(), random_unet().float()
    one, *others = (
        explain(network, image, aggregation=aggregation, n_threads=n) for n in (1, 2, 5)
    )
    for several in others:
        for found, expected in zip(several, one, strict=True):
            assert_same_bits(found, expected)


def test_one_who_stops_early_leaves_no_thread_and_no_setting() -> None:
    settings, threads = torch.get_num_threads(), threading.active_count()
    lesions = explain_lesions(
        random_unet(), small_image(), three_lesions(), sigma=SIGMA, n_threads=2
    )
    assert next(lesions).lesion == 1
    assert threading.active_count() > threads
    lesions.close()
    assert (torch.get_num_threads(), threading.active_count()) == (settings, threads)


def test_without_noise_is_the_gradient_for_any_number_of_samples() -> None:
    network, image, labels = random_unet(), small_image(), three_lesions()
    for found in explain(network, sigma=(0, 0), n_samples=4):
        expected = voxel_gradients(network, image, labels == found.lesion).mean(0)
        assert_near(found.dense(SHAPE), expected, 1e-13)
        assert found.standard_error.max() == 0


def test_of_a_quadratic_network_has_the_mean_and_error_of_the_closed_form() -> None:
    n_samples = 400
    image, labels = small_image(), torch.zeros(SHAPE, dtype=torch.int32)
    labels[2:8, 1:9, 1:6] = 1
    n_voxels = int(labels.sum())
    (found,) = explain(Quadratic().eval(), labels=labels, n_samples=n_samples)
    mask = labels.bool()
    slope = torch.tensor([4.0, -6.0], dtype=torch.float64)[:, None] / n_voxels
    gradient = slope * image[:, mask]
    expected_error = (slope.abs() * torch.tensor(SIGMA)[:, None]).flatten() / np.sqrt(n_samples)
    deviation = (found.dense(SHAPE)[:, mask] - gradient) / expected_error[:, None]
    errors = found.standard_error[:, mask] / expected_error[:, None]
    # 480 means are normal around the gradient; the mean of as many sample standard deviations,
    # each within 1 / sqrt(2 n) of the true one, is within a fraction of that.
    assert deviation.abs().max() < 5
    assert abs(float(deviation.std()) - 1) < 5 / np.sqrt(2 * deviation.numel())
    assert abs(float(errors.mean()) - 1) < 5 / np.sqrt(2 * n_samples * errors.numel())
    assert not found.dense(SHAPE)[:, ~mask].any()


def test_the_sum_is_the_mean_times_the_number_of_voxels() -> None:
    network, labels = random_unet(), three_lesions()
    means, sums = explain(network), explain(network, aggregation="sum")
    for mean, total in zip(means, sums, strict=True):
        n_voxels = int((labels == mean.lesion).sum())
        assert_near(total.values, mean.values * n_voxels, 1e-13)
        assert_near(total.standard_error, mean.standard_error * n_voxels, 1e-12)


def test_the_sum_over_a_union_is_the_sum_of_the_sums() -> None:
    network, labels = random_unet(), three_lesions()
    parts = explain(network, aggregation="sum")
    (union,) = explain(network, labels=(labels > 0).int(), aggregation="sum")
    assert_near(union.dense(SHAPE), sum(part.dense(SHAPE) for part in parts), 1e-12)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
@pytest.mark.parametrize("engine", ["pruned", "whole"])
def test_a_lesion_does_not_depend_on_the_others(aggregation: str, engine: str) -> None:
    network, labels = random_unet(), three_lesions()
    for found in explain(network, aggregation=aggregation, engine=engine):
        alone = torch.where(labels == found.lesion, labels, 0)
        (single,) = explain(network, labels=alone, aggregation=aggregation, engine=engine)
        assert_same_bits(found, single)


def test_lesions_come_in_the_order_of_their_labels_and_keep_them() -> None:
    labels = three_lesions()
    renumbered = torch.tensor([0, 9, 4, 200])[labels.long()]
    found = explain(random_unet(), labels=renumbered)
    assert [one.lesion for one in found] == [4, 9, 200]
    by_label = {one.lesion: one for one in explain(random_unet())}
    for one, old in zip(found, (2, 1, 3), strict=True):
        assert torch.equal(one.values, by_label[old].values)


def test_no_lesion_gives_no_attribution() -> None:
    assert explain(random_unet(), labels=torch.zeros(SHAPE, dtype=torch.int32)) == []


def test_noise_depends_on_seed_and_visit_alone() -> None:
    network = random_unet()
    first, again = explain(network), explain(network)
    for one, same in zip(first, again, strict=True):
        assert_same_bits(one, same)
    for change in ({"seed": 1}, {"visit": "sub-02"}):
        for one, other in zip(first, explain(network, **change), strict=True):
            assert not torch.equal(one.values, other.values)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_engines_agree_on_an_odd_volume(aggregation: str) -> None:
    network = random_unet((2, 3, 4), (2, 2), num_res_units=1)
    pruned = explain(network, aggregation=aggregation, engine="pruned")
    whole = explain(network, aggregation=aggregation, engine="whole")
    for one, other in zip(pruned, whole, strict=True):
        assert other.offset == (0, 0, 0)
        assert_near(one.dense(SHAPE), other.dense(SHAPE))


def test_the_map_is_zero_beyond_its_support() -> None:
    network = random_unet((3, 4), (2,))
    shape, labels = (40, 40, 40), torch.zeros((40, 40, 40), dtype=torch.int32)
    labels[20, 21, 19] = 1
    image = small_image(shape)
    (pruned,) = explain(network, image, labels)
    (whole,) = explain(network, image, labels, engine="whole")
    beyond = torch.ones(shape, dtype=torch.bool)
    beyond[pruned.box.slices((0, 0, 0))] = False
    assert beyond.float().mean() > 0.9
    assert not whole.values[:, beyond].any()
    assert not pruned.dense(shape)[:, beyond].any()


def test_a_single_sample_has_no_standard_error() -> None:
    for found in explain(random_unet(), n_samples=1):
        assert torch.isnan(found.standard_error).all()
        assert torch.isfinite(found.values).all()
        assert torch.isnan(found.inside_error).all()


def test_float32_is_close_to_float64() -> None:
    exact = explain(random_unet())
    single = explain(random_unet().float(), small_image().float())
    for one, other in zip(exact, single, strict=True):
        assert other.values.dtype == torch.float32
        assert_near(other.values, one.values, 1e-5)


@pytest.mark.parametrize("options", [{"engine": "whole"}, {"window": (16, 16, 16)}], ids=str)
def test_the_number_of_threads_changes_rounding_only(options: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    try:
        maps = []
        for count in (1, 2):
            torch.set_num_threads(count)
            maps.append(explain(random_unet(), n_threads=count, **options)[0])
    finally:
        torch.set_num_threads(threads)
    assert {one.engine for one in maps} == {options.get("engine", "window")}
    assert_near(maps[0].values, maps[1].values, 1e-12)


@pytest.mark.parametrize("n_samples", [0, 3])
def test_agrees_with_captum(n_samples: int) -> None:
    """Captum averages over the same noise; with no sample there is none."""
    network, image, labels = random_unet(), small_image(), three_lesions()
    noise = {"n_samples": n_samples} if n_samples else {"n_samples": 1, "sigma": (0, 0)}
    for found in explain(network, **noise):
        mask = labels == found.lesion

        def score(images: torch.Tensor, mask: torch.Tensor = mask) -> torch.Tensor:
            return torch.stack([logit_maps(network, one)[1][mask].mean() for one in images])

        samples = [noisy(image, i) for i in range(n_samples)] or [image]
        inputs = torch.stack(samples).requires_grad_()
        expected = captum.attr.Saliency(score).attribute(inputs, abs=False).mean(0)
        assert_near(found.dense(SHAPE), expected.detach(), 1e-12)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"labels": torch.ones(4, 4, 4)}, DataError, "shape"),
        ({"image": torch.full((2, *SHAPE), torch.nan)}, DataError, "NaN"),
        ({"image": torch.full((2, *SHAPE), torch.inf)}, DataError, "infinite"),
        ({"aggregation": "median"}, UsageError, "mean, sum, max"),
        ({"n_samples": 0}, UsageError, "at least 1"),
        ({"sigma": (0.1,)}, UsageError, "2 numbers"),
        ({"sigma": (0.1, -0.1)}, UsageError, "at least 0"),
        ({"sigma": (0.1, float("nan"))}, UsageError, "at least 0"),
        ({"engine": "fast"}, UsageError, "fast"),
        ({"method": "lime"}, UsageError, "gradient, smoothgrad"),
        ({"target": "loss"}, UsageError, "logit, logodds, probability"),
        ({"method": "integrated-gradients", "baseline": "noise"}, UsageError, "zero, brain-mean"),
        ({"method": "gradcam++", "layer": "head"}, UsageError, "model.0.conv"),
        ({"method": "gradcam++", "window": (8, 8, 8)}, UsageError, "whole volume"),
        ({"window": (8, 8)}, UsageError, "3 whole numbers"),
        ({"window": 96}, UsageError, "3 whole numbers"),
        ({"sigma": 0.3}, UsageError, "2 numbers"),
        ({"n_samples": 2.5}, UsageError, "whole number"),
        ({"n_threads": 1.5}, UsageError, "whole number"),
        ({"multiple": 0}, UsageError, "at least 1"),
        ({"multiple": 3}, UsageError, "strides"),
        ({"multiple": 3, "engine": "whole"}, UsageError, "strides"),
        ({"memory_gb": float("inf")}, UsageError, "above 0"),
        ({"labels": np.ones(SHAPE, int)}, UsageError, "ndarray"),
        ({"labels": torch.ones(SHAPE, dtype=torch.bool)}, DataError, "bool"),
        (
            {"image": torch.zeros(3, *SHAPE, dtype=torch.float64), "sigma": (1, 1, 1)},
            UsageError,
            "does not take an image",
        ),
        ({"overlap": 1.0}, UsageError, "below 1"),
        ({"target_error": 0.0}, UsageError, "above 0"),
        ({"method": "gradient", "target_error": 0.1}, UsageError, "no noise"),
        ({"n_threads": 0}, UsageError, "at least 1"),
        ({"memory_gb": 0}, UsageError, "above 0"),
        ({"memory_gb": None}, UsageError, "above 0"),
        ({"labels": torch.ones(SHAPE)}, DataError, "whole numbers"),
        ({"image": small_image()[0]}, DataError, r"\(C, X, Y, Z\)"),
        ({"image": small_image().int()}, DataError, "float32"),
        ({"image": small_image().float()}, UsageError, "float32 on cpu, network of torch.float64"),
    ],
)
def test_bad_arguments_are_refused(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        explain(random_unet(), **change)


def test_a_network_in_train_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="eval"):
        explain(random_unet().train())


def places_of_lesions() -> torch.Tensor:
    """Return lesions in the middle, on faces, edges and corners, touching, large, of one voxel."""
    labels = torch.zeros((27, 22, 19), dtype=torch.int32)
    corners = itertools.product((0, 26), (0, 21), (0, 18))
    edges_and_faces = [(0, 21, 9), (13, 0, 18), (26, 11, 0), (0, 11, 9), (13, 21, 9), (13, 11, 0)]
    middle = [(8 + i, 9, 5 + i) for i in range(4)]
    for label, voxel in enumerate([*corners, *edges_and_faces, *middle], start=1):
        labels[voxel] = label
    labels[2:25, 16, 12] = 30
    labels[5:9, 17:19, 12:14] = 31
    labels[20:23, 3:6, 14:17] = 32
    return labels


def strided_chain() -> nn.Module:
    """Return a network without skip connections that halves the grid and doubles it."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv3d(2, 4, 4, stride=2, padding=1),
        nn.PReLU(),
        nn.ConvTranspose3d(4, 2, 4, stride=2, padding=1),
    )
    return chain.double().eval()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("engine", ["pruned", "crop"])
@pytest.mark.parametrize(
    "build",
    [lambda: random_unet((2, 3, 3), (2, 2), num_res_units=1), strided_chain],
    ids=["U-Net", "chain"],
)
def test_any_place_and_shape_is_exact(
    build: Callable[[], nn.Module], engine: str, aggregation: str
) -> None:
    network, labels = build(), places_of_lesions()
    image = small_image(tuple(labels.shape))
    options = {"aggregation": aggregation, "n_samples": 1, "target": "logodds"}
    found = explain(network, image, labels, engine=engine, **options)
    expected = explain(network, image, labels, engine="whole", **options)
    assert len(found) == 21
    for one, other in zip(found, expected, strict=True):
        assert_near(one.dense(labels.shape), other.values)


WINDOWED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "DynUNet": (
        lambda: DynUNet(
            3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 4], norm_name="instance"
        ),
        (12, 8, 16),
    ),
    "SwinUNETR": (
        lambda: SwinUNETR(in_channels=2, out_channels=2, feature_size=12, depths=(1, 1, 1, 1)),
        (32, 32, 64),
    ),
}


@pytest.mark.parametrize(
    ("name", "aggregation"), [("DynUNet", "mean"), ("DynUNet", "max"), ("SwinUNETR", "mean")]
)
def test_windows_are_differentiated_through_their_blend(name: str, aggregation: str) -> None:
    build, window = WINDOWED[name]
    torch.manual_seed(0)
    network = build().double().eval().requires_grad_(requires_grad=False)
    # Along the first axis the image is smaller than a window.
    shape = (9, 20, 21) if name == "DynUNet" else (20, 32, 70)
    image, labels = small_image(shape), torch.zeros(shape, dtype=torch.int32)
    labels[4:6, 7:9, 11], labels[0, 0, shape[2] - 1] = 1, 2

    leaf = image.clone().requires_grad_()
    blend = sliding_window_inference(leaf[None], window, 1, network, 0.25, "gaussian")[0]
    options = {"method": "gradient", "aggregation": aggregation, "target": "probability"}
    for found in explain(network, image, labels, window=window, **options):
        assert found.engine == "window"
        voxels = TARGETS["probability"](blend)[labels == found.lesion]
        rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in voxels]
        assert_near(found.dense(shape), brute_force(torch.stack(rows).numpy(), aggregation))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("signed", [False, True])
def test_grad_cam_of_a_lesion_is_its_formula(aggregation: str, target: str, signed: bool) -> None:
    network, image, labels = random_unet(), small_image(), three_lesions()
    layer = network.get_submodule("model.1.submodule.2.conv")
    options = {"aggregation": aggregation, "target": target, "signed": signed}
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        kept.append(output)

    leaf = image.clone().requires_grad_()
    with layer.register_forward_hook(keep):
        logits = logit_maps(network, leaf)
    activations = kept[0].detach()[0].numpy()
    assert activations.shape == (3, 6, 6, 4)
    named = {} if signed else {"layer": "model.1.submodule.2.conv"}
    for found in explain(network, method="gradcam++", **options, **named):
        voxels = TARGETS[target](logits)[labels == found.lesion]
        rows = [torch.autograd.grad(one, kept[0], retain_graph=True)[0][0] for one in voxels]
        gradient = brute_force(torch.stack(rows).numpy(), aggregation)
        low = np.zeros(activations.shape[1:])
        for a, g in zip(activations, gradient, strict=True):
            low += (g**2 / (2 * g**2 + (a * g**3).sum()) * np.maximum(g, 0)).sum() * a
        if not signed:
            low = np.maximum(low, 0)
        high = functional.interpolate(
            torch.from_numpy(low)[None, None], scale_factor=2, mode="trilinear"
        )
        assert_near(found.dense(SHAPE), high[0, :, :9, :10, :7])
        assert found.values.shape == (1, *SHAPE)


def test_grad_cam_leaves_the_network_as_it_was() -> None:
    network, image = random_unet(), small_image()
    before = logit_maps(network, image)
    explain(network, method="gradcam++")
    assert not network.get_submodule("model.1.submodule.2.conv")._forward_hooks
    assert torch.equal(logit_maps(network, image), before)


def test_agrees_with_monai() -> None:
    """MONAI's gradient is that of a score, with our noise in its input."""

    class Score(nn.Module):
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.network, self.mask = random_unet(), mask

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack(
                [logit_maps(self.network, one)[1][self.mask].sum() for one in images]
            )[:, None]

    image, labels = small_image(), three_lesions()
    for found in explain(random_unet(), aggregation="sum"):
        gradient = VanillaGrad(Score(labels == found.lesion))
        samples = [gradient(noisy(image, i)[None].detach(), index=0)[0] for i in range(3)]
        assert_near(found.dense(SHAPE), torch.stack(samples).mean(0), 1e-12)


def test_a_lesion_stops_when_its_peak_is_known_well_enough() -> None:
    network, allowed = random_unet(), 0.02
    stopped = explain(network, n_samples=400, target_error=allowed, n_threads=3)
    counts = [found.n_samples for found in stopped]
    assert FEWEST_SAMPLES < max(counts) < 400
    for i, found in enumerate(stopped):
        (exact,) = explain(network, labels=only(found.lesion), n_samples=counts[i])
        assert_same_bits(found, exact)
        for count in (counts[i] - 1, counts[i]):
            (one,) = explain(network, labels=only(found.lesion), n_samples=count)
            peak = one.values.abs().argmax()
            share = one.standard_error.flatten()[peak] / one.values.flatten()[peak].abs()
            assert (share <= allowed) == (count == counts[i]) or count < FEWEST_SAMPLES


def only(lesion: int) -> torch.Tensor:
    labels = three_lesions()
    return torch.where(labels == lesion, labels, 0)


def test_an_error_that_is_not_reached_takes_all_samples() -> None:
    bounded = explain(random_unet(), n_samples=7, target_error=1e-9)
    for found, expected in zip(bounded, explain(random_unet(), n_samples=7), strict=True):
        assert_same_bits(found, expected)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_the_memory_that_is_allowed_changes_no_bit(aggregation: str) -> None:
    options = {"aggregation": aggregation, "n_threads": 4}
    some = explain(random_unet().float(), small_image().float(), memory_gb=1e-9, **options)
    much = explain(random_unet().float(), small_image().float(), memory_gb=100, **options)
    for found, expected in zip(some, much, strict=True):
        assert_same_bits(found, expected)


@pytest.mark.parametrize("aggregation", ["max", "rms"])
def test_a_device_without_memory_takes_fewer_gradients_at_a_time(
    aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[2:5, 3:7, 2:5] = 1
    (expected,) = explain(random_unet(), labels=labels, aggregation=aggregation)
    pulled: list[int] = []
    forward = Level.forward

    def small(self: Level, piece: Piece, box: Box) -> tuple[Piece, PullBatch]:
        output, pull = forward(self, piece, box)

        def pull_few(gradients: Piece) -> Iterator[Piece]:
            pulled.append(len(gradients.values))
            if len(gradients.values) > 3:
                message = "as CUDA says it"
                raise torch.OutOfMemoryError(message)
            return pull(gradients)

        return output, pull_few

    monkeypatch.setattr(Level, "forward", small)
    (found,) = explain(random_unet(), labels=labels, aggregation=aggregation)
    assert max(pulled) > 3
    assert_near(found.values, expected.values, 1e-13)
    assert_near(found.standard_error, expected.standard_error, 1e-11)


def test_progress_grows_from_sample_to_sample_to_all() -> None:
    told: list[Progress] = []
    explain(random_unet(), progress=told.append)
    assert [(one.lesion, one.sample) for one in told] == [
        (lesion, sample) for lesion in (1, 2, 3) for sample in (1, 2, 3)
    ]
    assert [one.n_done for one in told] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    shares = [one.share for one in told]
    assert shares == sorted(set(shares))
    assert shares[-1] == pytest.approx(1)


def test_progress_ends_at_all_where_lesions_stop_early() -> None:
    told: list[Progress] = []
    explain(random_unet(), n_samples=400, target_error=0.5, progress=told.append)
    assert told[-1].sample < 400
    assert (told[-1].n_done, told[-1].share) == (3, pytest.approx(1))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_changes_nothing(method: str, inside: bool) -> None:
    network = random_unet()
    expected = explain(network, method=method)
    with torch.inference_mode():
        image = small_image() * 1
        found = explain(network, image, method=method) if inside else []
    found = found or explain(network, image, method=method, engine="crop")
    for one, other in zip(found, expected, strict=True):
        assert_near(one.dense(SHAPE), other.dense(SHAPE))


def test_the_published_arguments_are_those_of_the_paper() -> None:
    image = small_image().float()
    image[0, 0, 0, 0], image[1, 0, 0, 0] = 9, 100
    sigma = 0.05 * float(image[0].max() - image[0].min())
    arguments = published(image)
    assert arguments.pop("sigma") == pytest.approx((sigma, sigma))
    assert arguments == {
        "method": "smoothgrad",
        "aggregation": "max",
        "target": "logit",
        "n_samples": 50,
    }


def test_needs_no_dataset_and_no_pipeline() -> None:
    code = (
        "import sys, bids_lesion_xai.explain as explain\n"
        "assert 'torch' not in sys.modules\n"
        "explain.explain_lesions\n"
        "loaded = {'bids', 'nipype', 'ants'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=900)


def odd_networks() -> dict[str, nn.Module]:
    """Return networks that are not what explain_lesions takes."""
    conv = nn.Conv3d(2, 2, 3, stride=2, padding=1)
    return {
        "one class": nn.Sequential(nn.Conv3d(2, 1, 1)),
        "another grid": nn.Sequential(conv),
        "no padding": nn.Sequential(nn.Conv3d(2, 2, 3)),
        "several outputs": nn.Flatten(),
    }


@pytest.mark.parametrize("name", odd_networks())
@pytest.mark.parametrize("engine", ["auto", "whole"])
def test_a_network_that_gives_something_else_is_refused(name: str, engine: str) -> None:
    network = odd_networks()[name].double().eval()
    with pytest.raises(UsageError, match=r"expected|does not take"):
        explain(network, engine=engine)
