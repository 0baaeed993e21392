# SPDX-License-Identifier: Apache-2.0
"""Numbers of a saliency map against loops, with distances of every pair of voxels."""

from __future__ import annotations

from itertools import product
from math import ceil, fsum, isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.explain import Attribution, explain_lesions
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.reductions import channel_shares
from bids_lesion_xai.explain.summary import (
    LesionMap,
    channel_numbers,
    distance_mm,
    lesion_map,
    lesion_numbers,
    nearest_lesion,
    radial_profile,
)
from tests.explain.experiments.known import ball_network, flair_only, small_scan
from tests.networks import random_unet

# Shells of 1, 2, 3, 5 and 10 mm all hold voxels, and the last is cut off by the faces.
SHAPE = (17, 13, 9)
SPACING_MM = (0.7, 1.1, 2.3)
# What a shell reaches beyond its lesion, and so beyond a narrow map.
NARROW, WIDE, FACE, CORNER = 1, 2, 3, 4


@pytest.fixture
def labels() -> NDArray[np.int32]:
    labels = np.zeros(SHAPE, np.int32)
    labels[7:10, 5:7, 4] = labels[7, 5, 3:5] = NARROW
    labels[3, 3, 2] = WIDE
    labels[5:7, 12, 6:8] = FACE
    labels[16, 0, 8] = labels[15, 0, 8] = labels[16, 1, 8] = CORNER
    return labels


# Where the map of each lesion lies: its voxels and some, as a network needs them.
BOXES = {
    NARROW: Box((6, 5, 3), (11, 8, 6)),
    WIDE: Box((0, 0, 0), SHAPE),
    FACE: Box((2, 9, 4), (9, 13, 9)),
    CORNER: Box((11, 0, 6), (17, 4, 9)),
}


def attribution(lesion: int, labels: NDArray[np.int32], n_samples: int = 5) -> Attribution:
    """Return a mean of random maps with its errors, as SmoothGrad gives them."""
    generator = torch.Generator().manual_seed(lesion)
    box = BOXES[lesion]
    samples = torch.randn(n_samples, 2, *box.shape, generator=generator)
    error = samples.std(0, correction=min(1, n_samples - 1)) / sqrt(n_samples)
    inside = torch.from_numpy(labels[box.slices((0, 0, 0))] == lesion)
    means = samples[:, :, inside].double().mean(2)
    return Attribution(
        lesion=lesion,
        values=samples.mean(0),
        offset=box.start,
        standard_error=error if n_samples > 1 else error * nan,
        inside_error=means.std(0) / sqrt(n_samples) if n_samples > 1 else means[0] * nan,
        share_error=torch.full((2,), 0.01 if n_samples > 1 else nan, dtype=torch.float64),
        n_samples=n_samples,
        engine="pruned",
    )


def numbers_of(
    of_lesion: Attribution,
    labels: NDArray[np.int32],
    spacing_mm: tuple[float, ...] = SPACING_MM,
) -> dict[str, float]:
    return lesion_numbers(of_lesion, lesion_map(of_lesion, labels, spacing_mm))


