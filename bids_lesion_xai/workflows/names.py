# SPDX-License-Identifier: Apache-2.0
"""Names of visits in graphs: nipype takes letters, digits and underscores."""

from __future__ import annotations

import re


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
