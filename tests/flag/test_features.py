# SPDX-License-Identifier: Apache-2.0
"""Features of the flag."""

from __future__ import annotations

import numpy as np
import pytest

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.flag.features import FEATURES, SALIENCY, SETS, columns_of, feature_values
from tests.flag.cohorts import simulate

SCALED = ("peak", "mean_", "positive_", "negative_")


def test_values_by_hand() -> None:
    table = simulate(1, 4).head(1)
    numbers = {"volume_mm3": np.e**2, "mean_probability": 0.5, "peak_probability": 0.75}
    numbers |= {"flair_peak": -2.0, "flair_mean_inside": 0.5, "flair_mean_shell_3mm": -0.2}
    numbers |= {"flair_positive_inside": 3.0, "flair_negative_inside": -1.0}
    numbers |= {"flair_positive_outside": 1.0, "flair_negative_outside": -3.0}
    numbers |= {"flair_distance_90_mm": 3.0}
    expected = {"log_volume": 2, "mean_log_odds": 0, "peak_log_odds": np.log(3)}
    expected |= {"flair_inside": 0.25, "flair_shell_3mm": -0.1, "flair_balance_inside": 0.5}
    expected |= {"flair_outside_part": 0.5, "flair_log_distance_90": np.log(4)}
    values = feature_values(table.assign(**numbers), list(expected))
    np.testing.assert_allclose(values[0], list(expected.values()))


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_no_feature_knows_the_scale_of_the_logits(factor: float) -> None:
    table = simulate(2)
    columns = [c for c in table if c.partition("_")[2].startswith(SCALED)]
    columns = [column for column in columns if column.startswith(("flair_", "t1w_"))]
    assert len(columns) == 22
    scaled = table.assign(**{column: table[column] * factor for column in columns})
    before, after = (feature_values(one, SETS[SALIENCY]) for one in (table, scaled))
    np.testing.assert_allclose(after, before, rtol=1e-12)


def test_a_lesion_without_saliency_has_missing_features_and_those_of_the_baseline() -> None:
    table = simulate(1).head(3)
    nothing = {c: 0.0 for c in table if c.startswith(("flair_", "t1w_"))}
    undefined = {c: np.nan for c in nothing if c.endswith(("share", "balance", "compactness"))}
    values = feature_values(table.assign(**(nothing | undefined)), SETS[SALIENCY])
    known = np.isfinite(values).all(axis=0)
    names = [name for name, finite in zip(SETS[SALIENCY], known, strict=True) if finite]
    assert [name for name in names if "distance" not in name] == list(SETS["baseline"])
    assert not np.isinf(values).any()


def test_probabilities_of_0_and_1_have_finite_log_odds() -> None:
    table = simulate(1).head(2).assign(mean_probability=[0.0, 1.0])
    values = feature_values(table, ["mean_log_odds"])
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(-values[1])


def test_every_column_is_one_of_the_group_table() -> None:
    new = {c for c in columns_of(FEATURES) if c.endswith(("balance", "compactness"))}
    new |= {c for c in columns_of(FEATURES) if "_distance_" in c}
    assert set(columns_of(FEATURES)) - new <= set(DERIVATIVES["group_lesions"].columns)


def test_a_missing_column_is_named() -> None:
    table = simulate(1).drop(columns="t1w_compactness")
    with pytest.raises(DataError, match="lacks the columns t1w_compactness"):
        feature_values(table, SETS[SALIENCY])


def test_a_column_of_words_is_named() -> None:
    table = simulate(1).assign(volume_mm3="large")
    with pytest.raises(DataError, match=r"volume_mm3 .* something else than numbers"):
        feature_values(table, ["log_volume"])
