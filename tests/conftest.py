"""What all tests share: no display, no telemetry, real scans where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports matplotlib or nipype.
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_ET"] = "1"


@pytest.fixture(scope="session")
def openms_bids() -> Path:
    """Return the raw dataset of real scans; skip where `LESION_XAI_TEST_DATA` names none."""
    folder = Path(os.environ.get("LESION_XAI_TEST_DATA", "")) / "openms-bids"
    if "LESION_XAI_TEST_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("LESION_XAI_TEST_DATA does not name the folder of real scans")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs CUDA where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
