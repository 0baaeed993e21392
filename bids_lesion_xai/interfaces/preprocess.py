# SPDX-License-Identifier: Apache-2.0
"""Nipype interfaces of the preprocessing: each loads, calls one function and saves.

Where deepbet runs it is held to one thread, as antspyx is (`bids_lesion_xai.interfaces.itk`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError, naming
from bids_lesion_xai.imaging import brain, nifti
from bids_lesion_xai.imaging.grid import Grid, isotropic_grid, require_scanner_grid
from bids_lesion_xai.imaging.intensity import brain_moments, normalise
from bids_lesion_xai.imaging.similarity import (
    MIN_SIMILARITY,
    require_match,
    require_two_contrasts,
    similarity,
)
from bids_lesion_xai.interfaces.itk import (
    Image,
    read_motion,
    resample,
    without_bias,
    write_identity,
)
from bids_lesion_xai.interfaces.masks import read_mask
from bids_lesion_xai.interfaces.register import register
from bids_lesion_xai.lesions.move import move_mask

SPACING_MM = 1.0
# Of two masks of one brain. With or without the fluid around it makes 0.93; a brain that lies
# 12 mm off, 0.85.
_LEAST_OVERLAP = 0.85


def _load(path: str) -> tuple[NDArray[np.float32], Grid]:
    values, grid = nifti.load(Path(path))
    with naming(Path(path).name):
        return values, require_scanner_grid(grid)


def _load_mask(path: str) -> NDArray[np.bool_]:
    mask, _ = nifti.load(Path(path), np.bool_)
    return mask


class _ConformInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="native image")
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages")


class _ConformOutput(TraitedSpec):
    out_file = File(exists=True, desc="image on 1 mm isotropic voxels")


class Conform(SimpleInterface):
    """Resample an image onto 1 mm isotropic voxels along its own axes, closest to RAS."""

    input_spec = _ConformInput
    output_spec = _ConformOutput

    def _run_interface(self, runtime: Any) -> Any:
        with naming(self.inputs.visit):
            values, grid = _load(self.inputs.in_file)
        target = isotropic_grid(grid, SPACING_MM)
        out_file = nifti.save(
            Path(runtime.cwd, "conformed.nii.gz"), resample(Image(values, grid), target), target
        )
        self._results["out_file"] = str(out_file)
        return runtime


class _BrainMaskInput(BaseInterfaceInputSpec):
    conformed_file = File(exists=True, mandatory=True, desc="T1w, 1 mm isotropic")
    native_file = File(exists=True, mandatory=True, desc="the same T1w as it was recorded")
    skull_strip = traits.Enum("auto", "force", "skip", mandatory=True, desc="what to do")
    derivative_file = File(exists=True, desc="brain mask of other derivatives, in T1w space")
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages")


class _BrainMaskOutput(TraitedSpec):
    brain_mask_file = File(exists=True, desc="mask on the grid of conformed_file")
    method = traits.Enum(
        *("deepbet", "given", "derivative"),
        desc="deepbet, given with the image, or of other derivatives",
    )
    volume_mm3 = traits.Float(desc="volume of the mask")


class BrainMask(SimpleInterface):
    """Find the brain with deepbet, or take the foreground of an image that is stripped already.

    A mask of other derivatives is taken if it is of the same brain as what is found so.
    """

    input_spec = _BrainMaskInput
    output_spec = _BrainMaskOutput

    def _run_interface(self, runtime: Any) -> Any:
        with naming(self.inputs.visit):
            native, native_grid = _load(self.inputs.native_file)
            _, grid = _load(self.inputs.conformed_file)
            given = self.inputs.skull_strip == "skip" or (
                self.inputs.skull_strip == "auto" and brain.is_stripped(native, native_grid)
            )
            mask = (
                _given_mask(native, native_grid, grid)
                if given
                else _deepbet_mask(self.inputs.conformed_file)
            )
            method = "given" if given else "deepbet"
            if isdefined(self.inputs.derivative_file):
                mask = _derivative_mask(self.inputs.derivative_file, mask, grid)
                method = "derivative"
            brain.require_plausible(mask, grid)
        out_file = nifti.save(Path(runtime.cwd, "brain_mask.nii.gz"), mask, grid)
        self._results["brain_mask_file"] = str(out_file)
        self._results["method"] = method
        self._results["volume_mm3"] = brain.volume_mm3(mask, grid)
        return runtime


def _given_mask(native: NDArray[np.float32], native_grid: Grid, grid: Grid) -> NDArray[np.bool_]:
    """Return the brain of a stripped image: found on the native grid, whose edge is exact."""
    inside = brain.solid(brain.foreground(native)).astype(np.float32)
    return np.asarray(resample(Image(inside, native_grid), grid) >= 0.5)


def _derivative_mask(path: str, found: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Return a mask of other derivatives on `grid`.

    Raises
    ------
    DataError
        It is not of the brain that was found in T1w.
    """
    name, flag = Path(path).name, "--derivatives"
    mask = np.asarray(resample(read_mask(Path(path), flag), grid) >= 0.5)
    overlap = 2 * np.count_nonzero(mask & found) / max(1, mask.sum() + found.sum())
    if overlap < _LEAST_OVERLAP:
        message = (
            f"{name} is not of the brain in T1w: Dice {overlap:.2f} with what was found there, at "
            f"least {_LEAST_OVERLAP} expected. Is it in the space of this very T1w? Check {flag}."
        )
        raise DataError(message)
    return mask


