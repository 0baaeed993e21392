# SPDX-License-Identifier: Apache-2.0
"""What all experiments have in common: a scan, a network, lesions one by one, and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.scorer import Scorer
from bids_lesion_xai.explain.problem import Lesion, Progress

# Tells how many of how many images of a lesion are evaluated.
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Finding:
    """What an experiment found about one lesion.

    Parameters
    ----------
    experiment : str
        Name in `bids_lesion_xai.conventions`.
    lesion : int or None
        The value of the lesion in the label image; None for a synthetic one.
    rows : list of dict
        Rows of the table of the experiment, all of the same keys.
    numbers : dict
        What is said of the lesion in one number each.
    """

    experiment: str
    lesion: int | None
    rows: list[dict[str, Any]]
    numbers: dict[str, float]


@dataclass(frozen=True)
class Study:
    """What an experiment takes.

    Parameters
    ----------
    network : torch module
    scan : Scan
    scorer : Scorer
    explanation : mapping
        Keyword arguments of `explain_lesions`.
    attributions : iterable of Attribution, callable, or None
        Saliency of the lesions, in any order, or a function from the label of a lesion to its
        saliency.
    progress : callable
    """

    network: torch.nn.Module
    scan: Scan
    scorer: Scorer
    explanation: Mapping[str, Any]
    attributions: Iterable[Attribution] | Callable[[int], Attribution] | None
    progress: Callable[[Progress], None]

    def one_by_one(self, lesions: Iterable[Lesion]) -> Iterator[tuple[Lesion, Tell]]:
        """Yield lesions, each with what tells the progress in it."""
        every = list(lesions)
        works = [self.scorer.work(lesion) for lesion in every]
        for n_before, lesion in enumerate(every):
            yield lesion, self._teller(lesion, n_before, works)

    def _teller(self, lesion: Lesion, n_before: int, works: list[int]) -> Tell:
        before, own, total = sum(works[:n_before]), works[n_before], max(1, sum(works))

        def tell(sample: int, n_samples: int) -> None:
            self.progress(
                Progress(
                    lesion=lesion.label,
                    n_done=n_before + (sample == n_samples),
                    n_lesions=len(works),
                    sample=sample,
                    n_samples=n_samples,
                    share=(before + own * sample / n_samples) / total,
                )
            )

        return tell
