# SPDX-License-Identifier: Apache-2.0
"""BIDS names, discovery of visits, and the one table of outputs."""
