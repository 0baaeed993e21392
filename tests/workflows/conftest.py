# SPDX-License-Identifier: Apache-2.0
"""What tests of graphs share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

# Generous: the machine may be busy with something else.
MOST_SECONDS = 1200


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Stop a run that waits forever."""

    def stop(*_: Any) -> None:
        message = "the run did not end"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MOST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
