# SPDX-License-Identifier: Apache-2.0
"""Model bundles: reading, building and running a segmentation network."""
