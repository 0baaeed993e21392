# SPDX-License-Identifier: Apache-2.0
"""The methods of the catalogue, one a module, each with a class `Method`."""
