# SPDX-License-Identifier: Apache-2.0
"""Preprocessing of one visit, as a graph."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from bids_lesion_xai.interfaces.preprocess import (
    BrainMask,
    Conform,
    RegisterFlair,
    Standardise,
    WriteFacts,
)

INPUTS = ("flair_file", "t1w_file", "visit")
OUTPUTS = ("flair_file", "t1w_file", "brain_mask_file", "flair_to_t1w_file", "facts_file")


def init_preprocess_wf(
    *,
    skull_strip: str,
    registration: str,
    brain_mask_file: Path | None = None,
    sloppy: bool = False,
    name: str = "preprocess_wf",
) -> Workflow:
    """Build the graph from the native images of a visit to what the network sees.

    T1w is resampled once, onto 1 mm isotropic voxels along its own axes. FLAIR is registered to
    it rigidly and resampled once, onto the same voxels. Both are corrected for the bias field and
    normalised inside the brain. The branches of T1w and FLAIR run side by side; each node runs in
    one thread, so that the number of cores changes no voxel.

    Parameters
    ----------
    skull_strip : str
        ``force`` finds the brain with deepbet, ``skip`` takes the foreground of T1w, ``auto``
        chooses.
    registration : str
        ``force`` registers FLAIR to T1w, ``skip`` takes the headers as they are, ``auto`` chooses.
    brain_mask_file : Path, optional
        A brain mask of other derivatives, which is taken instead.
    sloppy : bool
        Whether the bias field is found coarsely, for tests.
    name : str

    Inputs
    ------
    flair_file, t1w_file : native images
    visit : name of the visit, e.g. ``sub-01_ses-02``, for messages

    Outputs
    -------
    flair_file, t1w_file : float32, 1 mm isotropic, normalised inside the brain and 0 outside
    brain_mask_file : uint8, same grid
    flair_to_t1w_file : ITK text; maps points of T1w space to points of FLAIR space
    facts_file : JSON with ``skull_strip_method``, ``brain_volume_mm3``,
        ``registration_{method,similarity}`` and ``{flair,t1w}_{mean,standard_deviation}``, the
        brain's intensities before normalisation

    References
    ----------
    Fisch et al., deepbet, doi 10.48550/arXiv.2308.07003.
    """
    inputnode = Node(IdentityInterface(list(INPUTS)), name="inputnode")
    outputnode = Node(IdentityInterface(list(OUTPUTS)), name="outputnode")
    conform = Node(Conform(), name="conform", mem_gb=1)
    brain_mask = Node(BrainMask(skull_strip=skull_strip), name="brain_mask", mem_gb=2)
    if brain_mask_file:
        brain_mask.inputs.derivative_file = str(brain_mask_file)
    register = Node(RegisterFlair(registration=registration), name="register_flair", mem_gb=2)
    t1w = Node(Standardise(sloppy=sloppy), name="standardise_t1w", mem_gb=1)
    flair = Node(Standardise(sloppy=sloppy), name="standardise_flair", mem_gb=1)
    facts = Node(WriteFacts(), name="write_facts")

    workflow = Workflow(name=name)
    workflow.connect(
        [
            *((inputnode, node, [("visit", "visit")]) for node in (conform, brain_mask)),
            *((inputnode, node, [("visit", "visit")]) for node in (register, t1w, flair)),
            (inputnode, conform, [("t1w_file", "in_file")]),
            (inputnode, brain_mask, [("t1w_file", "native_file")]),
            (inputnode, register, [("flair_file", "flair_file")]),
            (inputnode, register, [("t1w_file", "native_t1w_file")]),
            (conform, brain_mask, [("out_file", "conformed_file")]),
            (conform, register, [("out_file", "t1w_file")]),
            (conform, t1w, [("out_file", "in_file")]),
            (register, flair, [("flair_file", "in_file")]),
            *(
                (brain_mask, node, [("brain_mask_file", "brain_mask_file")])
                for node in (register, t1w, outputnode)
            ),
            # Of what FLAIR does not show, there are no intensities to normalise by.
            (register, flair, [("seen_file", "brain_mask_file")]),
            (brain_mask, facts, [("method", "skull_strip_method")]),
            (brain_mask, facts, [("volume_mm3", "brain_volume_mm3")]),
            (register, facts, [("similarity", "registration_similarity")]),
            (register, facts, [("method", "registration_method")]),
            (register, outputnode, [("flair_to_t1w_file", "flair_to_t1w_file")]),
            (facts, outputnode, [("facts_file", "facts_file")]),
        ]
    )
    for modality, node in (("t1w", t1w), ("flair", flair)):
        moments = [(key, f"{modality}_{key}") for key in ("mean", "standard_deviation")]
        workflow.connect(node, "out_file", outputnode, f"{modality}_file")
        workflow.connect([(node, facts, moments)])
    return workflow
