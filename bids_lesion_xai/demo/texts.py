# SPDX-License-Identifier: Apache-2.0
"""Texts of the demo dataset: descriptions, READMEs and sidecars."""

from __future__ import annotations

from typing import Any

RAW_NAME = "Synthetic heads with multiple sclerosis lesions"
TRUTH_NAME = "True lesions of synthetic heads"

# No tags are used; the validator asks for a version all the same.
HED_VERSION = "8.3.0"
TEMPLATE_URL = "https://nist.mni.mcgill.ca/icbm-152-nonlinear-atlases-2009/"

_ICBM_NOTICE = """\
Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and
its documentation for any purpose and without fee is hereby granted, provided that the above
copyright notice appear in all copies. The authors and McGill University make no representations
about the suitability of this software for any purpose. It is provided "as is" without express or
implied warranty.
"""

CREDITS: dict[str, Any] = {
    "License": "ICBM 152 licence, see README.md",
    "Authors": ["The bids_lesion_xai developers", "McConnell Brain Imaging Centre (template)"],
    "Acknowledgements": "The heads are deformed copies of the ICBM 152 2009a template.",
    "HowToAcknowledge": "Cite the works under ReferencesAndLinks.",
    "Funding": ["none"],
    "EthicsApprovals": ["not needed: no person was examined"],
    "ReferencesAndLinks": ["https://doi.org/10.1016/j.neuroimage.2010.07.033"],
    "Keywords": ["synthetic", "multiple sclerosis", "FLAIR", "T1w"],
}

RAW_README = f"""\
# {RAW_NAME}

No person was examined: these images are made by a program, `bids-lesion-xai-demo`, so that the
BIDS App `bids_lesion_xai` can be tried where no data are at hand, and so that its results can be
compared with a known truth. They are no benchmark: a score on them says nothing about real scans.

## What is in it

Two participants, one of them at two sessions, each with one T1w and one FLAIR image. The two
images of a session lie on different grids and the head moved a little between them. T1w has
sagittal slices (1 x 1 x 1.2 mm), FLAIR has thick axial ones (0.9 x 0.9 x 3 mm). Every session has
about ten lesions of white matter, bright on FLAIR and dark on T1w. At `sub-01/ses-02` all lesions
of `sub-01/ses-01` are there again, unchanged, and two more.

The true masks of lesions and brain are in `derivatives/truth`.

## How it is made

The ICBM 152 2009a template (nonlinear, symmetric, 1 mm; Fonov et al. 2011,
doi 10.1016/j.neuroimage.2010.07.033) as shipped with nilearn is scaled and deformed at random,
its tissue fractions are perturbed so that each head has its own folds, and a skull, a scalp, a
face and a neck are put around it. Lesions of given volumes are grown inside the white matter. The
head is moved, sampled on the grid of each image, multiplied by a smooth bias field and given
Rician noise. The same version and seed (see `dataset_description.json`) give the same voxels.

Field strength, times and angles in the sidecars are those of common protocols; no scanner was
used. Age and sex in `participants.tsv` are invented.

## Licence of the template

{_ICBM_NOTICE}"""

TRUTH_README = f"""\
# {TRUTH_NAME}

The truth behind the raw dataset two folders up, made by the same run of `bids-lesion-xai-demo`,
on the grid of each session's native T1w image:

- `space-T1w_label-L_mask`: voxels whose centre is inside a lesion. The sidecar lists the lesions
  (`Lesions`): volume before it was put on the grid (mm3), centroid in the world space of T1w
  (RAS+, mm), and what was added to the intensity of FLAIR and T1w in the middle of the lesion, in
  standard deviations over the brain. `T1wToFLAIR` is the head motion between the two images: a
  4 x 4 matrix that takes a point in the world space of T1w to the same point of the head in the
  world space of FLAIR (RAS+, mm).
- `space-T1w_desc-brain_mask`: the brain with its ventricles and the fluid of its sulci.

Derived from the ICBM 152 2009a template:

{_ICBM_NOTICE}"""

PARTICIPANTS: dict[str, Any] = {
    "participant_id": {"Description": "participant"},
    "age": {"Description": "invented age at the first session", "Units": "year"},
    "sex": {"Description": "invented sex", "Levels": {"F": "female", "M": "male"}},
    "group": {
        "Description": "kind of participant",
        "Levels": {"synthetic": "made by a program"},
    },
}

MASK_DESCRIPTIONS = {
    "Lesion": "True white-matter lesions of the synthetic head, on the grid of T1w",
    "Brain": "True brain mask of the synthetic head, fluid included, on the grid of T1w",
}

_NONE = "none (synthetic)"
_SCANNER: dict[str, Any] = {
    "Manufacturer": _NONE,
    "ManufacturersModelName": "bids-lesion-xai-demo",
    "Modality": "MR",
    "MagneticFieldStrength": 3.0,
    "MRAcquisitionType": "3D",
    "BodyPart": "HEAD",
    "PartialFourier": 1.0,
    "NonlinearGradientCorrection": False,
    "DwellTime": 8e-6,
    # The validator recommends each of these keys; no hardware stands behind the images.
    **dict.fromkeys(
        (
            "CoilCombinationMethod",
            "DeviceSerialNumber",
            "InstitutionAddress",
            "InstitutionName",
            "InstitutionalDepartmentName",
            "MatrixCoilMode",
            "PartialFourierDirection",
            "PulseSequenceDetails",
            "ReceiveCoilActiveElements",
            "ReceiveCoilName",
            "SoftwareVersions",
            "StationName",
        ),
        _NONE,
    ),
}
SIDECARS: dict[str, dict[str, Any]] = {
    "T1w": _SCANNER
    | {
        "PulseSequenceType": "MPRAGE",
        "SequenceName": "MPRAGE",
        "ScanningSequence": "GR",
        "SequenceVariant": "MP",
        "RepetitionTime": 2.3,
        "EchoTime": 0.003,
        "InversionTime": 0.9,
        "FlipAngle": 9,
    },
    "FLAIR": _SCANNER
    | {
        "PulseSequenceType": "FLAIR",
        "SequenceName": "FLAIR",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "RepetitionTime": 9.0,
        "EchoTime": 0.12,
        "InversionTime": 2.5,
        "FlipAngle": 150,
        "SliceThickness": 3.0,
    },
}


def changes(version: str) -> str:
    """Return the file ``CHANGES`` of a dataset of `version`."""
    return f"{version} 2026-01-01\n  - Made by bids-lesion-xai-demo {version}.\n"
