# SPDX-License-Identifier: Apache-2.0
"""Tables and statistics over all participants of an output folder."""
