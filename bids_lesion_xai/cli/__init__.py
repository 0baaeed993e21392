# SPDX-License-Identifier: Apache-2.0
"""Command lines: parsers and entry points."""
