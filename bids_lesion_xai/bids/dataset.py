# SPDX-License-Identifier: Apache-2.0
"""Finding images in BIDS datasets: the only place that uses pybids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bids import BIDSLayout
from bids.layout import Query


@dataclass(frozen=True)
class LabelledFiles:
    """The files of one labelled scan in a derivative dataset.

    Parameters
    ----------
    person : str
        ``DATASET/sub-LABEL``, where DATASET is the name of the dataset's folder.
    session : str
        Label without ``ses-``, or empty.
    mask : Path
    flair, t1w : Path or None
        Skull-stripped images on the grid of the mask, where the dataset has them.
    """

    person: str
    session: str
    mask: Path
    flair: Path | None
    t1w: Path | None


def find_labelled(dataset: Path) -> list[LabelledFiles]:
    """Return every lesion mask of a derivative dataset, with FLAIR and T1w on its grid.

    Masks are called ``label-lesion_mask`` or ``label-L_mask``; images have the same ``space`` and
    ``desc-brain`` or ``desc-preproc``.
    """
    layout = BIDSLayout(
        dataset, validate=False, is_derivative=True, config=["bids", "derivatives"]
    )
    nifti = [".nii", ".nii.gz"]
    found = []
    for mask in layout.get(suffix="mask", label=["lesion", "L"], extension=nifti):
        entities = mask.get_entities()
        same = {key: entities.get(key) or Query.NONE for key in ("subject", "session", "space")}
        flair, t1w = (
            next(
                (
                    Path(image.path)
                    for image in layout.get(
                        suffix=suffix, desc=["brain", "preproc"], extension=nifti, **same
                    )
                ),
                None,
            )
            for suffix in ("FLAIR", "T1w")
        )
        person = f"{dataset.resolve().name}/sub-{entities['subject']}"
        found.append(
            LabelledFiles(person, entities.get("session") or "", Path(mask.path), flair, t1w)
        )
    return found
