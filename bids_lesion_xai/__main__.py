# SPDX-License-Identifier: Apache-2.0
"""``python -m bids_lesion_xai``: the same as the console script."""

from bids_lesion_xai.cli.run import main

if __name__ == "__main__":
    raise SystemExit(main())
