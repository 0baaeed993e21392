# SPDX-License-Identifier: Apache-2.0
"""Visits that stand out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bids_lesion_xai.reports.outliers import LEAST_VISITS, MEASURES, find_outliers


def visits(n: int = 12) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({name: generator.normal(10, 1, n) for name in MEASURES})
    table["registration_similarity"] = generator.normal(0.6, 0.01, n)
    return table


def test_nothing_stands_out_among_like_visits() -> None:
    assert find_outliers(visits()).empty


def test_what_is_far_from_the_median_stands_out_with_its_direction() -> None:
    table = visits()
    table.loc[3, "brain_volume_mm3"] = 1.0
    table.loc[5, "n_lesions"] = 10_000.0
    found = find_outliers(table)
    assert list(zip(found["row"], found["measure"], strict=True)) == [
        (5, "n_lesions"),
        (3, "brain_volume_mm3"),
    ]
    assert (np.sign(found["distance"]) == [1, -1]).all()
    assert found["value"].tolist() == [10_000.0, 1.0]


def test_a_good_registration_is_no_outlier_and_a_bad_one_is() -> None:
    table = visits()
    table.loc[0, "registration_similarity"] = 0.9
    assert find_outliers(table).empty
    table.loc[0, "registration_similarity"] = 0.4
    assert find_outliers(table)["measure"].tolist() == ["registration_similarity"]


def test_few_visits_missing_values_and_no_spread_tell_nothing() -> None:
    few = visits(LEAST_VISITS - 1)
    few.loc[0] = 1e6
    assert find_outliers(few).empty
    alike = visits().assign(flair_share=0.5)
    alike.loc[0, "flair_share"] = 0.9
    alike.loc[1, "mean_probability"] = np.nan
    assert find_outliers(alike).empty
