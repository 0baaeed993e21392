# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-demo``: make a small BIDS dataset of synthetic heads with known lesions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bids_lesion_xai.cli.arguments import file_or_folder, whole
from bids_lesion_xai.errors import LesionXaiError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai-demo",
        description="Make a small BIDS dataset of synthetic heads with multiple sclerosis "
        "lesions, and the truth about them in derivatives/truth. Needs no network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=file_or_folder,
        metavar="OUT",
        help="folder to make; one that holds this demo already is left as it is",
    )
    parser.add_argument("--seed", type=whole, default=0, help="determines every voxel")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    options = build_parser().parse_args(argv)
    try:
        report = _run(options.folder, options.seed)
    except LesionXaiError as error:
        sys.stderr.write(f"bids-lesion-xai-demo: {error}\n")
        return error.exit_code
    sys.stdout.write(report)
    return 0


def _run(folder: Path, seed: int) -> str:
    from bids_lesion_xai.demo.dataset import TRUTH, write_demo
    from bids_lesion_xai.demo.people import PEOPLE

    if not write_demo(folder, seed):
        return f"{folder} holds the demo dataset of seed {seed} already; nothing to do.\n"
    lines = [f"Demo dataset of seed {seed} in {folder}, truth in {folder / TRUTH}:"]
    for person in PEOPLE:
        n_lesions = len(person.volumes_mm3)
        for session, visit in enumerate(person.visits):
            n_lesions += len(person.new_volumes_mm3) * min(session, 1)
            lines.append(f"  {visit.name}: T1w, FLAIR, {n_lesions} lesions")
    return "\n".join(lines) + "\n"
