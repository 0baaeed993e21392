# SPDX-License-Identifier: Apache-2.0
"""A network for users, and others, trained without some people, that tell what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bids_lesion_xai.training.evaluate import Prediction, Setting, fit, fit_on_others
from bids_lesion_xai.training.folds import (
    Fold,
    Material,
    leave_out,
    make_heads,
    predict_left_out,
    train_on,
)
from bids_lesion_xai.training.options import TrainingOptions
from bids_lesion_xai.training.results import write_results
from bids_lesion_xai.training.synthesis import SyntheticHead
from bids_lesion_xai.training.write import write_bundle


class Trial:
    """A network for users, and the figures of others trained without who is judged.

    Parameters
    ----------
    material : Material
    options : TrainingOptions
    fold_steps : int
        Optimiser steps of the networks that are trained for their figures alone.
    threshold : float
        Lesion probability, where none can be chosen on people left out.
    peak_threshold : float
        Lesion probability that a voxel of each lesion reaches, before any temperature.
    left_out : list of str
        People who take part in nothing but the figures of the network for users.
    device : torch device
    version : str
        Of the bundle.
    output : Path
        Receives the bundle, `evaluation`, and a folder of checkpoints in `folds` for each network.
    """

    def __init__(
        self,
        material: Material,
        options: TrainingOptions,
        *,
        fold_steps: int,
        threshold: float,
        peak_threshold: float,
        left_out: Sequence[str],
        device: torch.device,
        version: str,
        output: Path,
    ) -> None:
        if not material.anatomies:
            options = replace(options, synthetic_heads=0, synthetic_share=0.0)
        self._material, self._left_out, self._options = material, left_out, options
        self._fold_options = replace(options, steps=fold_steps)
        self._chosen = Setting(threshold, peak_threshold=peak_threshold)
        self._peak_threshold = peak_threshold
        self._device, self._output, self._version = device, output, version
        self._predictions_of_people: list[Prediction] = []
        self._rows: list[dict[str, Any]] = []

    def leave_out_each(self, way: str) -> None:
        """Train without each ``person``, or each ``site``, and write what comes of it.

        With ``person``, threshold and temperature of the bundle are chosen on the people left out.
        Who is left out is judged at those that suit the others best, as predicted by the networks
        without ``person``; at the given threshold if there are none.
        """
        material = self._material_of_folds
        groups = {person: [person] for person in material.people}
        if way == "site":
            groups = material.sites
        folder = self._output / "folds" / way
        heads = self._heads_of_folds
        folds = [
            leave_out(material, people, heads, self._fold_options, self._device, folder / name)
            for name, people in groups.items()
        ]
        if way == "person":
            self._predictions_of_people = [one for fold in folds for one in fold.predictions]
            self._chosen = fit(self._predictions_of_people, self._peak_threshold)
        self._judge(way, folds, groups, self._fold_options)

    def train(self) -> None:
        """Train the network for users, judge it on the people left out, and write it."""
        left_out = self._left_out
        kept = self._material.without(left_out) if left_out else self._material
        mask_checksums = kept.mask_checksums
        heads = self._heads_of_folds if left_out else make_heads(kept, self._options)
        network = train_on(kept, heads, self._options, self._device, self._output)
        if left_out:
            fold = predict_left_out(self._material, left_out, network, self._options)
            self._judge("chosen", [fold], {"chosen": left_out}, self._options)
        write_bundle(
            self._output,
            network,
            version=self._version,
            trained_on=kept.people,
            masks_of=kept.masks_of,
            mask_checksums=mask_checksums,
            training=self._options,
            setting=self._chosen,
            evaluation=self._rows,
        )

    @cached_property
    def _material_of_folds(self) -> Material:
        return self._material.of_others(self._left_out)

    @cached_property
    def _heads_of_folds(self) -> list[SyntheticHead]:
        """Synthetic heads for every network that somebody is left out of."""
        return make_heads(self._material.without([]), self._options)

    def _judge(
        self,
        way: str,
        folds: Sequence[Fold],
        groups: Mapping[str, Sequence[str]],
        training: TrainingOptions,
    ) -> None:
        predictions = [one for fold in folds for one in fold.predictions]
        free = [one for fold in folds for one in fold.lesion_free]
        settings = fit_on_others(
            self._predictions_of_people, groups, self._chosen, self._peak_threshold
        )
        settings |= {one.scan.person: self._chosen for one in free}
        rows = write_results(self._output / "evaluation" / way, predictions, free, settings)
        patches = training.steps * training.batch_size
        self._rows += [{"left_out": way, "patches": patches, **row} for row in rows]
