"""What every page of the app owes its reader, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.reports.group import write_group
from bids_lesion_xai.reports.participant import write_report
from tests.outputs import ONE_SAMPLE, TWO_SESSIONS, WITHOUT_LESION, publish_outputs
from tests.reports.conftest import Open

VISIT = TWO_SESSIONS[0]
MAX_BYTES = 20_000_000
PAGES = {
    "several lesions": f"{VISIT.name}.html",
    "one lesion": f"{ONE_SAMPLE.name}.html",
    "no lesion": f"{WITHOUT_LESION.name}.html",
    "group": "group_report.html",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = publish_outputs(tmp_path_factory.mktemp("outputs"))
    for visit in store.visits():
        write_report(store, visit)
    write_group(store)
    return store


@pytest.fixture(params=PAGES.values(), ids=list(PAGES))
def path(request: pytest.FixtureRequest, store: Store) -> Path:
    return store.root / request.param


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_quiet_and_accessible(open_page: Open, path: Path, scheme: str) -> None:
    opened = open_page(path, color_scheme=scheme)
    assert opened.findings() == []
    opened.assert_quiet()


def test_a_page_is_small(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES


def test_a_narrow_page_does_not_scroll_sideways(open_page: Open, path: Path) -> None:
    opened = open_page(path, viewport={"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_link_within_a_page_leads_to_something_visible(open_page: Open, path: Path) -> None:
    opened = open_page(path)
    links = opened.page.eval_on_selector_all(
        "a[href^='#']", "links => [...new Set(links.map((link) => link.getAttribute('href')))]"
    )
    for link in links:
        opened.page.evaluate("hash => { location.hash = hash; }", link)
        assert opened.page.locator(f'[id="{link[1:]}"]').is_visible(), link
    opened.assert_quiet()


def _column(opened: object, name: str) -> list[str]:
    return opened.page.eval_on_selector_all(
        f'.sortable tbody tr:not([hidden]) data[data-column="{name}"]',
        "cells => cells.map((cell) => cell.value)",
    )


def test_headings_sort_by_the_exact_value_with_mouse_and_keyboard(
    open_page: Open, store: Store
) -> None:
    opened = open_page(store.path("report", VISIT))
    button = opened.page.locator('th[data-sort="flair_share"] button')
    button.click()
    falling = [float(value) for value in _column(opened, "flair_share")]
    assert len(falling) == 3
    assert falling == sorted(falling, reverse=True)
    assert opened.page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    button.press("Enter")
    assert [float(value) for value in _column(opened, "flair_share")] == falling[::-1]
    assert opened.page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    opened.assert_quiet()


def test_a_link_to_a_lesion_shows_it(open_page: Open, store: Store) -> None:
    opened = open_page(store.path("report", VISIT), "#L002")
    assert (
        opened.page.locator("#L002").evaluate("element => element.getBoundingClientRect().top")
        < 200
    )


def test_a_page_prints(open_page: Open, path: Path) -> None:
    assert open_page(path).page.pdf()[:5] == b"%PDF-"


def test_no_page_names_a_folder_of_the_host(store: Store, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert str(store.root) not in text
    assert str(Path.home()) not in text
