# SPDX-License-Identifier: Apache-2.0
"""Reports, made from the files in the output folder."""
