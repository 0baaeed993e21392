# SPDX-License-Identifier: Apache-2.0
"""Experiments on the lesions of a scan: the public function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch

from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.check import check_images
from bids_lesion_xai.explain.engines import Engine, choose_engine
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.scorer import Scorer
from bids_lesion_xai.explain.experiments.study import Finding, Study
from bids_lesion_xai.explain.lesions import explain_lesions
from bids_lesion_xai.explain.mirrored import MirroredEngine
from bids_lesion_xai.explain.problem import Progress


def run_experiments(
    names: Sequence[str],
    network: torch.nn.Module,
    scan: Scan,
    *,
    explanation: Mapping[str, Any] = MappingProxyType({}),
    attributions: Iterable[Attribution] | Callable[[int], Attribution] | None = None,
    progress: Callable[[str, Progress], None] = lambda *_: None,
) -> Iterator[Finding]:
    """Yield what experiments find, lesion by lesion, one experiment after the other.

    All changed images go through the map from image to logits that is explained, and that the mask
    was made with. What is found about a lesion does not depend on the other lesions, their order,
    or, with the engines ``pruned`` and ``crop``, the number of threads.

    Parameters
    ----------
    names : sequence of str
        Of `bids_lesion_xai.conventions.EXPERIMENTS`.
    network : torch module
        In eval mode; see `explain_lesions`.
    scan : Scan
        On the device and of the type of the network.
    explanation : mapping
        The keyword arguments that `explain_lesions` was called with, but for ``seed``, ``visit``
        and ``progress``. The experiments take from them how the network is evaluated, and
        ``randomisation`` all of them.
    attributions : iterable of Attribution, callable, or None
        The saliency of the lesions, or a function from the label of a lesion to its saliency; for
        ``faithfulness`` only.
    progress : callable
        Called with the name of the experiment and a `Progress`.

    Raises
    ------
    DataError, UsageError
        An argument is not what is described here.
    """
    for name in names:
        if name not in EXPERIMENTS:
            message = f"experiment {name!r}: one of {', '.join(EXPERIMENTS)} is expected."
            raise UsageError(message)
    if "faithfulness" in names and attributions is None:
        message = "Experiment faithfulness compares saliency maps with other orders; give these."
        raise UsageError(message)
    study = make_study(network, scan, explanation, attributions)
    return _findings(names, study, progress)


def make_study(
    network: torch.nn.Module,
    scan: Scan,
    explanation: Mapping[str, Any] = MappingProxyType({}),
    attributions: Iterable[Attribution] | Callable[[int], Attribution] | None = None,
) -> Study:
    """Return what an experiment takes; see `run_experiments`.

    The function `run` of each experiment can be called with it, and with settings of its own.
    """
    check_images(network, scan.image, scan.labels)
    with torch.inference_mode(mode=False):
        # What was made in inference mode has no gradient.
        image = scan.image.clone() if scan.image.is_inference() else scan.image.detach()
    return Study(
        network=network,
        scan=replace(scan, image=image),
        scorer=_scorer(network, scan, explanation),
        explanation=explanation,
        attributions=attributions,
        progress=lambda _: None,
    )


def _findings(
    names: Sequence[str], study: Study, progress: Callable[[str, Progress], None]
) -> Iterator[Finding]:
    for name in names:

        def tell(one: Progress, name: str = name) -> None:
            progress(name, one)

        module = import_module(f"bids_lesion_xai.explain.experiments.{name}")
        yield from module.run(replace(study, progress=tell))


def _scorer(network: torch.nn.Module, scan: Scan, explanation: Mapping[str, Any]) -> Scorer:
    given = signature(explain_lesions).bind(network, scan.image, scan.labels, **explanation)
    given.apply_defaults()
    options = given.arguments
    window = options["window"]
    engine: Engine = choose_engine(
        network,
        options["engine"],
        options["multiple"],
        None if window is None else tuple(window),
        options["overlap"],
    )
    if options["flip"]:
        engine = MirroredEngine(engine, scan.shape)
    return Scorer(
        engine=engine,
        image=scan.image,
        peak_threshold=scan.peak_threshold,
        n_threads=options["n_threads"] or torch.get_num_threads(),
        memory_bytes=options["memory_gb"] * 2**30,
        allow_tf32=options["allow_tf32"],
    )
