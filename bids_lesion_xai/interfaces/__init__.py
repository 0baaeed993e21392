# SPDX-License-Identifier: Apache-2.0
"""Nipype interfaces: load files, call one function, save files."""
