# SPDX-License-Identifier: Apache-2.0
"""The options of the command line, one module a group of ``--help``."""