def _deepbet_mask(conformed_file: str) -> NDArray[np.bool_]:
    """Return deepbet's mask, shape (X, Y, Z); its weights are in its wheel."""
    import torch
    from deepbet.bet import BrainExtraction

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, mask, _ = BrainExtraction(no_gpu=True).run(conformed_file)
    except (AssertionError, ValueError) as error:
        # Both stand for an empty foreground in deepbet.
        message = f"deepbet found no brain in T1w ({error}). Look at the image."
        raise DataError(message) from error
    finally:
        torch.set_num_threads(n_threads)
    return np.asarray(mask.dataobj) > 0


class _RegisterInput(BaseInterfaceInputSpec):
    flair_file = File(exists=True, mandatory=True, desc="native FLAIR")
    t1w_file = File(exists=True, mandatory=True, desc="T1w, 1 mm isotropic")
    native_t1w_file = File(exists=True, mandatory=True, desc="the same T1w as it was recorded")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the grid of t1w_file")
    registration = traits.Enum("auto", "force", "skip", mandatory=True, desc="what to do")
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages")


class _RegisterOutput(TraitedSpec):
    flair_file = File(exists=True, desc="FLAIR, resampled once onto the grid of t1w_file")
    flair_to_t1w_file = File(exists=True, desc="rigid transform, ITK text")
    seen_file = File(exists=True, desc="uint8, the part of the brain in FLAIR's field of view")
    similarity = traits.Float(desc="similarity of FLAIR and T1w inside the brain")
    method = traits.Enum("rigid", "given", desc="rigid, or given with the images")


class RegisterFlair(SimpleInterface):
    """Register FLAIR rigidly to T1w, resample it once, and refuse a result that does not match.

    Images that somebody has stripped and put on one grid are taken as registered, if they match:
    masks drawn on them lie where they were drawn.
    """

    input_spec = _RegisterInput
    output_spec = _RegisterOutput

    def _run_interface(self, runtime: Any) -> Any:
        with naming(self.inputs.visit):
            t1w = Image(*_load(self.inputs.t1w_file))
            flair = Image(*_load(self.inputs.flair_file))
            with naming(Path(self.inputs.flair_file).name):
                brain_moments(flair.values, np.ones(flair.grid.shape, bool))
            inside = _load_mask(self.inputs.brain_mask_file)
            transform_file = Path(runtime.cwd, "flair_to_t1w.txt")
            registered, score, method = self._registered(t1w, flair, inside, transform_file)
            require_two_contrasts(t1w.values, registered, inside)
            seen = inside & _field_of_view(flair.grid, t1w.grid, transform_file)
            require_match(score, seen.sum() / inside.sum())
        seen_file = nifti.save(Path(runtime.cwd, "seen.nii.gz"), seen, t1w.grid)
        self._results["seen_file"] = str(seen_file)
        out_file = nifti.save(Path(runtime.cwd, "flair.nii.gz"), registered, t1w.grid)
        self._results["flair_file"] = str(out_file)
        self._results["flair_to_t1w_file"] = str(transform_file)
        self._results["similarity"] = score
        self._results["method"] = method
        return runtime

    def _registered(
        self, t1w: Image, flair: Image, inside: NDArray[np.bool_], transform_file: Path
    ) -> tuple[NDArray[np.float32], float, str]:
        """Return FLAIR on T1w's grid, the score, and how that was reached."""
        wanted = self.inputs.registration
        native = Image(*_load(self.inputs.native_t1w_file))
        if wanted == "skip" or (wanted == "auto" and _share_a_grid_and_no_skull(flair, native)):
            write_identity(transform_file)
            values = resample(flair, t1w.grid, transform_file)
            score = similarity(t1w.values, values, inside)
            if wanted == "skip" or score >= MIN_SIMILARITY:
                return values, score, "given"
        return *register(t1w, flair, inside, transform_file), "rigid"


