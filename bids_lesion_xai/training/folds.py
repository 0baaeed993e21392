# SPDX-License-Identifier: Apache-2.0
"""Training without some people, and predicting who was left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bids_lesion_xai.bids.dataset import LabelledFiles
from bids_lesion_xai.errors import NotFoundError
from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.evaluate import Prediction, predict
from bids_lesion_xai.training.options import TrainingOptions
from bids_lesion_xai.training.scans import load_masks, load_scans, mask_checksum
from bids_lesion_xai.training.synthesis import SyntheticHead, synthetic_heads
from bids_lesion_xai.training.trainer import train

log = logging.getLogger(__name__)

# Of the label maps, every tenth is kept out of a fold, for lesion-free heads to be judged on.
_KEPT_OUT = slice(None, None, 10)
# Contrasts differ more than anatomies: of each label map there are some heads.
_HEADS_OF_EACH = 3
_SEED_OF_THESE = 2**32


@dataclass(frozen=True)
class Material:
    """What networks are trained on.

    Parameters
    ----------
    files : tuple of LabelledFiles
    anatomies : tuple of uint8 arrays, shape (X, Y, Z)
        Label maps of heads; see `anatomy.load_anatomies`.
    """

    files: tuple[LabelledFiles, ...]
    anatomies: tuple[NDArray[np.uint8], ...] = ()

    @property
    def people(self) -> list[str]:
        """People with images."""
        return sorted({entry.person for entry in self.files if entry.flair and entry.t1w})

    @property
    def masks_of(self) -> list[str]:
        """People whose lesions are painted, with images or without."""
        return sorted({entry.person for entry in self.files})

    @property
    def mask_checksums(self) -> list[str]:
        """What tells these masks in datasets of other names; see `scans.mask_checksum`."""
        return sorted({mask_checksum(mask) for mask in load_masks(self.files)} - {""})

    @property
    def sites(self) -> dict[str, list[str]]:
        """Everybody of each dataset in which somebody has images."""
        names = dict.fromkeys(_site(person) for person in self.people)
        return {name: [one for one in self.masks_of if _site(one) == name] for name in names}

    @cached_property
    def lesion_free(self) -> list[SyntheticHead]:
        """Heads of the label maps that `without` keeps out, the same for all networks."""
        kept_out = self.anatomies[_KEPT_OUT]
        return synthetic_heads(kept_out, count=_HEADS_OF_EACH * len(kept_out), seed=_SEED_OF_THESE)

    def of_others(self, people: Sequence[str]) -> Material:
        """Return the material without some people, with all label maps."""
        files = tuple(entry for entry in self.files if entry.person not in people)
        return Material(files, self.anatomies)

    def without(self, left_out: Sequence[str]) -> Material:
        """Return the material without some people, and without some label maps."""
        kept_out = [id(anatomy) for anatomy in self.anatomies[_KEPT_OUT]]
        anatomies = tuple(one for one in self.anatomies if id(one) not in kept_out)
        return Material(self.of_others(left_out).files, anatomies)


@dataclass(frozen=True)
class Fold:
    """What a network says of people it was not trained on.

    Parameters
    ----------
    predictions : list of Prediction
        Of the people left out.
    lesion_free : list of Prediction
        Of synthetic heads without a lesion, of anatomies left out.
    """

    predictions: list[Prediction]
    lesion_free: list[Prediction]


def make_heads(material: Material, options: TrainingOptions) -> list[SyntheticHead]:
    """Return the synthetic heads to train on; none without label maps."""
    count = options.synthetic_heads if material.anatomies else 0
    return synthetic_heads(
        material.anatomies, count=count, seed=options.seed, workers=options.workers
    )


def train_on(
    material: Material,
    heads: Sequence[SyntheticHead],
    options: TrainingOptions,
    device: torch.device,
    folder: Path,
) -> torch.nn.Module:
    """Train a network on `material` and `heads`; `folder` receives its checkpoint.

    Raises
    ------
    NotFoundError
        There is no scan to train on.
    """
    scans = load_scans(material.files)
    if not scans:
        message = "No scan with FLAIR, T1w and lesion mask is left to train on."
        raise NotFoundError(message)
    masks = load_masks(material.files)
    folder.mkdir(parents=True, exist_ok=True)
    return train(scans, masks, heads, options, device=device, folder=folder)


def leave_out(
    material: Material,
    people: Sequence[str],
    heads: Sequence[SyntheticHead],
    options: TrainingOptions,
    device: torch.device,
    folder: Path,
) -> Fold:
    """Train a network without some people, and predict them.

    Parameters
    ----------
    material : Material
    people : list of str
    heads : list of SyntheticHead
        From `make_heads` of the material without anybody: they do not depend on people.
    options : TrainingOptions
    device : torch device
    folder : Path
        Receives the checkpoint.
    """
    left_out = [person for person in material.people if person in people]
    log.info("training without %s", ", ".join(left_out))
    network = train_on(material.without(people), heads, options, device, folder)
    return predict_left_out(material, people, network, options)


def predict_left_out(
    material: Material,
    people: Sequence[str],
    network: torch.nn.Module,
    options: TrainingOptions,
) -> Fold:
    """Return what a network trained on ``material.without(people)`` says of these people."""
    # As the app does.
    predictor = replace(ARCHITECTURES[options.network].predictor(network), flip=True)
    trained_on = material.without(people).people
    scans = load_scans(entry for entry in material.files if entry.person in people)
    free = predict(predictor, material.lesion_free, trained_on)
    return Fold(predict(predictor, scans, trained_on), free)


def _site(person: str) -> str:
    return person.partition("/")[0]
