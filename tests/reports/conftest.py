"""A real browser for the reports: Debian's Chromium, driven by Playwright, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reports.browsing import MOST_MS, Opened

_QUIET = (
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *(
        "--disable-sync",
        "--disable-quic",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ),
)
_DEFAULTS = {"viewport": {"width": 1200, "height": 900}}

Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Give a headless browser; skip where there is no Chromium, but never in `.ci/run`."""
    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not path:
        pytest.skip("no Chromium in PATH; apt-get install chromium, or name one in CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root.
        browser = playwright.chromium.launch(
            executable_path=path, args=list(_QUIET), timeout=MOST_MS
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: object) -> Iterator[Open]:
    """Give a function that opens a file and remembers what the browser complained of."""
    contexts = []

    def open_file(path: Path, fragment: str = "", script: str = "", **options: object) -> Opened:
        context = chromium.new_context(**{**_DEFAULTS, **options})
        contexts.append(context)
        if script:
            context.add_init_script(script)
        return Opened(context, path, fragment)

    yield open_file
    for context in contexts:
        context.close()
