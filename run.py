#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The entry point of the BIDS App."""

from bids_lesion_xai.cli.run import main

if __name__ == "__main__":
    raise SystemExit(main())
