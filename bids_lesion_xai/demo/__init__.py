# SPDX-License-Identifier: Apache-2.0
"""Synthetic heads with known lesions, as a BIDS dataset."""