def distances_by_pairs(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance of every voxel to the nearest True one, from all pairs of voxels."""
    places = np.argwhere(np.ones(SHAPE, bool)) * SPACING_MM
    lesion = np.argwhere(mask) * SPACING_MM
    squares = ((places[:, None] - lesion[None]) ** 2).sum(-1)
    return np.sqrt(squares.min(1)).reshape(SHAPE)


def numbers_by_loop(
    values: NDArray[np.floating],
    error: NDArray[np.floating],
    distance: NDArray[np.float64],
    inside_error: float,
) -> dict[str, float]:
    peak, peak_se = 0.0, nan
    groups: dict[str, list[float]] = {"inside": [], "outside": []}
    groups |= {f"shell_{outer}mm": [] for outer in (1, 2, 3, 5, 10)}
    masses: list[tuple[float, float, NDArray[np.float64]]] = []
    for voxel in np.ndindex(values.shape):
        value, far = float(values[voxel]), float(distance[voxel])
        if abs(value) > abs(peak):
            peak, peak_se = value, float(error[voxel])
        groups["inside" if far == 0 else "outside"].append(value)
        masses.append((far, abs(value), np.array(voxel) * SPACING_MM))
        for inner, outer in ((0, 1), (1, 2), (2, 3), (3, 5), (5, 10)):
            if inner < far <= outer:
                groups[f"shell_{outer}mm"].append(value)
    return {
        "peak": peak,
        "peak_se": peak_se,
        "mean_inside": fsum(groups["inside"]) / len(groups["inside"]),
        "mean_inside_se": inside_error,
        **{
            f"mean_{name}": fsum(group) / len(group) if group else nan
            for name, group in groups.items()
            if name.startswith("shell")
        },
        **{
            f"{sign}_{side}": fsum(value for value in groups[side] if value * factor > 0)
            for side in ("inside", "outside")
            for sign, factor in (("positive", 1), ("negative", -1))
        },
        **{f"distance_{p}_mm": distance_of_share(masses, p / 100) for p in (50, 90, 95)},
        "sign_balance": fsum(value for group in ("inside", "outside") for value in groups[group])
        / fsum(mass for _, mass, _ in masses),
        "compactness": gyration([(float(far == 0), place) for far, _, place in masses])
        / gyration([(mass, place) for _, mass, place in masses]),
    }


def distance_of_share(masses: list[tuple[float, float, Any]], share: float) -> float:
    total = fsum(mass for _, mass, _ in masses)
    for far in sorted({far for far, _, _ in masses}):
        if fsum(mass for other, mass, _ in masses if other <= far) >= share * total:
            return far
    raise AssertionError


def gyration(masses: list[tuple[float, NDArray[np.float64]]]) -> float:
    """Return the radius of gyration from the distances of all pairs of places."""
    weights = np.array([mass for mass, _ in masses])
    places = np.array([place for _, place in masses])[weights > 0]
    weights = weights[weights > 0] / weights.sum()
    squares = ((places[:, None] - places[None]) ** 2).sum(-1)
    return float(np.sqrt(weights @ squares @ weights / 2))


def test_distances_are_those_of_all_pairs(labels: NDArray[np.int32]) -> None:
    for lesion in BOXES:
        found = distance_mm(labels == lesion, SPACING_MM)
        np.testing.assert_allclose(
            found, distances_by_pairs(labels == lesion), rtol=0, atol=5.1e-5
        )


@pytest.mark.parametrize("lesion", BOXES)
def test_every_number_is_that_of_a_loop_over_the_whole_grid(
    labels: NDArray[np.int32], lesion: int
) -> None:
    of_lesion = attribution(lesion, labels)
    found = numbers_of(of_lesion, labels)
    distance = distances_by_pairs(labels == lesion)
    assert np.abs(distance - distance_mm(labels == lesion, SPACING_MM)).max() < 5.1e-5
    distance = distance_mm(labels == lesion, SPACING_MM)
    # A shell that ends at a voxel's very centre is a matter of rounding.
    assert np.abs(distance[..., None] - SHELLS_MM).min() > 1e-9
    values = of_lesion.dense(SHAPE).double().numpy()
    error = np.zeros((2, *SHAPE))
    error[(slice(None), *of_lesion.box.slices((0, 0, 0)))] = of_lesion.standard_error
    expected: dict[str, float] = {"n_samples": 5, "flair_share": share(values)}
    expected["flair_share_se"] = 0.01
    for i, channel in enumerate(("flair", "t1w")):
        of_channel = numbers_by_loop(
            values[i], error[i], distance, float(of_lesion.inside_error[i])
        )
        expected |= {f"{channel}_{key}": value for key, value in of_channel.items()}
    assert not any(isnan(value) for value in expected.values())
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def share(values: NDArray[np.floating]) -> float:
    flair, t1w = (fsum(map(abs, part.ravel().tolist())) for part in values)
    return flair / (flair + t1w)


def test_the_keys_are_the_columns_of_the_table_of_outputs_in_order(
    labels: NDArray[np.int32],
) -> None:
    found = numbers_of(attribution(WIDE, labels), labels)
    assert ["index", "name", *found] == list(DERIVATIVES["saliency_table"].columns)


@pytest.mark.parametrize("lesion", BOXES)
def test_other_lesions_do_not_change_the_numbers_of_a_lesion(
    labels: NDArray[np.int32], lesion: int
) -> None:
    of_lesion = attribution(lesion, labels)
    alone = np.where(labels == lesion, labels, 0)
    expected = numbers_of(of_lesion, alone)
    assert numbers_of(of_lesion, labels) == expected


@pytest.mark.parametrize("lesion", BOXES)
def test_sums_and_means_state_the_same_map(labels: NDArray[np.int32], lesion: int) -> None:
    of_lesion = attribution(lesion, labels)
    found = numbers_of(of_lesion, labels)
    distance = distance_mm(labels == lesion, SPACING_MM)
    for channel, values in zip(CHANNELS, of_lesion.dense(SHAPE).double().numpy(), strict=True):
        inside = found[f"{channel}_positive_inside"] + found[f"{channel}_negative_inside"]
        n_inside = np.count_nonzero(labels == lesion)
        assert inside == pytest.approx(n_inside * found[f"{channel}_mean_inside"], rel=1e-9)
        outside = found[f"{channel}_positive_outside"] + found[f"{channel}_negative_outside"]
        assert inside + outside == pytest.approx(values.sum(), rel=1e-6)
        in_shells = sum(
            found[f"{channel}_mean_shell_{outer}mm"]
            * np.count_nonzero((distance > inner) & (distance <= outer))
            for inner, outer in zip((0, *SHELLS_MM), SHELLS_MM, strict=False)
        )
        assert in_shells + values[distance > 10].sum() == pytest.approx(outside, rel=1e-6)
        for side in ("inside", "outside"):
            assert found[f"{channel}_positive_{side}"] >= 0 >= found[f"{channel}_negative_{side}"]
        assert abs(found[f"{channel}_peak"]) == np.abs(values).max()


@pytest.mark.parametrize("factor", [0.0, 1e-3, 1.0, 1e3])
def test_the_shares_of_both_channels_lie_between_0_and_1_and_sum_to_1(factor: float) -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 6, 7))
    values[0] *= factor
    flair, t1w = channel_shares(torch.from_numpy(values)).tolist()
    assert 0 <= flair < 1
    assert flair + t1w == pytest.approx(1)
    assert flair == pytest.approx(share(values), rel=1e-12)


def test_a_map_of_zeros_has_no_share(labels: NDArray[np.int32]) -> None:
    assert torch.isnan(channel_shares(torch.zeros(2, 3, 3, 3))).all()
    of_lesion = attribution(NARROW, labels)
    of_lesion.values.zero_()
    found = numbers_of(of_lesion, labels)
    shapes = ("distance_50_mm", "distance_90_mm", "distance_95_mm", "sign_balance", "compactness")
    missing = {f"{channel}_{key}" for channel in CHANNELS for key in shapes}
    assert {key for key, value in found.items() if isnan(value)} == {"flair_share", *missing}
    assert found["flair_peak"] == found["t1w_mean_shell_1mm"] == 0


def test_the_peak_is_the_first_of_equals_in_c_order() -> None:
    values, error = np.zeros((2, 4, 4, 4))
    values[1, 2, 3], values[2, 0, 0], values[2, 1, 1] = -2, 2, 1
    error[1, 2, 3], error[2, 0, 0] = 0.5, 0.25
    distance = np.arange(64.0).reshape(4, 4, 4)
    of_lesion = LesionMap(values[None], error[None], distance, distance, (1.0, 1.0, 1.0))
    found = channel_numbers(of_lesion, 0, 0.1)
    assert (found["peak"], found["peak_se"]) == (-2, 0.5)


def test_a_shell_without_voxels_has_no_mean(labels: NDArray[np.int32]) -> None:
    alone = attribution(WIDE, labels)
    found = numbers_of(alone, labels, (4.0, 4.0, 4.0))
    missing = {key for key, value in found.items() if isnan(value)}
    shells = {f"mean_shell_{mm}mm" for mm in (1, 2, 3)}
    assert missing == {f"{channel}_{shell}" for channel in CHANNELS for shell in shells}


def test_a_single_sample_has_no_standard_error(labels: NDArray[np.int32]) -> None:
    of_lesion = attribution(NARROW, labels, n_samples=1)
    found = numbers_of(of_lesion, labels)
    missing = {key for key, value in found.items() if isnan(value)}
    expected = {f"{channel}_{key}_se" for channel in CHANNELS for key in ("peak", "mean_inside")}
    assert missing == expected | {"flair_share_se"}
    assert found["n_samples"] == 1


@pytest.mark.parametrize("lesion", BOXES)
def test_the_profile_is_that_of_a_loop_over_the_whole_grid(
    labels: NDArray[np.int32], lesion: int
) -> None:
    of_lesion = attribution(lesion, labels)
    inside = labels == lesion
    signed = np.where(inside, -distances_by_pairs(~inside), distances_by_pairs(inside)).round(4)
    values = of_lesion.dense(SHAPE).double().numpy()
    expected: dict[tuple[str, float, float], list[float]] = {}
    for (i, channel), *voxel in product(enumerate(CHANNELS), *map(range, SHAPE)):
        distance = float(signed[tuple(voxel)])
        far = 0.5 * ceil(abs(distance) / 0.5)
        if far <= 15:
            sign = -1 if distance < 0 else 1
            key = (channel, sign * (far - 0.5), sign * far)
            expected.setdefault(key, []).append(float(values[(i, *voxel)]))
    found = list(radial_profile(lesion_map(of_lesion, labels, SPACING_MM)))
    assert [row["far_mm"] for row in found] == sorted(row["far_mm"] for row in found)
    assert {(row["channel"], row["near_mm"], row["far_mm"]) for row in found} == set(expected)
    assert len(found) == len(expected)
    for row in found:
        group = expected[row["channel"], row["near_mm"], row["far_mm"]]
        assert row["n_voxels"] == len(group)
        assert row["mean"] == pytest.approx(fsum(group) / len(group), rel=1e-9, abs=1e-12)
        for sign, key in ((1, "positive"), (-1, "negative")):
            total = fsum(value for value in group if sign * value > 0)
            assert row[key] == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_saliency_spread_like_the_lesion_has_compactness_1_and_lies_within_0_mm(
    labels: NDArray[np.int32],
) -> None:
    of_lesion = attribution(NARROW, labels)
    inside = torch.from_numpy(labels[of_lesion.box.slices((0, 0, 0))] == NARROW)
    of_lesion.values.copy_(-3.0 * inside)
    found = numbers_of(of_lesion, labels)
    for channel in CHANNELS:
        assert found[f"{channel}_compactness"] == pytest.approx(1)
        assert found[f"{channel}_distance_95_mm"] == 0
        assert found[f"{channel}_sign_balance"] == pytest.approx(-1)


def test_the_nearest_lesion_is_one_at_the_least_distance_of_all(labels: NDArray[np.int32]) -> None:
    found = nearest_lesion(labels, SPACING_MM)
    distances = np.stack([distances_by_pairs(labels == lesion) for lesion in BOXES])
    of_found = np.take_along_axis(distances, found[None].astype(int) - 1, 0)[0]
    np.testing.assert_allclose(of_found, distances.min(0), atol=1e-12)
    np.testing.assert_array_equal(found[labels > 0], labels[labels > 0])
    assert set(np.unique(found)) == set(BOXES)


# NIfTI stores affines as float32.
def test_a_rounded_affine_moves_no_voxel_to_another_shell(labels: NDArray[np.int32]) -> None:
    of_lesion = attribution(NARROW, labels)
    expected = numbers_of(of_lesion, labels, (1.0, 1.0, 1.0))
    for spacing_mm in ((1 + 3e-8, 1 - 2e-8, 1 + 1e-8), (1 - 6e-8, 1 + 6e-8, 1.0)):
        found = numbers_of(of_lesion, labels, spacing_mm)
        assert found == pytest.approx(expected, rel=1e-7)


def test_a_network_that_looks_only_at_flair_has_a_flair_share_of_1() -> None:
    scan = small_scan()
    network = flair_only(random_unet())
    labels = scan.labels.numpy()
    for of_lesion in explain_lesions(network, scan.image, scan.labels, n_samples=3):
        found = lesion_numbers(of_lesion, lesion_map(of_lesion, labels, scan.spacing_mm))
        assert found["flair_share"] == 1
        assert found["flair_share_se"] == pytest.approx(0, abs=1e-12)
        assert found["flair_peak"] != 0
        of_t1w = {key: value for key, value in found.items() if key.startswith("t1w")}
        assert not any(value for value in of_t1w.values() if not isnan(value))


def test_saliency_of_a_network_that_needs_4_mm_lies_within_4_mm() -> None:
    labels = np.zeros((17, 15, 13), np.int32)
    labels[8, 7, 6] = 1
    spacing_mm = (0.7, 1.1, 1.5)
    image = torch.ones(2, *labels.shape, dtype=torch.float64)
    network = ball_network(4.0, spacing_mm)
    (of_lesion,) = explain_lesions(network, image, torch.from_numpy(labels), n_samples=2)
    of_map = lesion_map(of_lesion, labels, spacing_mm)
    # Every voxel of the ball weighs the same.
    steps = (np.argwhere(np.ones(labels.shape)) - (8, 7, 6)) * spacing_mm
    distances = np.sort(np.linalg.norm(steps, axis=1))
    distances = distances[distances <= 4]
    assert distances.size > 100
    found = lesion_numbers(of_lesion, of_map)
    for percent in (50, 90, 95):
        expected = distances[ceil(percent / 100 * distances.size) - 1]
        assert found[f"flair_distance_{percent}_mm"] == pytest.approx(expected, abs=1e-4)
    assert 3.9 < found["flair_distance_95_mm"] <= 4
    assert found["flair_mean_inside"] == pytest.approx(40)
    assert found["flair_negative_outside"] == 0
    for row in radial_profile(of_map):
        is_seen = row["channel"] == "flair" and row["far_mm"] <= 4
        assert row["mean"] == pytest.approx(40 if is_seen else 0)
