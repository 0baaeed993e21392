# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of README from the reports of the demo.

``docs/pictures.py OUTPUT_DIR FOLDER``
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

_WIDTH = 1280
_PAPER = "#fbfbfa"
# As many as a palette holds: half of the size.
_N_COLOURS = 256


def main(output_dir: Path, folder: Path) -> None:
    """Write ``participant_report.png`` and ``group_report.png`` to `folder`."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        # Light, whatever the desktop is.
        page = browser.new_page(
            viewport={"width": _WIDTH, "height": 900},
            color_scheme="light",
            reduced_motion="reduce",
        )
        page.goto(participant_report(output_dir).resolve().as_uri())
        lesion = Image.open(io.BytesIO(page.locator("article.lesion").first.screenshot()))
        _save([_until(page, "#summary"), lesion], folder / "participant_report.png")
        page.goto((output_dir / "group_report.html").resolve().as_uri())
        _save([_until(page, "#charts")], folder / "group_report.png")
        browser.close()


def participant_report(output_dir: Path) -> Path:
    """Return the report of the visit with the most lesions."""
    reports = sorted(output_dir.glob("sub-*.html"))
    return max(reports, key=lambda path: path.read_text(encoding="utf-8").count("<article"))


def _until(page: Page, section: str) -> Image.Image:
    """Return a picture of a page from its top to the end of a section."""
    end = page.locator(section).evaluate(
        "element => element.getBoundingClientRect().bottom + window.scrollY"
    )
    clip: Any = {"x": 0, "y": 0, "width": _WIDTH, "height": end + 20}
    return Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))


def _save(parts: list[Image.Image], path: Path) -> None:
    """Write pictures below each other, in few colours."""
    sheet = Image.new("RGB", (_WIDTH, sum(part.height for part in parts)), _PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, ((_WIDTH - part.width) // 2, top))
        top += part.height
    few = sheet.quantize(_N_COLOURS, Image.Quantize.FASTOCTREE)
    sheet.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
