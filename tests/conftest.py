"""What all tests share: no display, no telemetry, real scans where there are any."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, however long they take: no test fails because a machine is busy.
settings.register_profile(
    "lesion_xai",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lesion_xai")

# Before anything imports matplotlib or nipype.
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_ET"] = "1"


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def openms_bids() -> Path:
    """Return the raw dataset of real scans; skip where there is none."""
    folder = Path(os.environ.get("LESION_XAI_TEST_DATA", SHARED_DATA)) / "openms-bids"
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; LESION_XAI_TEST_DATA names their folder")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what is no UTF-8 in the output of a test: processes cannot send it to each other."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs CUDA where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
