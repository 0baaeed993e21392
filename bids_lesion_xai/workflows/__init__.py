# SPDX-License-Identifier: Apache-2.0
"""Nipype workflows: how the steps of one visit are joined."""
