# SPDX-License-Identifier: Apache-2.0
"""Grids, intensities and image files."""
