# SPDX-License-Identifier: Apache-2.0
"""Who is trained on, and who is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.bids.dataset import LabelledFiles
from bids_lesion_xai.training import folds
from bids_lesion_xai.training.folds import Material, leave_out
from bids_lesion_xai.training.options import TrainingOptions

IMAGES = {
    "a/sub-01": True,
    "a/sub-02": True,
    "a/sub-03": False,
    "b/sub-01": True,
    "c/sub-01": False,
}
MATERIAL = Material(
    tuple(
        LabelledFiles(person, "", Path(person), *[Path(person) if has_images else None] * 2)
        for person, has_images in IMAGES.items()
    )
)


def test_a_site_is_everybody_of_a_dataset_in_which_somebody_has_images() -> None:
    assert MATERIAL.people == ["a/sub-01", "a/sub-02", "b/sub-01"]
    assert MATERIAL.masks_of == sorted(IMAGES)
    assert MATERIAL.sites == {"a": ["a/sub-01", "a/sub-02", "a/sub-03"], "b": ["b/sub-01"]}


@pytest.mark.parametrize(
    ("left_out", "images", "masks"),
    [
        (["a/sub-01"], ["a/sub-02", "b/sub-01"], ["a/sub-02", "a/sub-03", "b/sub-01", "c/sub-01"]),
        (MATERIAL.sites["a"], ["b/sub-01"], ["b/sub-01", "c/sub-01"]),
        (MATERIAL.sites["b"], ["a/sub-01", "a/sub-02"], [*MATERIAL.sites["a"], "c/sub-01"]),
    ],
    ids=["person", "site", "other site"],
)
def test_neither_image_nor_mask_of_who_is_left_out_is_trained_on(
    left_out: list[str],
    images: list[str],
    masks: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, list[str]] = {}

    def load(files: Sequence[LabelledFiles]) -> list[str]:
        return [entry.person for entry in files if entry.flair]

    def train(scans: list[str], masks: list[str], *_: object, **__: object) -> torch.nn.Module:
        given.update(scans=scans, masks=masks)
        return torch.nn.Identity()

    monkeypatch.setattr(folds, "load_scans", load)
    monkeypatch.setattr(folds, "load_masks", lambda files: [entry.person for entry in files])
    monkeypatch.setattr(folds, "train", train)
    monkeypatch.setattr(folds, "predict", lambda _, scans, trained_on: (list(scans), trained_on))
    options = TrainingOptions()
    fold = leave_out(MATERIAL, left_out, [], options, torch.device("cpu"), tmp_path)
    assert given == {"scans": images, "masks": masks}
    judged = [person for person in left_out if IMAGES[person]]
    assert fold.predictions == (judged, images)


def test_heads_of_label_maps_that_are_kept_out_are_not_trained_on() -> None:
    anatomies: list[NDArray[np.uint8]] = [np.full((1, 1, 1), i, np.uint8) for i in range(21)]
    kept = Material((), tuple(anatomies)).without([])
    assert [int(one[0, 0, 0]) for one in kept.anatomies] == [
        i for i in range(21) if i not in (0, 10, 20)
    ]
