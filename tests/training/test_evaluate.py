# SPDX-License-Identifier: Apache-2.0
"""Figures of a network on labelled scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.lesions.label import reaching
from bids_lesion_xai.models.inference import Predictor
from bids_lesion_xai.training.evaluate import (
    Prediction,
    Setting,
    figures,
    fit,
    fit_on_others,
    predict,
    segment,
)
from bids_lesion_xai.training.results import by_person, write_results
from bids_lesion_xai.training.scans import LabelledScan
from tests.training.test_metrics import ONE_MM, SHAPE, mask


class FlairIsTheLogit(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert all(side % 16 == 0 for side in image.shape[2:])
        return torch.cat([torch.zeros_like(image[:, :1]), image[:, :1]], 1)


def scan(person: str = "a/sub-01", session: str = "02") -> LabelledScan:
    """Return a scan with two lesions of different certainty, and a bright voxel."""
    image = np.full((2, *SHAPE), -5, np.float32)
    image[0][mask((1, 4))] = 4  # probability 0.982
    image[0][mask((8, 12))] = 1  # probability 0.731
    image[0, 15, 4, 4] = 4  # below the minimum volume
    image[:, :, :2] = 0  # outside the brain
    return LabelledScan(person, session, image, mask((1, 4), (8, 12)), ONE_MM)


def prediction(person: str = "a/sub-01", session: str = "02") -> Prediction:
    predictor = Predictor(FlairIsTheLogit(), 16)
    (one,) = predict(predictor, [scan(person, session)], ["b/sub-07"])
    return one


@pytest.mark.parametrize(("threshold", "n_missed"), [(0.5, 0), (0.9, 1), (0.99, 2)])
def test_scans_are_segmented_as_the_app_does(threshold: float, n_missed: int) -> None:
    row, sizes = figures(prediction(), Setting(threshold))
    assert (row["person"], row["session"], row["trained_on"]) == ("a/sub-01", "02", ["b/sub-07"])
    assert (row["n_missed"], row["n_false_positive"]) == (n_missed, 0)
    assert sum(size["n_missed"] for size in sizes) == n_missed
    row, _ = figures(prediction(), Setting(0.5, min_volume_mm3=0))
    assert row["n_false_positive"] == 1


def test_a_temperature_moves_probabilities_and_no_lesion_at_half() -> None:
    one = prediction()
    assert np.array_equal(segment(one, Setting(0.5)), segment(one, Setting(0.5, 7.0)))
    # 1 / (1 + exp(-4 / 2)) is 0.881, 1 / (1 + exp(-1 / 2)) is 0.622.
    assert segment(one, Setting(0.88, 2.0)).sum() == 12
    assert segment(one, Setting(0.89, 2.0)).sum() == 0
    assert segment(one, Setting(0.62, 2.0)).sum() == 28


def test_a_lesion_that_does_not_reach_the_peak_is_dropped_and_the_others_stay_whole() -> None:
    one = prediction()
    every = segment(one, Setting(0.62, 2.0))
    sure = segment(one, Setting(0.62, 2.0, peak_threshold=0.88))
    assert np.array_equal(sure, reaching(every, one.log_odds, 4))
    assert 0 < sure.sum() < every.sum()
    assert not segment(one, Setting(0.62, 2.0, peak_threshold=0.89)).any()


@pytest.mark.parametrize("peak", [0.5, 0.9])
def test_the_temperature_moves_what_is_asked_of_peaks_with_it(peak: float) -> None:
    people = [prediction(f"a/sub-0{i}") for i in (1, 2)]
    setting = fit(people, peak)
    assert setting.temperature != 1
    odds = setting.temperature * special.logit(setting.peak_threshold)
    assert odds == pytest.approx(special.logit(peak), abs=0.02)


def test_nothing_is_found_outside_the_brain() -> None:
    one = prediction()
    assert (one.log_odds[:, :2] == -np.inf).all()
    assert np.isfinite(one.log_odds[:, 2:]).all()
    assert not segment(one, Setting(1e-6, 50.0))[:, :2].any()


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_in_the_brain_are_refused(logit: float) -> None:
    one = scan()
    one.image[0, 3, 5, 5] = logit
    predictor = Predictor(FlairIsTheLogit(), 16, name="broken")
    with pytest.raises(DataError, match=r"^a/sub-01 02: Model broken .*not finite in 1 of 2000 "):
        predict(predictor, [one])


def test_what_is_fitted_on_a_person_is_used_on_others_alone() -> None:
    people = [prediction(f"{site}/sub-0{i}") for site in "ab" for i in (1, 2)]
    default = Setting(0.123)
    groups = {one.scan.person: [one.scan.person] for one in people}
    settings = fit_on_others(people, groups, default, 0.9)
    for one in people:
        assert settings[one.scan.person] == fit(
            [other for other in people if other is not one], 0.9
        )
    sites = {"a": ["a/sub-01", "a/sub-02"], "b": ["b/sub-01", "b/sub-02"]}
    assert fit_on_others(people, sites, default, 0.9)["a/sub-01"] == fit(people[2:], 0.9)
    assert fit_on_others(people[:1], {"all": ["a/sub-01"]}, default, 0.9) == {"a/sub-01": default}


def test_the_threshold_that_is_fitted_finds_both_lesions() -> None:
    setting = fit([prediction()], 0.5)
    # The bright voxel is false, so certainty is lowered.
    assert setting.temperature > 0.1
    assert segment(prediction(), setting).sum() == 28


def test_one_person_whose_lesions_are_missed_does_not_decide_the_temperature() -> None:
    people = [prediction(f"a/sub-0{i}") for i in (1, 2, 3)]
    missed = replace(people[2], log_odds=-np.abs(people[2].log_odds))
    assert fit([missed], 0.5).temperature > 1.1 * fit(people, 0.5).temperature
    assert fit([*people[:2], missed], 0.5).temperature == fit(people, 0.5).temperature


def test_people_without_lesions_do_not_decide_the_temperature() -> None:
    patient = prediction("a/sub-01")
    healthy = [
        replace(one, scan=replace(one.scan, lesions=np.zeros(SHAPE, bool)), log_odds=odds)
        for one in (prediction("a/sub-02"), prediction("a/sub-03"))
        for odds in [np.minimum(one.log_odds, -4)]
    ]
    assert fit([patient, *healthy], 0.5).temperature == fit([patient], 0.5).temperature
    setting = fit(healthy, 0.5)
    assert setting.temperature == 1
    assert 0 < setting.threshold < 1


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_threshold_never_becomes_that_of_nothing_or_everything(sign: int) -> None:
    one = prediction()
    sure = replace(one, log_odds=100 * sign * np.where(one.scan.lesions, 1, -1.0))
    assert 0.001 <= fit([sure], 0.5).threshold <= 0.999


def test_sessions_are_averaged_before_people() -> None:
    rows = []
    for person, session, dice in (("a", "1", 0.2), ("a", "2", 0.4), ("b", "", 0.9)):
        row, _ = figures(prediction(person, session), Setting(0.5))
        rows.append({**row, "dice": dice})
    table = by_person(rows).set_index("person")
    assert table["dice"].to_dict() == pytest.approx({"a": 0.3, "b": 0.9, "mean": 0.6})


def test_figures_that_a_bundle_of_an_earlier_version_lacks_are_left_out() -> None:
    row, _ = figures(prediction(), Setting(0.5))
    columns = list(by_person([row]))
    del row["tpr_iou25"], row["fdr_iou25"]
    found = list(by_person([row]))
    assert found == [name for name in columns if name not in ("tpr_iou25", "fdr_iou25")]


def test_tables_and_figure_are_written(tmp_path: Path) -> None:
    predictions = [prediction("a/sub-01"), prediction("b/sub-02", "")]
    free = [prediction("synthetic/sub-0001", "")]
    settings = {one.scan.person: Setting(0.6, 1.5) for one in predictions + free}
    rows = write_results(tmp_path, predictions, free, settings)
    assert [row["person"] for row in rows] == ["a/sub-01", "b/sub-02", "synthetic/sub-0001"]
    scans = pd.read_csv(tmp_path / "scans.tsv", sep="\t")
    assert scans["dice"].tolist() == pytest.approx([row["dice"] for row in rows[:2]])
    assert list(pd.read_csv(tmp_path / "people.tsv", sep="\t")["person"])[-1] == "mean"
    assert len(pd.read_csv(tmp_path / "lesion_sizes.tsv", sep="\t")) == 8
    assert set(pd.read_csv(tmp_path / "reliability.tsv", sep="\t")["log_odds"]) == {
        "raw",
        "scaled",
    }
    assert list(pd.read_csv(tmp_path / "lesion_free.tsv", sep="\t")["person"]) == [
        "synthetic/sub-0001"
    ]
    assert (tmp_path / "evaluation.png").stat().st_size > 10_000
