# SPDX-License-Identifier: Apache-2.0
"""Masks that somebody else made, brought into the space of T1w; and those taken as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype import logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError, naming
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid, require_scanner_grid
from bids_lesion_xai.interfaces.itk import Image, read_motion
from bids_lesion_xai.lesions.label import label_lesions
from bids_lesion_xai.lesions.move import move_mask

log = logging.getLogger("nipype.interface")

_T1W_SPACES = ("T1w", "orig")


@dataclass(frozen=True)
class NativePlaces:
    """Where the images of a visit lie.

    Parameters
    ----------
    flair_file, t1w_file : Path
        As they were recorded.
    transform_file : Path
        ``flair_to_t1w_file`` of ``RegisterFlair``.
    """

    flair_file: Path
    t1w_file: Path
    transform_file: Path


def read_mask(path: Path, flag: str) -> Image:
    """Return a mask as shares from 0 to 1 on its own grid.

    Parameters
    ----------
    path : Path
    flag : str
        The option that named its dataset, for messages.

    Raises
    ------
    DataError
        It cannot be read, or is no mask.
    """
    return Image(*nifti.load_mask(path, f"Check {flag}."))


def lesions_on_t1w(
    path: Path,
    space: str,
    flag: str,
    places: NativePlaces,
    brain: NDArray[np.bool_],
    grid: Grid,
) -> NDArray[np.bool_]:
    """Return a lesion mask on `grid` in the brain, through the registration if it is FLAIR's.

    Nothing is predicted, and nothing can be explained, where the network sees no brain.

    Parameters
    ----------
    path : Path
    space : str
        Its entity ``space``, empty if it has none.
    flag : str
        The option that named its dataset, for messages.
    places : NativePlaces
    brain : bool array, shape (X, Y, Z)
        On `grid`.
    grid : Grid
        In the space of T1w.

    Raises
    ------
    DataError
        It is no mask, or of another space.
    """
    mask = read_mask(path, flag)
    with naming(path.name):
        require_scanner_grid(mask.grid)
    through = _transform_file(mask.grid, path, space, flag, places)
    given = mask.values >= nifti.MARKED_FROM
    to_t1w = np.eye(4) if through is None else np.asarray(np.linalg.inv(read_motion(through)))
    lesions = move_mask(given, mask.grid, grid, to_t1w)
    log.info(
        "%s holds %.1f mL, %.0f %% of it in the brain",
        path.name,
        lesions.sum() * grid.voxel_volume_mm3 / 1000,
        100 * (lesions & brain).sum() / max(1, lesions.sum()),
    )
    lesions &= brain
    if given.any() and not lesions.any():
        message = (
            f"no lesion of {path.name} lies in the brain of T1w; a mask in the space of FLAIR or "
            f"of T1w of this visit is expected. Check {flag}."
        )
        raise DataError(message)
    return lesions


def _transform_file(
    own: Grid, path: Path, space: str, flag: str, places: NativePlaces
) -> Path | None:
    """Return the transform that brings a mask on the grid `own` to T1w, None for none.

    A grid tells more than a name, but not where both images have the same.
    """
    _, flair = nifti.load(places.flair_file)
    _, t1w = nifti.load(places.t1w_file)
    is_t1w = own.same_voxels(t1w)
    if space in _T1W_SPACES and is_t1w:
        return None
    if space == "FLAIR" or own.same_voxels(flair):
        return places.transform_file
    if space in ("", *_T1W_SPACES) or is_t1w:
        return None
    message = (
        f"{path.name} is in space {space}, and on the grid of neither FLAIR nor T1w; a mask in "
        f"the space of one of them is expected (space-FLAIR, space-T1w). Check {flag}."
    )
    raise DataError(message)


class _TakeLesionsInput(BaseInterfaceInputSpec):
    lesions_file = File(exists=True, mandatory=True, desc="mask in the space of FLAIR or T1w")
    space = traits.Str(mandatory=True, desc="its entity space, empty if it has none")
    flag = traits.Str(mandatory=True, desc="the option that named it, for messages")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the grid of the images")
    transform_file = File(exists=True, mandatory=True, desc="flair_to_t1w_file of RegisterFlair")
    native_flair_file = File(exists=True, mandatory=True, desc="FLAIR of the raw dataset")
    native_t1w_file = File(exists=True, mandatory=True, desc="T1w of the raw dataset")
    min_volume_mm3 = traits.Float(mandatory=True, desc="smaller lesions are dropped")
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages")


class _TakeLesionsOutput(TraitedSpec):
    mask_file = File(exists=True, desc="uint8, lesions that are large enough")
    labels_file = File(exists=True, desc="int32, lesions with their numbers")


class TakeLesions(SimpleInterface):
    """Take lesions that somebody else has found, inside the brain, and number them."""

    input_spec = _TakeLesionsInput
    output_spec = _TakeLesionsOutput

    def _run_interface(self, runtime: Any) -> Any:
        brain, grid = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        places = NativePlaces(
            Path(self.inputs.native_flair_file),
            Path(self.inputs.native_t1w_file),
            Path(self.inputs.transform_file),
        )
        path, flag = Path(self.inputs.lesions_file), self.inputs.flag
        with naming(self.inputs.visit):
            given = lesions_on_t1w(path, self.inputs.space, flag, places, brain, grid)
        least_mm3 = self.inputs.min_volume_mm3
        labels = label_lesions(given, grid.voxel_volume_mm3, least_mm3)
        n_given = int(label_lesions(given, grid.voxel_volume_mm3, 0).max(initial=0))
        n_kept = int(labels.max(initial=0))
        log.info(
            "%s: %d lesions of %s are taken, %d below %g mm3 are not",
            *(self.inputs.visit, n_kept, path.name, n_given - n_kept, least_mm3),
        )
        folder = Path(runtime.cwd)
        for key, values in (("mask_file", labels > 0), ("labels_file", labels)):
            self._results[key] = str(nifti.save(folder / f"{key}.nii.gz", values, grid))
        return runtime
