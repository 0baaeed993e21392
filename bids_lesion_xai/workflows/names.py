# SPDX-License-Identifier: Apache-2.0
"""Names of visits in graphs, where nipype takes letters, digits and underscores; their folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from bids_lesion_xai import __version__
from bids_lesion_xai.config import RunConfig

# Of the graph of all visits.
RUN_NAME = "bids_lesion_xai_wf"


def work_folder(config: RunConfig) -> Path:
    """Return where the graphs of a run lie.

    Two runs with one work folder and other options do not meet: their output folders differ. Nor
    does one find the results of another version of this software, whose steps may be others.
    """
    own = hashlib.sha256(f"{__version__} {config.output_dir}".encode()).hexdigest()[:12]
    return config.work_dir / own


def workflow_name(visit: str) -> str:
    """Return the name of the graph of a visit.

    >>> workflow_name("sub-01_ses-a+b")
    'sub_01_ses_a_b_wf'
    """
    return re.sub(r"\W", "_", visit.replace("-", "_")) + "_wf"


def workflow_of(node: str) -> str:
    """Return the name of the graph of the visit that a node belongs to, from its full name.

    It is empty if the name is of another kind.

    >>> workflow_of("run_wf.sub_01_ses_02_wf.preprocess_wf.register_flair")
    'sub_01_ses_02_wf'
    """
    return node.partition(".")[2].partition(".")[0]
