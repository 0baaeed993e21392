# SPDX-License-Identifier: Apache-2.0
"""A BIDS App that segments multiple sclerosis lesions and explains every single one of them."""

__version__ = "0.1.0"
