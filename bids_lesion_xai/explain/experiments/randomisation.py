# SPDX-License-Identifier: Apache-2.0
"""Whether saliency maps depend on what the network has learned.

Cascading randomisation (Adebayo et al. 2018, arXiv 1810.03292): layer by layer, from the output to
the input, weights are redrawn, and the map of each lesion is compared with that of the network. A
map that stays shows the image, not the network. Two maps of convolutional networks are never
unrelated in magnitude: both fade with the distance to the lesion, so that the rank correlation of
the magnitudes stays above 0 even then, while that of the signed values does not.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch.nn.modules.conv import _ConvNd

from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Indices
from bids_lesion_xai.explain.engines import (
    CropEngine,
    Engine,
    PrunedEngine,
    WindowEngine,
    evaluate,
)
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.study import Finding, Study
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.lesions import explain_lesions
from bids_lesion_xai.explain.mirrored import MirroredEngine
from bids_lesion_xai.explain.problem import Lesion, Progress
from bids_lesion_xai.explain.summary import distance_mm


def run(study: Study, *, n_samples: int = 5, radius_mm: float = 15.0) -> Iterator[Finding]:
    """Yield, for each lesion, how similar its maps are before and after layers are redrawn.

    The layers are the convolutions, in the reverse of the order in which the network runs them.
    Weights and biases are drawn from a normal distribution of the mean and standard deviation of
    the tensor that they replace, so that activations keep their scale; norms and slopes stay. All
    maps have the same noise. They are compared in the brain within a radius about the lesion, both
    channels together: far away maps are 0 before and after.

    Parameters
    ----------
    study : Study
    n_samples : int
        Of noise; enough here, since all maps share it.
    radius_mm : float

    Yields
    ------
    finding : Finding
        After all layers are done. Rows: ``index``, ``n_layers``, the number of redrawn layers,
        ``layer``, the name of the last of them (None at first), ``spearman``, the rank correlation
        of the magnitudes, ``pearson``, the correlation of the signed values; NaN if a map is
        constant. Numbers: ``randomisation_spearman_first``, with the layer of the output redrawn,
        and ``randomisation_spearman_all``, with all.
    """
    scan = study.scan
    lesions = {lesion.label: lesion for lesion in scan.lesions()}
    if not lesions:
        return
    network = copy.deepcopy(study.network)
    names = layers_from_output(network, study.scorer.engine, scan.image)
    stages = [None, *names]
    places = {label: _Place(scan, lesion, radius_mm) for label, lesion in lesions.items()}
    plain: dict[int, NDArray[np.float64]] = {}
    rows: dict[int, list[dict[str, Any]]] = {label: [] for label in lesions}
    for n_layers, name in enumerate(stages):
        if name is not None:
            redraw(network, name, f"{scan.seed}/{scan.visit}/randomisation")
        options = {**study.explanation, "n_samples": n_samples, "target_error": None}
        options |= {"seed": scan.seed, "visit": scan.visit}
        options["progress"] = _teller(study.progress, n_layers, len(stages))
        for attribution in explain_lesions(network, scan.image, scan.labels, **options):
            label = attribution.lesion
            values = places[label].values(attribution)
            plain.setdefault(label, values)
            rows[label].append(
                {
                    "index": label,
                    "n_layers": n_layers,
                    "layer": name,
                    "spearman": rank_correlation(plain[label], values),
                    "pearson": correlation(plain[label], values),
                }
            )
    for label, found in rows.items():
        numbers = {
            "randomisation_spearman_first": found[min(1, len(names))]["spearman"],
            "randomisation_spearman_all": found[-1]["spearman"],
        }
        yield Finding("randomisation", label, found, numbers)


def layers_from_output(network: torch.nn.Module, engine: Engine, image: torch.Tensor) -> list[str]:
    """Return the names of the convolutions of a network, the last one that runs first."""
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, _ConvNd)
    ]
    try:
        with torch.no_grad():
            evaluate(network, image.new_zeros(1, len(image), *_sides(engine, image)))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(reversed(ran)))


def _sides(engine: Engine, image: torch.Tensor) -> Indices:
    """Return the sides of a small volume that the network takes."""
    inner = engine.engine if isinstance(engine, MirroredEngine) else engine
    if isinstance(inner, WindowEngine):
        return inner.window
    if isinstance(inner, PrunedEngine | CropEngine):
        return tuple(2 * m for m in inner.multiple)
    return inner.extent(tuple(image.shape[1:]))


@torch.no_grad()
def redraw(network: torch.nn.Module, name: str, key: str) -> None:
    """Draw the weights of one layer anew, whatever other layers are drawn.

    Parameters
    ----------
    network : torch module
        It is changed.
    name : str
        Of a module in it.
    key : str
        With the names of the layer and the weight, fixes what is drawn.
    """
    for own, weight in network.get_submodule(name).named_parameters():
        digest = hashlib.sha256(f"{key}/{name}/{own}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        # A tensor of one number has no spread: it stays what it is.
        deviation = weight.double().std(correction=0)
        weight.copy_(weight.double().mean() + deviation * drawn.to(weight.device))


class _Place:
    """The brain within a radius about a lesion, where its maps are compared."""

    def __init__(self, scan: Scan, lesion: Lesion, radius_mm: float) -> None:
        reach = [ceil(radius_mm / mm) for mm in scan.spacing_mm]
        self._box = lesion.box.grow(reach).clip(scan.shape)
        self._shape = scan.shape
        own = np.zeros(self._box.shape, bool)
        start = lesion.voxels.new_tensor(self._box.start)
        own[tuple((lesion.voxels - start).T.numpy(force=True))] = True
        brain = scan.brain_in(self._box).numpy(force=True)
        self._where = brain & (distance_mm(own, scan.spacing_mm) <= radius_mm)

    def values(self, attribution: Attribution) -> NDArray[np.float64]:
        """Return the saliency there, of all channels, in one dimension."""
        piece = Piece(attribution.values[None], attribution.offset, self._shape)
        values = piece.cut(self._box)[0].double().numpy(force=True)
        return np.asarray(values[:, self._where]).ravel()


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of the magnitudes of two maps; NaN if one is constant."""
    return correlation(rankdata(np.abs(a)), rankdata(np.abs(b)))


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of two maps; NaN if one is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else float("nan")


def _teller(
    progress: Callable[[Progress], None], n_before: int, n_stages: int
) -> Callable[[Progress], None]:
    def tell(one: Progress) -> None:
        progress(replace(one, share=(n_before + one.share) / n_stages))

    return tell
