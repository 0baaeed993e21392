# SPDX-License-Identifier: Apache-2.0
"""The door to antspyx: arrays on grids in, arrays and transform files out.

Everything runs in one thread, so that results are the same bit for bit on any number of cores:
sums that several threads share depend on their number. A visit uses two cores all the same,
because nipype runs the branches of the graph side by side.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import Grid

REGISTRATION: dict[str, Any] = {
    "aff_metric": "mattes",
    "aff_sampling": 32,
    "aff_random_sampling_rate": 0.25,
    # Full resolution costs as much again and moves no voxel of the brain by more than 0.1 mm.
    "aff_iterations": (200, 100, 50),
    "aff_shrink_factors": (6, 4, 2),
    "aff_smoothing_sigmas": (3, 2, 1),
}
BIAS_CORRECTION: dict[str, Any] = {
    "shrink_factor": 4,
    "convergence": {"iters": [50, 50, 30, 20], "tol": 1e-7},
    "rescale_intensities": True,
}
SLOPPY_BIAS_CORRECTION: dict[str, Any] = {
    **BIAS_CORRECTION,
    "shrink_factor": 8,
    "convergence": {"iters": [20, 10], "tol": 1e-7},
}
# ITK and ANTs speak LPS+, NIfTI and this project RAS+.
LPS = np.diag([-1.0, -1.0, 1.0])
# Points that tell a linear transform.
_ENDS = np.concatenate([np.zeros((1, 3)), np.eye(3)])


@dataclass(frozen=True)
class Image:
    """An image in space.

    Parameters
    ----------
    values : float32 array, shape (X, Y, Z)
    grid : Grid
    """

    values: NDArray[np.float32]
    grid: Grid


def import_ants() -> Any:
    """Import antspyx (5 s the first time) with one thread and a fixed seed."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    os.environ["ANTS_RANDOM_SEED"] = "1"
    import ants

    return ants


def _to_ants(values: NDArray[Any], grid: Grid) -> Any:
    """Return the image of antspyx.

    It is made from an array, never read by ITK, so that ITK's own choice between qform and sform
    plays no part. Masks become floats too: N4 reads the bytes of any other type as floats.
    """
    return import_ants().from_numpy(
        values.astype(np.float32),
        origin=(LPS @ grid.affine[:3, 3]).tolist(),
        spacing=list(grid.spacing_mm),
        direction=LPS @ grid.directions,
    )


def resample(
    image: Image, target: Grid, transform_file: Path | None = None
) -> NDArray[np.float32]:
    """Return `image` on the grid `target`, interpolated linearly; 0 outside its field of view.

    Linear, because no value may leave the range of the input: the overshoot of splines at the
    skull would be negative, and would fill a background of exact zeros.

    Parameters
    ----------
    image : Image
    target : Grid
    transform_file : Path, optional
        ITK transform from points of `target`'s space to points of `image`'s.
    """
    return _resample(image, target, transform_file, "linear")


def resample_labels(
    labels: NDArray[np.int32], grid: Grid, target: Grid, transform_file: Path | None = None
) -> NDArray[np.int32]:
    """Return the labels on the grid `target`, each voxel that of the nearest voxel of `grid`.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z) of `grid`
        Below 2^24, which a float still holds exactly.
    grid, target : Grid
    transform_file : Path, optional
        As for `resample`.
    """
    image = Image(labels.astype(np.float32), grid)
    return _resample(image, target, transform_file, "nearestNeighbor").astype(np.int32)


def _resample(
    image: Image, target: Grid, transform_file: Path | None, interpolator: str
) -> NDArray[np.float32]:
    resampled = import_ants().apply_transforms(
        fixed=_to_ants(np.zeros(target.shape), target),
        moving=_to_ants(image.values, image.grid),
        transformlist=[] if transform_file is None else [str(transform_file)],
        interpolator=interpolator,
    )
    return np.asarray(resampled.numpy(), np.float32)


