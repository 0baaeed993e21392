"""What every page of the app owes its reader, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.reports.group import write_group
from bids_lesion_xai.reports.participant import write_report
from tests.outputs import (
    CROWDED,
    ONE_SAMPLE,
    TWO_SESSIONS,
    WITHOUT_LESION,
    compare_with_reference,
    publish_crowd,
    publish_outputs,
)
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
    # Of the three lesions of the first visit one is right, one false, and one was missed.
    compare_with_reference(store, VISIT, ["TP", "FP", "FN"])
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


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = publish_crowd(tmp_path_factory.mktemp("crowd"))
    return write_report(store, CROWDED)


def test_three_hundred_lesions_are_one_small_quiet_page(open_page: Open, crowd: Path) -> None:
    assert crowd.stat().st_size < MAX_BYTES
    opened = open_page(crowd)
    assert opened.page.locator("article.lesion").count() == 300
    opened.page.locator("form.filter [name=size]").select_option("tiny")
    rows = opened.page.locator("#lesion-table tbody tr:not([hidden])")
    articles = opened.page.locator("article.lesion:not([hidden])")
    assert 0 < rows.count() == articles.count() < 300
    opened.assert_quiet()


def test_a_link_leads_to_its_lesion_however_many_there_are(open_page: Open, crowd: Path) -> None:
    page = open_page(crowd, "#L250").page
    for name in ("L250", "L020", "L290"):
        if name != "L250":
            page.locator(f"tr[data-lesion={name}] a").first.click()
        # Lesions get their height when they come into view; the place must hold.
        page.wait_for_timeout(1500)
        top = page.locator(f"#{name}").evaluate("element => element.getBoundingClientRect().top")
        assert -1 < top < 100


def _shown(opened: object) -> list[str]:
    return opened.page.eval_on_selector_all(
        "#lesion-table tbody tr:not([hidden])", "rows => rows.map((row) => row.dataset.lesion)"
    )


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("outcome", "FP", ["L002"]),
        ("outcome", "FN", ["L003"]),
        ("level", "doubtful", ["L002", "L003"]),
        ("size", "medium", ["L001"]),
        ("place", "right", ["L002", "L003"]),
        ("text", "l001", ["L001"]),
        ("text", "against reference", ["L002", "L003"]),
        ("text", "nothing of the kind", []),
        ("least", "0.9", []),
        ("most", "1", ["L001", "L002", "L003"]),
    ],
)
def test_a_filter_leaves_what_matches(
    open_page: Open, store: Store, field: str, value: str, shown: list[str]
) -> None:
    opened = open_page(store.path("report", VISIT))
    entry = opened.page.locator(f"form.filter [name={field}]")
    if entry.evaluate("element => element.tagName") == "SELECT":
        entry.select_option(value)
    else:
        entry.fill(value)
    assert _shown(opened) == shown
    visible = "articles => articles.map((article) => article.id)"
    assert opened.page.eval_on_selector_all("article.lesion:not([hidden])", visible) == shown
    said = opened.page.locator("form.filter output").inner_text()
    assert said == ("All 3 shown" if len(shown) == 3 else f"{len(shown)} of 3 shown")
    opened.page.locator("form.filter [type=reset]").click()
    opened.page.locator("form.filter output:text-is('All 3 shown')").wait_for()
    opened.assert_quiet()


def test_a_link_to_a_lesion_that_is_filtered_out_takes_the_filter_away(
    open_page: Open, store: Store
) -> None:
    opened = open_page(store.path("report", VISIT))
    opened.page.locator("form.filter [name=outcome]").select_option("FP")
    opened.page.evaluate("location.hash = 'L001'")
    opened.page.wait_for_selector("#L001", state="visible")
    assert _shown(opened) == ["L001", "L002", "L003"]


def test_doubtful_lesions_and_their_reasons_are_told_before_anything_else(
    open_page: Open, store: Store
) -> None:
    opened = open_page(store.path("report", VISIT))
    cards = opened.texts("#doubts .cards > li")
    assert ["L002" in card for card in cards] == [True, False]
    assert "The reference mask has no lesion here" in cards[0]
    assert "the network missed" in cards[1]
    order = opened.page.eval_on_selector_all("main section", "all => all.map(one => one.id)")
    assert order[:2] == ["summary", "doubts"]
    opened.page.locator("a.legend.doubtful").click()
    assert _shown(opened) == ["L002", "L003"]


def test_light_and_dark_are_a_choice_that_stays(open_page: Open, store: Store) -> None:
    opened = open_page(store.path("report", ONE_SAMPLE), color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(ground)
    button = opened.page.get_by_role("button", name="Dark")
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert opened.page.evaluate(ground) != light
    opened.page.reload()
    assert opened.page.evaluate(ground) != light
    opened.assert_quiet()


def test_the_viewer_follows_the_table(open_page: Open, store: Store) -> None:
    opened = open_page(store.path("report", VISIT))
    page = opened.page
    # What is chosen before the viewer has started is what it begins with.
    page.locator("article#L001 [data-show]").click()
    page.wait_for_selector("#viewer[data-state=ready]", timeout=120_000)
    chosen = "[...document.querySelectorAll('tr[data-chosen]')].map((row) => row.dataset.lesion)"
    assert page.evaluate(chosen) == ["L001"]
    blank = page.locator("#viewer-canvas").screenshot()
    page.locator("tr[data-lesion=L002] td").nth(1).click()
    page.locator("#viewer-told:text-is('L002, saliency of FLAIR')").wait_for()
    assert page.evaluate(chosen) == ["L002"]
    assert page.locator("#viewer-canvas").screenshot() != blank
    page.get_by_role("button", name="Lesion after").click()
    page.locator("#viewer-told:text-is('L003, saliency of FLAIR')").wait_for()
    page.locator("#viewer-saliency").select_option("")
    page.locator("#viewer-told:text-is('L003')").wait_for()
    page.locator("#viewer-image").select_option("t1w")
    for name in ("L001", "L002", "L003"):
        page.locator(f"article#{name} [data-show]").click()
        page.locator(f"#viewer-told:text-is('{name}')").wait_for()
        # The crosshair is where the lesion is, though the grid is oblique.
        said = page.locator("#viewer-at").inner_text().replace("\N{MINUS SIGN}", "-")
        place, _, lesion = said.partition(" mm, in ")
        wanted = page.locator(f"tr[data-lesion={name}]").get_attribute("data-mm").split()
        assert lesion == name
        assert [*map(float, place.split(", "))] == pytest.approx([*map(float, wanted)], abs=0.1)
    assert opened.findings() == []
    opened.assert_quiet()


def test_without_webgl_the_page_says_so_and_keeps_its_figures(
    open_page: Open, store: Store
) -> None:
    none = "HTMLCanvasElement.prototype.getContext = () => null;"
    opened = open_page(store.path("report", VISIT), script=none)
    assert "no WebGL2" in opened.page.locator("#viewer-note").inner_text()
    assert opened.page.locator("#viewer-canvas").count() == 0
    assert opened.page.locator("#L001 .slices").is_visible()
    opened.assert_quiet()


def test_lesions_of_the_group_lead_to_their_place_in_the_reports(
    open_page: Open, store: Store
) -> None:
    opened = open_page(store.path("group_report"))
    opened.page.locator("form.filter [name=text]").fill(VISIT.name)
    shown = _shown(opened)
    assert shown == [f"{VISIT.name}_L00{number}" for number in (1, 2, 3)]
    link = opened.page.get_by_role("link", name=f"{VISIT.name}_L003")
    assert link.get_attribute("href") == f"{VISIT.name}.html#L003"
    opened.assert_quiet()
