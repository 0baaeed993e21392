# SPDX-License-Identifier: Apache-2.0
"""The probability that a lesion is a false alarm, from the numbers of its explanation."""
