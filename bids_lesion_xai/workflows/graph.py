# SPDX-License-Identifier: Apache-2.0
"""A drawing of a graph."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from nipype.pipeline.engine import Workflow

log = logging.getLogger(__name__)


def draw(workflow: Workflow, folder: Path) -> Path:
    """Draw a graph into `folder`, and return the file: SVG, or without graphviz its DOT text."""
    if shutil.which("dot") is None:
        log.warning("graphviz is not installed (program dot): the graph is written as text")
    workflow.base_dir = str(folder)
    try:
        workflow.write_graph("graph.dot", graph2use="colored", format="svg")
    except OSError as error:
        log.debug("graph: %s", error)
    drawn = Path(folder, workflow.name, "graph.svg")
    return drawn if drawn.is_file() else drawn.with_suffix(".dot")