def _share_a_grid_and_no_skull(flair: Image, t1w: Image) -> bool:
    return (
        flair.grid.shape == t1w.grid.shape
        and np.allclose(flair.grid.affine, t1w.grid.affine, atol=1e-3)
        and brain.is_stripped(flair.values, flair.grid)
        and brain.is_stripped(t1w.values, t1w.grid)
    )


def _field_of_view(flair: Grid, t1w: Grid, transform_file: Path) -> NDArray[np.bool_]:
    """Return what of the grid of T1w lies in FLAIR's field of view."""
    seen = resample(Image(np.ones(flair.shape, np.float32), flair), t1w, transform_file)
    return np.asarray(seen >= 0.5)


class _StandardiseInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w or FLAIR, 1 mm isotropic")
    brain_mask_file = File(
        exists=True, mandatory=True, desc="where the brain is and was recorded, on the same grid"
    )
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages")
    sloppy = traits.Bool(False, usedefault=True, desc="find the bias field coarsely")


class _StandardiseOutput(TraitedSpec):
    out_file = File(exists=True, desc="mean 0, standard deviation 1 in the mask, 0 outside")
    mean = traits.Float(desc="mean intensity of the brain after the bias correction")
    standard_deviation = traits.Float(desc="standard deviation of the same")


class Standardise(SimpleInterface):
    """Correct the bias field inside the mask (N4), then normalise."""

    input_spec = _StandardiseInput
    output_spec = _StandardiseOutput

    def _run_interface(self, runtime: Any) -> Any:
        inside = _load_mask(self.inputs.brain_mask_file)
        with naming(self.inputs.visit):
            values, grid = _load(self.inputs.in_file)
            # N4 would turn a constant image into numbers without meaning.
            brain_moments(values, inside)
            corrected = without_bias(Image(values, grid), inside, sloppy=self.inputs.sloppy)
            mean, deviation = brain_moments(corrected, inside)
        out_file = nifti.save(
            Path(runtime.cwd, "standardised.nii.gz"),
            normalise(corrected, inside, mean, deviation),
            grid,
        )
        self._results["out_file"] = str(out_file)
        self._results["mean"], self._results["standard_deviation"] = mean, deviation
        return runtime


class _WriteFactsInput(BaseInterfaceInputSpec):
    skull_strip_method = traits.Str(mandatory=True)
    brain_volume_mm3 = traits.Float(mandatory=True)
    registration_similarity = traits.Float(mandatory=True)
    registration_method = traits.Str(mandatory=True)
    flair_mean = traits.Float(mandatory=True)
    flair_standard_deviation = traits.Float(mandatory=True)
    t1w_mean = traits.Float(mandatory=True)
    t1w_standard_deviation = traits.Float(mandatory=True)


class _WriteFactsOutput(TraitedSpec):
    facts_file = File(exists=True, desc="JSON object of the inputs")


class WriteFacts(SimpleInterface):
    """Write what the preprocessing found, by the names of the inputs, as JSON."""

    input_spec = _WriteFactsInput
    output_spec = _WriteFactsOutput

    def _run_interface(self, runtime: Any) -> Any:
        facts_file = Path(runtime.cwd, "facts.json")
        facts_file.write_text(json.dumps(self.inputs.get(), indent=2, sort_keys=True) + "\n")
        self._results["facts_file"] = str(facts_file)
        return runtime


class _ResampleMaskInput(BaseInterfaceInputSpec):
    mask_file = File(exists=True, mandatory=True, desc="mask in T1w space")
    reference_file = File(exists=True, mandatory=True, desc="native FLAIR")
    transform_file = File(exists=True, mandatory=True, desc="flair_to_t1w_file of RegisterFlair")


class _ResampleMaskOutput(TraitedSpec):
    out_file = File(exists=True, desc="mask on the grid of reference_file, uint8")


class ResampleMask(SimpleInterface):
    """Bring a mask from T1w space to the native grid of FLAIR, against the transform."""

    input_spec = _ResampleMaskInput
    output_spec = _ResampleMaskOutput

    def _run_interface(self, runtime: Any) -> Any:
        mask, grid = nifti.load(Path(self.inputs.mask_file), np.bool_)
        _, target = _load(self.inputs.reference_file)
        moved = move_mask(mask, grid, target, read_motion(Path(self.inputs.transform_file)))
        out_file = nifti.save(Path(runtime.cwd, "mask.nii.gz"), moved, target)
        self._results["out_file"] = str(out_file)
        return runtime
