# SPDX-License-Identifier: Apache-2.0
"""What was really done, as a paragraph of a paper with its references."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.sidecar import generator
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, COARSE_BIAS_CORRECTION, EXPERIMENTS
from bids_lesion_xai.explain.catalogue import (
    AGGREGATIONS,
    BASELINES,
    METHODS,
    NOISE_RULES,
    TARGETS,
    has_sign,
)
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle

# Sidecars of a visit that state how it was processed, and the facts of them that do.
_SOURCES = {
    "brain_mask": ("SkullStripMethod",),
    "preproc_flair": ("RegistrationMethod", "BiasCorrection"),
    "lesion_labels": ("Threshold", "PeakThreshold", "MinimumVolume_mm3", "Connectivity"),
    "saliency_table": (
        *("Method", "Aggregation", "Target", "NumberOfSamples", "TargetError", "NoiseLevel"),
        *("NoiseRule", "Baseline", "RandomSeed", "Engine", "Device", "Model"),
    ),
}
_METHOD_REFERENCES = {
    "gradient": "simonyan2014",
    "smoothgrad": "smilkov2017",
    "smoothgrad-squared": "hooker2019",
    "vargrad": "adebayo2018",
    "integrated-gradients": "sundararajan2017",
}
_EXPERIMENT_REFERENCES = {"randomisation": "adebayo2018"}
_TRAINING_OF_DEFAULT = "trained on public data [@lesjak2018; @guarnera2025] and synthetic heads"
_SHOWN_DIGITS = 12
_CITATION = re.compile(r"\[@([\w; @]+)\]")


def read_facts(store: Store, visit: Visit) -> dict[str, Any]:
    """Return how a visit was processed, from its sidecars: what `paragraph` takes.

    Of a visit that is not complete yet, this software is what processes it.

    Raises
    ------
    DataError
        A sidecar is damaged.
    """
    facts = {
        name: stated[name]
        for key, names in _SOURCES.items()
        for stated in (store.facts(key, visit),)
        for name in names
    }
    account = provenance.read(store, visit) or {}
    return facts | {
        "Experiments": [
            name for name in EXPERIMENTS if store.path(f"experiment_{name}", visit).is_file()
        ],
        "HasReference": store.path("region_labels", visit).is_file(),
        "HasTissues": any(
            str(uri).startswith("bids:tissue-maps:")
            for uri in store.facts("lesion_labels", visit)["Sources"]
        ),
        "Software": (account.get("GeneratedBy") or [generator()])[0],
        "Libraries": account.get("Libraries") or provenance.libraries(),
    }


def paragraph(facts: Mapping[str, Any]) -> str:
    """Return what was done to a visit; works are cited as ``[@key]``."""
    parts = (_software, _preprocessing, _segmentation, _explanation, _noise, _experiments)
    return " ".join(sentence for part in parts for sentence in part(facts))


def _software(facts: Mapping[str, Any]) -> Iterable[str]:
    software = facts["Software"]
    container = software.get("Container", {})
    where = " ".join(str(container[key]) for key in ("Type", "Tag") if key in container)
    yield (
        f"FLAIR and T1w were processed by bids_lesion_xai {software.get('Version', '')}"
        f"{f' (container {where})' if where else ''}, a BIDS App on top of "
        f"{_library(facts, 'Nipype')} [@gorgolewski2011]."
    )


def _library(facts: Mapping[str, Any], name: str, distribution: str = "") -> str:
    version = facts["Libraries"].get(distribution or name.lower())
    return f"{name} {version}" if version else name


def _preprocessing(facts: Mapping[str, Any]) -> Iterable[str]:
    yield "T1w was resampled once to isotropic voxels of 1 mm along its own axes."
    if facts["SkullStripMethod"] == "deepbet":
        yield f"The brain was found in T1w by {_library(facts, 'deepbet')} [@fisch2023]."
    elif facts["SkullStripMethod"] == "derivative":
        yield "The brain mask was taken from other derivatives."
    else:
        yield "The brain mask was given with the images."
    if facts["RegistrationMethod"] == "rigid":
        yield (
            "FLAIR was registered rigidly to T1w (Mattes' mutual information) and resampled once "
            f"onto its voxels by {_library(facts, 'ANTsPy', 'antspyx')} [@tustison2021]."
        )
    else:
        yield (
            "FLAIR was in register with T1w already, and resampled once onto its voxels by "
            f"{_library(facts, 'ANTsPy', 'antspyx')} [@tustison2021]."
        )
    yield (
        "In both images the bias field was corrected inside the brain by N4 [@tustison2010], and "
        "intensities were normalised to mean 0 and standard deviation 1 inside the brain."
    )
    if facts["BiasCorrection"] == COARSE_BIAS_CORRECTION:
        yield "The bias field was found coarsely, for a test of the software (`--sloppy`)."


def _segmentation(facts: Mapping[str, Any]) -> Iterable[str]:
    model = facts["Model"]
    is_default = model["SHA256"] == read_bundle(DEFAULT_BUNDLE).sha256
    trained = f", {_TRAINING_OF_DEFAULT}" if is_default else ""
    task = "segmented" if facts["Threshold"] is not None else "looked for"
    yield (
        f"White-matter lesions were {task} by the model {model['Name']} {model['Version']} "
        f"(SHA-256 {str(model['SHA256'])[:_SHOWN_DIGITS]}{trained}) with "
        f"{_library(facts, 'MONAI')} [@cardoso2022] and {_library(facts, 'PyTorch', 'torch')} "
        f"[@paszke2019] on {_device(facts)}."
    )
    if model.get("TestTimeAugmentation") == "flip":
        yield "Logits were averaged with those of the image mirrored left to right."
    voxels = (
        "Not its lesions but those of other derivatives were taken"
        if facts["Threshold"] is None
        else f"Voxels with a lesion probability of at least {facts['Threshold']:g} were lesion"
    )
    reached = ""
    if facts["Threshold"] is not None and facts["PeakThreshold"] > facts["Threshold"]:
        reached = f" that reach {facts['PeakThreshold']:g} somewhere"
    yield (
        f"{voxels}; lesions were their {facts['Connectivity']}-connected components of at least "
        f"{facts['MinimumVolume_mm3']:g} mm³{reached}."
    )
    if facts["HasTissues"]:
        yield "Where they lie was told by a tissue map of the same T1w."
    if facts["HasReference"]:
        yield (
            "They were compared with a reference mask: a lesion was right if it shared a voxel "
            "with it. Missed lesions and control regions were explained as well."
        )


def _device(facts: Mapping[str, Any]) -> str:
    return "CPU" if facts["Device"] == "cpu" else "GPU"


def _explanation(facts: Mapping[str, Any]) -> Iterable[str]:
    method = str(facts["Method"])
    images = " and ".join(CHANNELS.values())
    kind = "are signed" if has_sign(method, str(facts["Aggregation"])) else "have no sign"
    yield (
        f"Every single lesion was explained [@spagnolo2024; @spagnolo2026] by {method} "
        f"[@{_METHOD_REFERENCES[method]}] with respect to {images}: "
        f"{_plain(METHODS[method].text)}; the target was the {_plain(TARGETS[facts['Target']])}, "
        f"the gradients were those {_plain(AGGREGATIONS[facts['Aggregation']])}. "
        f"The values {kind}, and were not rescaled."
    )
    if facts["Baseline"]:
        yield (
            f"The way began at {_plain(BASELINES[facts['Baseline']])} and had "
            f"{facts['NumberOfSamples']} points."
        )


def _plain(text: str) -> str:
    return text.removesuffix(" (published)")


def _noise(facts: Mapping[str, Any]) -> Iterable[str]:
    if not METHODS[str(facts["Method"])].has_noise:
        return
    until = (
        ""
        if facts["TargetError"] is None
        else f" at most, until the standard error at the peak was {facts['TargetError']:g} times "
        "the peak"
    )
    yield (
        f"Normal noise was drawn for each lesion (samples: {facts['NumberOfSamples']}{until}; "
        f"seed: {facts['RandomSeed']}) with a standard deviation of {facts['NoiseLevel']:g} times "
        f"the range of intensities ({_plain(NOISE_RULES[facts['NoiseRule']])})."
    )


def _experiments(facts: Mapping[str, Any]) -> Iterable[str]:
    if facts["Experiments"]:
        cited = {name: _EXPERIMENT_REFERENCES.get(name) for name in facts["Experiments"]}
        told = "; ".join(
            EXPERIMENTS[name] + (f" [@{key}]" if key else "") for name, key in cited.items()
        )
        yield f"Experiments told for each lesion: {told}."


def cited(texts: Iterable[str]) -> list[str]:
    """Return the keys of the works that texts cite, each once, in their order."""
    keys = (key for text in texts for found in _CITATION.findall(text) for key in _keys(found))
    return list(dict.fromkeys(keys))


def numbered(text: str, keys: list[str]) -> str:
    """Return a text that cites works by their number in `keys`, from 1."""

    def number(found: re.Match[str]) -> str:
        return f"[{', '.join(str(keys.index(key) + 1) for key in _keys(found[1]))}]"

    return _CITATION.sub(number, text)


def _keys(found: str) -> list[str]:
    return [key.strip("@ ") for key in found.split(";")]


@cache
def bibliography() -> Mapping[str, str]:
    """Return the BibTeX entry of every work, by its key."""
    path = Path(__file__).parent / "templates" / "references.bib"
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.partition("{")[2].partition(",")[0]: line for line in lines}


def reference(key: str) -> str:
    """Return a work as it stands in a list of references."""
    fields = dict(re.findall(r"(\w+) = \{(.*?)\}(?:, |\}$)", bibliography()[key]))
    author = fields["author"].replace(" and others", " et al.")
    place = ", ".join(
        fields[name]
        for name in ("journal", "booktitle", "howpublished", "volume", "pages")
        if name in fields
    )
    ways = {"doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
    links = [prefix + fields[name] for name, prefix in ways.items() if name in fields]
    parts = [f"{author} ({fields['year']}) {fields['title']}", place, *links[:1]]
    return ". ".join(part for part in parts if part)
