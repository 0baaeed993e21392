# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the lesion table, and of the comparison with a reference mask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pandas as pd
from nibabel.processing import resample_from_to
from nipype import logging
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
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.masks import NativePlaces, lesions_on_t1w
from bids_lesion_xai.lesions.compare import Regions, add_controls, compare
from bids_lesion_xai.lesions.describe import Scan, describe
from bids_lesion_xai.lesions.location import REQUIRED
from bids_lesion_xai.lesions.normal import normal_white_matter

log = logging.getLogger("nipype.interface")

# Brain masks are wider than tissue maps by fluid, and nothing else.
_LEAST_COVERAGE = 0.5


class _DescribeInput(BaseInterfaceInputSpec):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as the network sees it")
    t1w_file = File(exists=True, mandatory=True, desc="T1w on the same grid")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the same grid")
    probability_file = File(exists=True, mandatory=True, desc="lesion probability")
    labels_file = File(exists=True, mandatory=True, desc="lesions with their numbers")
    transform_file = File(exists=True, mandatory=True, desc="flair_to_t1w_file of RegisterFlair")
    native_flair_file = File(exists=True, mandatory=True, desc="FLAIR of the raw dataset")
    native_t1w_file = File(exists=True, mandatory=True, desc="T1w of the raw dataset")
    reference_file = File(exists=True, desc="true lesions, in FLAIR or T1w space")
    reference_space = traits.Str(desc="its entity space, empty if it has none")
    tissue_file = File(exists=True, desc="FreeSurfer's numbers, in T1w space")
    visit = traits.Str(mandatory=True, desc="name of the visit, for messages and for places")
    seed = traits.Int(mandatory=True, desc="of the places of control regions")
    threshold = traits.Float(mandatory=True, desc="probability from which a voxel may be lesion")
    min_volume_mm3 = traits.Float(mandatory=True, desc="of a lesion of the reference")
    columns = traits.List(traits.Str, mandatory=True, desc="columns of the tables, in order")
    needs_normal = traits.Bool(mandatory=True, desc="write normal_file without a reference, too")


class _DescribeOutput(TraitedSpec):
    table_file = File(exists=True, desc="one row a predicted lesion")
    explained_file = File(exists=True, desc="int32, regions to explain; predicted lesions first")
    studied_file = File(exists=True, desc="int32, these without control regions")
    normal_file = File(exists=True, desc="uint8, normal-appearing white matter")
    region_labels_file = File(exists=True, desc="explained_file, if there is a reference mask")
    region_table_file = File(exists=True, desc="one row a region, if there is a reference mask")


