# SPDX-License-Identifier: Apache-2.0
"""What the network still sees when FLAIR, T1w or both are taken from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.study import Finding, Study

# Channels that are replaced, by the name in the table.
_REPLACED: dict[str, tuple[str, ...]] = {
    "none": (),
    **{channel: (channel,) for channel in CHANNELS},
    "both": tuple(CHANNELS),
}


def run(study: Study) -> Iterator[Finding]:
    """Yield, for each lesion, its response with images replaced by their normal-appearing mean.

    Inside the brain, every voxel of the image takes the mean over normal-appearing white matter.

    Yields
    ------
    finding : Finding
        Rows: ``index``, ``replaced`` (none, flair, t1w or both), ``mean_probability``,
        ``mean_logit``, ``detected``. Numbers: ``channel_flair_drop`` and ``channel_t1w_drop``, the
        mean probability of the unchanged image minus that without the one channel.
    """
    for lesion, tell in study.one_by_one(study.scan.lesions()):
        support = study.scorer.support(lesion)
        images = [
            partial(_without, study.scan, support, channels) for channels in _REPLACED.values()
        ]
        rows: list[dict[str, Any]] = []
        for name, response in zip(_REPLACED, study.scorer.responses(lesion, images), strict=True):
            rows.append(
                {
                    "index": lesion.label,
                    "replaced": name,
                    "mean_probability": response.mean_probability,
                    "mean_logit": response.mean_logit,
                    "detected": response.detected,
                }
            )
            tell(len(rows), len(images))
        left = {row["replaced"]: row["mean_probability"] for row in rows}
        drops = {f"channel_{name}_drop": left["none"] - left[name] for name in CHANNELS}
        yield Finding("channel", lesion.label, rows, drops)


def _without(scan: Scan, support: Box, channels: Collection[str]) -> torch.Tensor:
    replaced = torch.tensor([name in channels for name in CHANNELS], device=scan.image.device)
    hidden = replaced[:, None, None, None] & scan.brain_in(support)
    return torch.where(hidden, scan.normal_means, scan.image_in(support))
