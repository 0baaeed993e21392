# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad of single lesions, against closed forms, brute force and Captum."""

from __future__ import annotations

import threading
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.smoothgrad import Attribution, explain_lesions
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
    defaults = {"n_samples": 3, "sigma": SIGMA, "multiple": MULTIPLE, "visit": "sub-01"}
    return list(explain_lesions(network, image, labels, **{**defaults, **options}))


def noisy(image: torch.Tensor, sample: int, seed: int = 0, visit: str = "sub-01") -> torch.Tensor:
    """Return `image` with the noise of one sample on the whole volume."""
    box = Box((0, 0, 0), tuple(image.shape[1:]))
    noise = torch.from_numpy(NoiseField(seed, visit).draw(sample, 2, box)).to(image)
    return image + image.new_tensor(SIGMA)[:, None, None, None] * noise


def logit_map(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the lesion logits on the whole volume, padded as for the prediction."""
    after = [n for side in reversed(image.shape[1:]) for n in (0, -side % MULTIPLE)]
    x, y, z = image.shape[1:]
    return network(functional.pad(image, after)[None])[0, 1, :x, :y, :z]


def voxel_gradients(
    network: nn.Module, image: torch.Tensor, mask: torch.Tensor
) -> np.ndarray[Any, Any]:
    """Return the gradients, shape (voxels, C, X, Y, Z), of one logit each, in C order."""
    image = image.clone().requires_grad_()
    logits = logit_map(network, image)[mask]
    rows = [torch.autograd.grad(logit, image, retain_graph=True)[0] for logit in logits]
    return torch.stack(rows).numpy()


def brute_force(gradients: np.ndarray[Any, Any], aggregation: str) -> np.ndarray[Any, Any]:
    if aggregation == "max":
        first_largest = np.abs(gradients).argmax(0)[None]
        return np.take_along_axis(gradients, first_largest, 0)[0]
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
    np.testing.assert_array_equal(found.inside, expected.inside)


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
    for found in explain(network, sigma=sigma, multiple=1, engine=engine):
        mask = (labels == found.lesion).double()
        spread = functional.conv_transpose3d(
            (mask / mask.sum())[None, None], network[0].weight[1:], padding=2
        )
        assert_near(found.dense(SHAPE), spread[0], 1e-14)
        # Equal gradients differ by rounding at most.
        assert found.standard_error.max() < 1e-14


@pytest.mark.parametrize("aggregation", ["mean", "sum", "max"])
@pytest.mark.parametrize("engine", ["pruned", "whole"])
def test_equals_brute_force_over_the_voxels(aggregation: str, engine: str) -> None:
    network, image, labels = random_unet(), small_image(), three_lesions()
    negative_winners = 0
    for found in explain(network, aggregation=aggregation, engine=engine):
        mask = labels == found.lesion
        samples = np.stack(
            [
                brute_force(voxel_gradients(network, noisy(image, i), mask), aggregation)
                for i in range(3)
            ]
        )
        assert_near(found.dense(SHAPE), samples.mean(0))
        part = (..., *found.box.slices((0, 0, 0)))
        assert_near(found.standard_error, samples[part].std(0, ddof=1) / np.sqrt(3))
        assert_near(found.inside, samples[:, :, mask.numpy()].mean(2))
        negative_winners += int((samples < 0).sum())
    assert negative_winners > 100


def test_the_largest_magnitude_is_of_the_first_voxel_in_c_order_if_two_are_equal() -> None:
    # The logit of voxel v is x[v - 1] - x[v + 1]: the voxel between two is seen by both.
    network = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1, bias=False)).double().eval()
    nn.init.zeros_(network[0].weight)
    with torch.no_grad():
        network[0].weight[1, 0, 0, 1, 1], network[0].weight[1, 0, 2, 1, 1] = 1, -1
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[3, 5, 5] = labels[5, 5, 5] = 1
    (found,) = explain(network, labels=labels, aggregation="max", multiple=1)
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
        random_unet(), small_image(), three_lesions(), sigma=SIGMA, multiple=MULTIPLE, n_threads=2
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
    (found,) = explain(Quadratic().eval(), labels=labels, n_samples=n_samples, multiple=1)
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


@pytest.mark.parametrize("aggregation", ["mean", "sum", "max"])
def test_engines_agree_on_an_odd_volume(aggregation: str) -> None:
    network = random_unet((2, 3, 4), (2, 2), num_res_units=1)
    pruned = explain(network, aggregation=aggregation, engine="pruned")
    whole = explain(network, aggregation=aggregation, engine="whole")
    for one, other in zip(pruned, whole, strict=True):
        assert other.offset == (0, 0, 0)
        assert_near(one.dense(SHAPE), other.dense(SHAPE))
        assert_near(one.inside, other.inside)


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
        assert found.inside.shape == (1, 2)


def test_float32_is_close_to_float64() -> None:
    exact = explain(random_unet())
    single = explain(random_unet().float(), small_image().float())
    for one, other in zip(exact, single, strict=True):
        assert other.values.dtype == torch.float32
        assert_near(other.values, one.values, 1e-5)
        assert_near(other.inside, one.inside, 1e-5)


def test_the_number_of_threads_changes_rounding_only() -> None:
    threads = torch.get_num_threads()
    try:
        maps = []
        for count in (1, 2):
            torch.set_num_threads(count)
            maps.append(explain(random_unet())[0].values)
    finally:
        torch.set_num_threads(threads)
    assert_near(maps[0], maps[1], 1e-12)


@pytest.mark.parametrize("n_samples", [0, 3])
def test_agrees_with_captum(n_samples: int) -> None:
    """Captum averages over the same noise; with no sample there is none."""
    network, image, labels = random_unet(), small_image(), three_lesions()
    noise = {"n_samples": n_samples} if n_samples else {"n_samples": 1, "sigma": (0, 0)}
    for found in explain(network, **noise):
        mask = labels == found.lesion

        def score(images: torch.Tensor, mask: torch.Tensor = mask) -> torch.Tensor:
            return torch.stack([logit_map(network, one)[mask].mean() for one in images])

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
        ({"sigma": (0.1,)}, UsageError, "2 channels"),
        ({"sigma": (0.1, -0.1)}, UsageError, "at least 0"),
        ({"sigma": (0.1, float("nan"))}, UsageError, "at least 0"),
        ({"engine": "fast"}, UsageError, "fast"),
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
