# SPDX-License-Identifier: Apache-2.0
"""Names of the ways to explain a lesion, for the command line."""

AGGREGATIONS = {
    "mean": "gradient of the mean logit of the lesion's voxels",
    "sum": "gradient of the sum of the logits of the lesion's voxels",
    "max": "for each input voxel the gradient of the largest magnitude among the lesion's voxels "
    "(published)",
}
