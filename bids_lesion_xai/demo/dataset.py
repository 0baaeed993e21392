# SPDX-License-Identifier: Apache-2.0
"""A BIDS dataset of synthetic heads, with the truth about their lesions as a derivative of it."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nilearn.datasets import (
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)
from numpy.typing import NDArray

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.naming import format_name
from bids_lesion_xai.bids.sidecar import BIDS_VERSION, CODE_URL, to_json
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.demo import texts
from bids_lesion_xai.demo.head import Floats, Template, surround
from bids_lesion_xai.demo.people import PEOPLE, SURROUNDINGS, Sample, make_person
from bids_lesion_xai.errors import OutputError
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.nifti import save

log = logging.getLogger(__name__)

TRUTH = Path("derivatives", "truth")
_GENERATOR = "bids-lesion-xai-demo"


def load_template() -> Template:
    """Return the ICBM 152 brain (2009a nonlinear symmetric, 1 mm) that nilearn's wheel holds.

    References
    ----------
    Fonov et al., NeuroImage 54 (2011), doi 10.1016/j.neuroimage.2010.07.033.
    """
    t1w, grey, white = (
        load(resolution=1)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    # Below the brain, room for face and neck; in front of it, for the nose.
    below, in_front, unused_above = 40, 17, 17
    affine = np.array(t1w.affine, np.float64)
    affine[2, 3] -= below

    def embed(values: Any) -> Floats:
        kept = np.asarray(values, np.float32)[:, :, :-unused_above]
        return np.pad(kept, ((0, 0), (0, in_front), (below, 0)))

    brain = embed(np.asarray(t1w.dataobj) > 0)
    x, y, z = brain.shape
    return Template(
        Grid((x, y, z), affine),
        white=embed(white.dataobj) * brain,
        grey=embed(grey.dataobj) * brain,
        brain=brain,
    )


def write_demo(folder: Path, seed: int = 0) -> bool:
    """Make the demo dataset in `folder`, which then holds all of it or is untouched.

    Parameters
    ----------
    folder : Path
        Missing, empty, or a demo dataset of this version and seed.
    seed : int
        Determines every voxel.

    Returns
    -------
    made : bool
        False if the dataset was there already.

    Raises
    ------
    OutputError
        The folder holds something else or cannot be written.
    """
    if _is_there(folder, seed):
        return False
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        _fill(partial, seed)
        partial.replace(folder)
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror}). Check folder and free space."
        raise OutputError(message) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_there(folder: Path, seed: int) -> bool:
    """Tell whether `folder` holds the demo; raise if it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    expected = {"Name": _GENERATOR, "Version": __version__, "Seed": seed}
    try:
        text = (folder / "dataset_description.json").read_text(encoding="utf-8")
        found = json.loads(text)["GeneratedBy"][0]
        same = all(found.get(key) == value for key, value in expected.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        same = False
    missing = [path for path in _image_paths() if not (folder / path).is_file()]
    if not same or missing:
        found_text = f"a demo without {missing[0]}" if same else "something else"
        message = (
            f"{folder} is expected to be new, empty or the demo of version {__version__} and "
            f"seed {seed}, but holds {found_text}. Remove it or name another folder."
        )
        raise OutputError(message)
    return True


def _image_paths() -> list[Path]:
    """Every image of the dataset, relative to it."""
    visits = [visit for person in PEOPLE for visit in person.visits]
    return [_path(visit, {}, suffix) for visit in visits for suffix in ("T1w", "FLAIR")] + [
        TRUTH / _path(visit, entities, "mask")
        for visit in visits
        for entities in (_LESION_ENTITIES, _BRAIN_ENTITIES)
    ]


_LESION_ENTITIES = {"space": "T1w", "label": "L"}
_BRAIN_ENTITIES = {"space": "T1w", "desc": "brain"}


def _path(visit: Visit, entities: dict[str, str], suffix: str) -> Path:
    return visit.folder / "anat" / format_name(visit.entities | entities, suffix, ".nii.gz")


def _fill(root: Path, seed: int) -> None:
    template = load_template()
    around = surround(template, np.random.default_rng([seed, SURROUNDINGS]))
    _write_texts(root, seed)
    for number, person in enumerate(PEOPLE):
        for sample in make_person(person, number, template, around, seed):
            _write_sample(root, sample)
            log.info("%s: %d lesions", sample.visit.name, len(sample.lesions))


def _write_texts(root: Path, seed: int) -> None:
    generator = {
        "Name": _GENERATOR,
        "Version": __version__,
        "CodeURL": CODE_URL,
        "Seed": seed,
    }
    common = {"BIDSVersion": BIDS_VERSION, "GeneratedBy": [generator], **texts.CREDITS}
    raw = {
        "Name": texts.RAW_NAME,
        "DatasetType": "raw",
        "HEDVersion": texts.HED_VERSION,
        **common,
        "SourceDatasets": [{"URL": texts.TEMPLATE_URL}],
    }
    truth = {
        "Name": texts.TRUTH_NAME,
        "DatasetType": "derivative",
        **common,
        "SourceDatasets": [{"URL": "../.."}],
        "DatasetLinks": {"raw": "../.."},
    }
    (root / TRUTH).mkdir(parents=True)
    for folder, description, readme in (
        (root, raw, texts.RAW_README),
        (root / TRUTH, truth, texts.TRUTH_README),
    ):
        _write(folder / "dataset_description.json", to_json(description))
        _write(folder / "README.md", readme)
        _write(folder / "CHANGES", texts.changes(__version__))
    rows = [f"sub-{person.label}\t{person.age}\t{person.sex}\tsynthetic" for person in PEOPLE]
    _write(root / "participants.tsv", "\n".join(["\t".join(texts.PARTICIPANTS), *rows, ""]))
    _write(root / "participants.json", to_json(texts.PARTICIPANTS))


def _write_sample(root: Path, sample: Sample) -> None:
    visit = sample.visit
    grids = {"T1w": sample.t1w.grid, "FLAIR": sample.flair.grid}
    for suffix, values in sample.images.items():
        path = root / _path(visit, {}, suffix)
        _write_image(path, values, grids[suffix], texts.SIDECARS[suffix])
    source = f"bids:raw:{_path(visit, {}, 'T1w').as_posix()}"
    for entities, kind, mask, facts in (
        (_LESION_ENTITIES, "Lesion", sample.lesion_mask, _lesion_facts(sample)),
        (_BRAIN_ENTITIES, "Brain", sample.brain_mask, {}),
    ):
        sidecar = {
            "Description": texts.MASK_DESCRIPTIONS[kind],
            "Type": kind,
            "Manual": False,
            "SpatialReference": source,
            "Sources": [source],
            **facts,
        }
        _write_image(root / TRUTH / _path(visit, entities, "mask"), mask, grids["T1w"], sidecar)


def _lesion_facts(sample: Sample) -> dict[str, Any]:
    t1w_to_flair = sample.flair.head_to_scanner @ np.linalg.inv(sample.t1w.head_to_scanner)
    return {
        "T1wToFLAIR": t1w_to_flair.tolist(),
        "Lesions": [
            {
                "Volume_mm3": lesion.volume_mm3,
                "Centroid_mm": _round(sample.t1w.to_scanner_mm(lesion.centre_mm)),
                "ContrastFLAIR": round(lesion.flair_contrast, 3),
                "ContrastT1w": round(lesion.t1w_contrast, 3),
            }
            for lesion in sample.lesions
        ],
    }


def _round(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return [round(float(value), 2) for value in values]


def _write_image(path: Path, values: NDArray[Any], grid: Grid, sidecar: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, values, grid)
    _write(path.with_name(path.name.replace(".nii.gz", ".json")), to_json(sidecar))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
