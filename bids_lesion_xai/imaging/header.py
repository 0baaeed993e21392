# SPDX-License-Identifier: Apache-2.0
"""What the header of a NIfTI file says of the place of its voxels, and whether to believe it.

Headers hold up to three statements of the voxels' size and place (pixdim, qform, sform) and a
unit. Where they agree, nothing is to be decided. Where they do not, the rules are those of
`place_voxels`; what was decided is told as a note.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import MAX_COSINE, MAX_FIELD_OF_VIEW_MM

# Quaternions and float32 round the place of the far corner by less than this.
AGREE_MM = 0.1
# Share by which two statements of the voxel size may differ.
_SAME_SIZE = 0.01
# A head, or a slab of it, is longer than this along its longest axis.
_LEAST_LENGTH_MM = 40
_MM_PER_UNIT = {1: ("metres", 1000.0), 3: ("microns", 0.001)}

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """Where voxels lie, and what had to be decided to tell.

    Parameters
    ----------
    affine : float64 array, shape (4, 4)
        Voxel indices to world coordinates in mm (RAS+).
    notes : tuple of str
        Contradictions of the header, and what was made of them; empty if there is none.
    """

    affine: Affine
    notes: tuple[str, ...] = ()


def place_voxels(raw: nb.Nifti1Header, shape: tuple[int, int, int]) -> Placed:
    """Return where the voxels of an image lie.

    - The sform is taken where it has a code, else the qform; one that has a code and is no place
      gives way to the other, with a note.
    - Where both have a code and lie apart by more than 0.1 mm, the sform is taken with a note,
      unless it stretches or shears the voxels as the qform does not: then it leads to another
      space, such as a template's, and the qform is taken.
    - Metres and microns are converted; where the numbers make sense in mm only, they are mm.

    Parameters
    ----------
    raw : Nifti1Header
        As it is in the file: nibabel mends it silently.
    shape : tuple of int
        Number of voxels along X, Y and Z.

    Raises
    ------
    DataError
        No form has a code, none is a place, or sform and qform are mirror images of each other.
    """
    sizes = np.asarray(raw["pixdim"][1:4], np.float64)
    sform, qform = _sform(raw), _qform(raw, sizes)
    forms = [form for form in (sform, qform) if form is not None]
    if not forms:
        raise DataError(_no_place(raw, sizes))
    factor, notes = _mm_per_unit(forms[0], int(raw["xyzt_units"]) & 7, shape)
    in_mm = np.diag([factor, factor, factor, 1.0])
    sizes *= factor
    if len(forms) == 2:
        placed = _choose(in_mm @ forms[0], in_mm @ forms[1], sizes, shape)
    else:
        placed = _only(in_mm @ forms[0], sizes)
        if sform is None and raw["sform_code"] > 0:
            notes = (*notes, "its sform gives its voxels no place: qform taken")
        if qform is None and raw["qform_code"] > 0:
            notes = (*notes, "its qform gives its voxels no place: sform taken")
    return Placed(placed.affine, (*notes, *placed.notes))


def _no_place(raw: nb.Nifti1Header, sizes: NDArray[np.float64]) -> str:
    if raw["sform_code"] <= 0 and raw["qform_code"] <= 0:
        return (
            "does not say where its voxels lie (sform_code and qform_code are 0), so left cannot "
            "be told from right. Convert it again from DICOM, or set the code if you know that "
            "the affine is right."
        )
    return (
        "has no usable place for its voxels: its header states voxels of "
        f"{' x '.join(f'{size:g}' for size in sizes)} mm and an affine that maps them nowhere. "
        "Convert it again from DICOM."
    )


def _sform(raw: nb.Nifti1Header) -> Affine | None:
    if raw["sform_code"] <= 0:
        return None
    affine = np.asarray(raw.get_sform(), np.float64)
    return affine if _is_place(affine) else None


def _qform(raw: nb.Nifti1Header, sizes: NDArray[np.float64]) -> Affine | None:
    if raw["qform_code"] <= 0 or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return None
    standard = raw.copy()
    # As the reference implementation, nifti1_io.c, reads it; nibabel takes 1 and -1 alone.
    standard["pixdim"][0] = -1 if raw["pixdim"][0] < 0 else 1
    try:
        affine = np.asarray(standard.get_qform(), np.float64)
    except ValueError:
        # nibabel: the numbers are no quaternion.
        return None
    return affine if _is_place(affine) else None


def _is_place(affine: Affine) -> bool:
    """Tell whether an affine is finite and gives every voxel a place of its own."""
    if not np.isfinite(affine).all():
        return False
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return bool(lengths.min() > 0 and abs(np.linalg.det(axes / lengths)) > 1e-3)


def _only(affine: Affine, sizes: NDArray[np.float64]) -> Placed:
    if _has_sizes(affine, sizes):
        return Placed(affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    own, other = (" x ".join(f"{one:.3g}" for one in three) for three in (lengths, sizes))
    note = f"its affine has voxels of {own}, its pixdim of {other}: affine taken"
    return Placed(affine, (note,))


def _choose(
    sform: Affine, qform: Affine, sizes: NDArray[np.float64], shape: tuple[int, int, int]
) -> Placed:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        message = (
            "has an sform and a qform that are mirror images of each other, so left cannot be "
            "told from right. Convert it again from DICOM, or remove the wrong one."
        )
        raise DataError(message)
    apart_mm = _apart_mm(sform, qform, shape)
    if apart_mm <= AGREE_MM:
        return Placed(sform)
    differ = f"its sform and qform lie up to {apart_mm:.1f} mm apart"
    if not (_has_sizes(sform, sizes) and _is_right_angled(sform)):
        return Placed(qform, (f"{differ}, and the sform stretches the voxels: qform taken",))
    return Placed(sform, (f"{differ}: sform taken",))


def _apart_mm(first: Affine, second: Affine, shape: tuple[int, int, int]) -> float:
    """Return the largest distance between the places of a corner voxel."""
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in shape]), -1).reshape(-1, 3)
    difference = first - second
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def _has_sizes(affine: Affine, sizes: NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(lengths, np.abs(sizes), rtol=_SAME_SIZE, atol=0))


def _is_right_angled(affine: Affine) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(np.triu(axes.T @ axes, 1)).max() <= MAX_COSINE)


def _mm_per_unit(
    affine: Affine, unit: int, shape: tuple[int, int, int]
) -> tuple[float, tuple[str, ...]]:
    """Return mm per unit of an affine, and a note if that is not 1 as it should be."""
    if unit not in _MM_PER_UNIT:
        return 1.0, ()
    name, factor = _MM_PER_UNIT[unit]
    lengths = np.linalg.norm(affine[:3, :3], axis=0) * shape
    if _is_length_of_a_head(lengths.max() * factor):
        return factor, (f"its place is in {name}: converted to mm",)
    if _is_length_of_a_head(lengths.max()):
        return 1.0, (f"its unit is {name}, but its numbers make sense in mm only: taken as mm",)
    message = (
        f"spans {' x '.join(f'{length:g}' for length in lengths)} {name} by its header; a head "
        "is expected. Check voxel size and unit."
    )
    raise DataError(message)


def _is_length_of_a_head(length_mm: float) -> bool:
    return _LEAST_LENGTH_MM <= length_mm <= MAX_FIELD_OF_VIEW_MM
