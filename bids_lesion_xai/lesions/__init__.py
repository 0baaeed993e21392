# SPDX-License-Identifier: Apache-2.0
"""Lesion instances and their table."""
