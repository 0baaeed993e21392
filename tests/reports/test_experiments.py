# SPDX-License-Identifier: Apache-2.0
"""Charts of the experiments: what is averaged, and what is drawn."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.reports.experiments import draw_experiments, people_means, scaled_logits


def tables() -> dict[str, pd.DataFrame]:
    """Return the table of each experiment of two people with one and three lesions."""
    lesions = [("sub-01", "n/a", 1), *(("sub-02", "ses-1", index) for index in (1, 2, 3))]
    generator = np.random.default_rng(0)

    def table(columns: list[str], *values: list[object]) -> pd.DataFrame:
        rows = [(*lesion, *row) for lesion in lesions for row in product(*values)]
        found = pd.DataFrame(rows, columns=["participant_id", "session_id", "index", *columns])
        for name in ("mean_probability", "mean_logit", "spearman", "pearson"):
            found[name] = generator.uniform(0, 1, len(found))
        detected = (found["mean_probability"] > 0.5).astype(int)
        return found.assign(detected=detected, outcome=np.nan)

    return {
        "perilesional": table(["fill", "margin_mm"], ["zero", "normal", "inpaint"], [0.0, 4.0]),
        "synthetic": table(
            ["channel", "diameter_mm", "contrast", "margin_mm"],
            ["flair", "t1w", "both"],
            [3.0, 5.0],
            [0.0, 1.0],
            [4.0, np.inf],
        ),
        "faithfulness": table(
            ["mode", "order", "share"],
            ["deletion", "insertion"],
            ["saliency", "random", "intensity"],
            [0.0, 0.01, 1.0],
        ),
        "randomisation": table(["n_layers"], [0, 1, 2]),
        "channel": table(["replaced"], ["none", "flair", "t1w", "both"]),
    }


def test_every_experiment_is_drawn_with_its_own_words() -> None:
    charts = draw_experiments(tables())
    assert len(charts) == 6
    assert len({chart["title"] for chart in charts}) == 6
    texts = [chart["svg"] for chart in charts]
    for words in (
        ["visible margin around the lesion", "zeros", "normal tissue", "continued tissue"],
        ["contrast, standard deviations", "FLAIR", "T1w", "both"],
        ["visible margin, mm; zeros beyond", "3 mm", "5 mm", "all"],
        ["share of values deleted", "saliency", "intensity", "random"],
        ["layers redrawn", "signed values"],
        ["image replaced", "none"],
    ):
        assert sum(all(word in text for word in words) for text in texts) == 1


@pytest.mark.parametrize("name", tables())
def test_what_was_not_done_is_not_drawn(name: str) -> None:
    alone = draw_experiments({name: tables()[name]})
    assert len(alone) == (2 if name == "synthetic" else 1)
    assert draw_experiments({name: tables()[name][:0]}) == []
    assert draw_experiments({}) == []


def test_a_participant_counts_once_however_many_lesions() -> None:
    table = pd.DataFrame(
        {
            "participant_id": ["a", "b", "b", "b"],
            "margin_mm": [1.0] * 4,
            "mean_probability": [1.0, 0.0, 0.0, 0.3],
        }
    )
    found = people_means(table, ["margin_mm"], "mean_probability")
    assert found.to_dict() == {1.0: pytest.approx(0.55)}


def test_logits_are_scaled_between_those_of_their_own_lesion() -> None:
    table = tables()["faithfulness"]
    scaled = scaled_logits(table)
    for _, own in scaled.groupby(["participant_id", "index"]):
        first = own[own["mode"] == "deletion"].groupby("share")["scaled"].first()
        assert first[0.0] == pytest.approx(1)
        assert first[1.0] == pytest.approx(0)
        slope, intercept = np.polyfit(own["mean_logit"], own["scaled"], 1)
        assert own["scaled"].to_numpy() == pytest.approx(slope * own["mean_logit"] + intercept)