class Describe(SimpleInterface):
    """Describe every lesion, and compare with a reference mask where there is one."""

    input_spec = _DescribeInput
    output_spec = _DescribeOutput

    def _run_interface(self, runtime: Any) -> Any:
        labels, grid = nifti.load(Path(self.inputs.labels_file), np.int32)
        scan = self._scan(grid)
        folder = Path(runtime.cwd)
        reference = self._reference(grid, scan.brain)
        if reference is not None:
            self._compare(folder, scan, labels, reference)
            return runtime
        self._tabulate("table_file", folder, describe(scan, labels))
        for name in ("explained_file", "studied_file"):
            self._results[name] = self.inputs.labels_file
        if self.inputs.needs_normal:
            normal = _normal(scan, self._possible_lesions(scan, labels))
            self._save("normal_file", folder, normal, grid)
        return runtime

    def _compare(
        self,
        folder: Path,
        scan: Scan,
        labels: NDArray[np.int32],
        reference: NDArray[np.bool_],
    ) -> None:
        normal = _normal(scan, self._possible_lesions(scan, labels) | reference)
        volumes = (scan.grid.voxel_volume_mm3, self.inputs.min_volume_mm3)
        compared = compare(labels, reference, *volumes)
        regions = add_controls(compared, normal, self.inputs.seed, self.inputs.visit)
        self._tabulate_regions(folder, scan, regions, int(labels.max(initial=0)))
        counts = Counter(regions.outcomes)
        log.info(
            "%s: %d lesions right (TP), %d wrong (FP), %d missed (FN), %d control regions (TN)",
            *(self.inputs.visit, counts["TP"], counts["FP"], counts["FN"], counts["TN"]),
        )
        self._save("normal_file", folder, normal, scan.grid)
        self._save("region_labels_file", folder, regions.labels, scan.grid)
        self._save("studied_file", folder, compared.labels, scan.grid)
        self._results["explained_file"] = self._results["region_labels_file"]

    def _possible_lesions(self, scan: Scan, labels: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return the lesions, which others may have drawn, and what the network takes for one."""
        return np.asarray((scan.probability >= self.inputs.threshold) | (labels > 0))

    def _scan(self, grid: Grid) -> Scan:
        images = {
            channel: nifti.load(Path(getattr(self.inputs, f"{channel}_file")))[0]
            for channel in ("flair", "t1w")
        }
        brain, _ = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        probability, _ = nifti.load(Path(self.inputs.probability_file))
        return Scan(images, brain, probability, self._tissues(grid, brain), grid)

    def _tissues(self, grid: Grid, brain: NDArray[np.bool_]) -> NDArray[np.int32] | None:
        """Return the tissue map on `grid`, each voxel with the number of the nearest one."""
        if not isdefined(self.inputs.tissue_file):
            return None
        path = Path(self.inputs.tissue_file)
        values, own = nifti.load(path)
        image = nb.Nifti1Image(values, own.affine)
        resampled = resample_from_to(image, (grid.shape, grid.affine), order=0)
        tissues = np.rint(np.asarray(resampled.dataobj)).astype(np.int32)
        covered = float((tissues[brain] != 0).mean())
        if covered < _LEAST_COVERAGE:
            message = (
                f"{self.inputs.visit}: {path.name} covers {100 * covered:.0f} % of the brain of "
                "this T1w; a tissue map of this very T1w, in its space, is expected. Check "
                "--tissue-maps."
            )
            raise DataError(message)
        missing = [name for name, values in REQUIRED.items() if not np.isin(tissues, values).any()]
        if missing:
            message = (
                f"{self.inputs.visit}: {path.name} has none of FreeSurfer's numbers of "
                f"{', '.join(missing)}; an aseg or aparc+aseg is expected. Check --tissue-maps."
            )
            raise DataError(message)
        return np.asarray(tissues)

    def _reference(self, grid: Grid, brain: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """Return the reference mask on `grid`, None if there is none."""
        if not isdefined(self.inputs.reference_file):
            return None
        places = NativePlaces(
            Path(self.inputs.native_flair_file),
            Path(self.inputs.native_t1w_file),
            Path(self.inputs.transform_file),
        )
        path, space = Path(self.inputs.reference_file), self.inputs.reference_space
        with naming(self.inputs.visit):
            return lesions_on_t1w(path, space, "--reference-masks", places, brain, grid)

    def _tabulate_regions(
        self, folder: Path, scan: Scan, regions: Regions, n_predicted: int
    ) -> None:
        rows = describe(scan, regions.labels, regions.outcomes)
        self._tabulate("region_table_file", folder, rows)
        self._tabulate("table_file", folder, rows[:n_predicted])

    def _tabulate(self, key: str, folder: Path, rows: list[dict[str, Any]]) -> None:
        table = pd.DataFrame(rows, columns=self.inputs.columns)
        table.to_csv(folder / f"{key}.tsv", sep="\t", index=False, na_rep="n/a")
        self._results[key] = str(folder / f"{key}.tsv")

    def _save(self, key: str, folder: Path, values: NDArray[Any], grid: Grid) -> None:
        self._results[key] = str(nifti.save(folder / f"{key}.nii.gz", values, grid))


def _normal(scan: Scan, lesions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return normal_white_matter(
        scan.images["flair"],
        scan.images["t1w"],
        scan.brain,
        lesions,
        scan.grid.spacing_mm,
        scan.tissues,
    )