def write_start(
    path: Path, centre_mm: NDArray[np.float64], displacement_mm: NDArray[np.float64]
) -> None:
    """Write the transform that displaces and, once optimised, rotates about `centre_mm`.

    Parameters
    ----------
    path : Path
    centre_mm, displacement_mm : float64 array, shape (3,)
        World coordinates (RAS+, mm).
    """
    ants = import_ants()
    transform = ants.create_ants_transform(
        "Euler3DTransform",
        center=tuple(LPS @ centre_mm),
        translation=tuple(LPS @ displacement_mm),
    )
    ants.write_transform(transform, str(path))


def write_identity(path: Path) -> None:
    """Write the transform that leaves every point where it is."""
    ants = import_ants()
    ants.write_transform(ants.create_ants_transform("AffineTransform"), str(path))


def read_motion(transform_file: Path) -> NDArray[np.float64]:
    """Return the matrix, shape (4, 4), of a linear transform between world coordinates (RAS+, mm).

    antspyx maps points as float32, which moves none by more than 1e-4 mm within 500 mm of the
    world's origin.
    """
    transform = import_ants().read_transform(str(transform_file))
    apart_mm = 100.0
    ends = [LPS @ transform.apply_to_point((LPS @ end).tolist()) for end in apart_mm * _ENDS]
    motion = np.eye(4)
    motion[:3, :3] = (np.array(ends[1:]) - ends[0]).T / apart_mm
    motion[:3, 3] = ends[0]
    return motion


def align_rigidly(
    fixed: Image, moving: Image, region: NDArray[np.bool_], start_file: Path, path: Path
) -> None:
    """Write the rigid transform from points of `fixed` to points of `moving` as ITK text.

    It maximises Mattes' mutual information of 32 bins inside `region`. The same input gives the
    same bytes.

    Parameters
    ----------
    fixed, moving : Image
    region : bool array, shape (X, Y, Z) of `fixed`
        Where the metric looks.
    start_file : Path
        From `write_start`. Its centre should lie in the head: about the world's origin, which may
        lie anywhere, the optimiser stopped 0.6 mm from where it stops about the brain.
    path : Path
        File to write (``.txt``).

    Raises
    ------
    DataError
        ITK gave up, e.g. because the images do not overlap.
    """
    ants = import_ants()
    with TemporaryDirectory() as folder:
        try:
            result = ants.registration(
                fixed=_to_ants(fixed.values, fixed.grid),
                moving=_to_ants(moving.values, moving.grid),
                type_of_transform="Rigid",
                initial_transform=str(start_file),
                outprefix=str(Path(folder, "rigid")),
                mask=_to_ants(region, fixed.grid),
                mask_all_stages=True,
                **REGISTRATION,
            )
        except RuntimeError as error:
            message = (
                f"The image cannot be registered to T1w ({error}). Look at both: does each show "
                "the head, and is neither of them empty?"
            )
            raise DataError(message) from error
        ants.write_transform(ants.read_transform(result["fwdtransforms"][0]), str(path))


def without_bias(
    image: Image, region: NDArray[np.bool_], *, sloppy: bool = False
) -> NDArray[np.float32]:
    """Return the values of `image` divided by the smooth field that N4 finds inside `region`.

    Parameters
    ----------
    image : Image
    region : bool array, shape (X, Y, Z)
        The values outside are without meaning.
    sloppy : bool
        Whether the field is found coarsely and fast, for tests.

    References
    ----------
    Tustison et al., IEEE Transactions on Medical Imaging (2010), doi 10.1109/TMI.2010.2046908.
    """
    corrected = import_ants().n4_bias_field_correction(
        _to_ants(image.values, image.grid),
        mask=_to_ants(region, image.grid),
        **(SLOPPY_BIAS_CORRECTION if sloppy else BIAS_CORRECTION),
    )
    return np.asarray(corrected.numpy(), np.float32)
