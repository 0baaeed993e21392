# SPDX-License-Identifier: Apache-2.0
"""Names of visits in graphs: nipype takes letters, digits and underscores."""

from __future__ import annotations


def workflow_name(visit_name: str) -> str:
    """Return the name of the graph of a visit.

    >>> workflow_name("sub-01_ses-02")
    'sub_01_ses_02_wf'
    """
    return visit_name.replace("-", "_") + "_wf"


def visit_name(node: str) -> str:
    """Return the name of the visit that a node belongs to, from the node's full name.

    It is empty if the name is of another kind.

    >>> visit_name("run_wf.sub_01_ses_02_wf.preprocess_wf.register_flair")
    'sub-01_ses-02'
    """
    _, _, rest = node.partition(".")
    words = rest.partition(".")[0].removesuffix("_wf").split("_")
    return "_".join(map("-".join, zip(words[::2], words[1::2], strict=False)))
