# SPDX-License-Identifier: Apache-2.0
"""The report of one visit, and its figures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bids_lesion_xai.bids.derivatives import EXPERIMENT_COLUMNS
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, EXPERIMENTS
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.collect import visit_lesions, visit_summary, write_table
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.reports import figures, lesion_figure, page
from bids_lesion_xai.reports.colours import SALIENCY_COLOURS
from bids_lesion_xai.reports.experiments import draw_experiments
from bids_lesion_xai.reports.participant import write_report
from bids_lesion_xai.reports.paths import area_path, outline_path
from bids_lesion_xai.reports.slices import (
    VIEWS,
    Crop,
    Scan,
    lesion_windows,
    overview_slices,
    upright,
)
from tests.outputs import (
    ONE_SAMPLE,
    TWO_SESSIONS,
    WITHOUT_LESION,
    Html,
    compare_with_reference,
    oblique_grid,
    phantom,
    publish_outputs,
    raw_rows,
    same_number,
)
from tests.reports.test_experiments import tables

VISIT = TWO_SESSIONS[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = publish_outputs(tmp_path_factory.mktemp("outputs"))
    for visit in store.visits():
        write_report(store, visit)
    return store


@pytest.fixture
def scan() -> Scan:
    flair, t1w, labels = phantom(VISIT)
    return Scan(oblique_grid(), {"flair": flair, "t1w": t1w}, flair != 0, labels, 3)


def _report(store: Store, visit: Visit) -> Html:
    return Html(store.path("report", visit).read_text(encoding="utf-8"))


@pytest.mark.parametrize("visit", [VISIT, ONE_SAMPLE])
def test_every_number_of_a_lesion_equals_the_tables(store: Store, visit: Visit) -> None:
    report = _report(store, visit)
    rows = raw_rows(store.path("lesion_table", visit), store.path("saliency_table", visit))
    lesions = {row["name"]: row for row in rows}
    assert sorted(report.lesions) == sorted(lesions)
    for name, numbers in report.lesions.items():
        assert {"volume_mm3", "flair_peak", "flair_peak_se", "t1w_mean_shell_10mm"} <= set(numbers)
        for column, value in numbers.items():
            # The number of doubts is of the report.
            assert same_number(value, lesions[name].get(column, value)), (name, column)
        assert set(numbers) - set(lesions[name]) == {"doubts"}


def test_numbers_of_the_summary_equal_the_group_row(store: Store) -> None:
    report = _report(store, VISIT)
    summary = visit_summary(store, VISIT, visit_lesions(store, VISIT))
    assert {"n_lesions", "brain_volume_mm3", "registration_similarity"} <= set(report.numbers)
    for column, value in report.numbers.items():
        assert value == page.exact_text(summary[column])


@given(st.floats(-1e9, 1e9), st.integers(2, 5))
def test_text_of_a_number_is_its_value_rounded(value: float, digits: int) -> None:
    plain = str.maketrans("\N{MINUS SIGN}⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789", "\N{NARROW NO-BREAK SPACE}")
    shown = float(page.number_text(value, digits).translate(plain).replace("×10", "e"))
    assert shown == pytest.approx(value, rel=0.51 * 10 ** (1 - digits), abs=0)


def test_there_is_an_anchor_for_every_lesion_and_a_target_for_every_anchor(store: Store) -> None:
    for visit in store.visits():
        report = _report(store, visit)
        names = set(visit_lesions(store, visit)["name"])
        assert names == {name for name in report.ids if re.fullmatch(r"L\d{3}", name)}
        assert len(report.ids) == len(set(report.ids))
        assert {link[1:] for link in report.links if link.startswith("#")} <= set(report.ids)
        assert names <= {link[1:] for link in report.links}


def test_nothing_is_loaded_from_elsewhere(store: Store) -> None:
    for visit in store.visits():
        report = _report(store, visit)
        assert report.sources
        assert all(source.startswith("data:image/") for source in report.sources)
        assert set(report.uses) <= set(report.ids)
        assert not re.search(r"url\((?!#)|@import|<link|<iframe", report.text)
        assert "default-src 'none'" in report.text


def test_no_path_of_the_host_is_told(store: Store) -> None:
    for visit in store.visits():
        assert str(store.root) not in _report(store, visit).text


def test_every_image_has_an_alternative_text(store: Store) -> None:
    report = _report(store, VISIT)
    assert all(len(text) > 30 for text in report.alternatives)
    # The map, the overview, the viewer, and of each lesion figure, place and profile.
    assert len(report.alternatives) == 3 + 3 * 3


def test_text_is_escaped(store: Store) -> None:
    assert "bids_lesion_xai of phantoms &amp; more" in _report(store, VISIT).text


def test_figures_lie_in_the_figures_folder(store: Store) -> None:
    found = {path.name for path in (store.root / "sub-01" / "figures").iterdir()}
    lesions = {store.path("lesion_figure", VISIT, f"L{i:03d}").name for i in (1, 2, 3)}
    overviews = {store.path("overview_figure", visit).name for visit in TWO_SESSIONS}
    assert found == lesions | overviews


def test_no_lesion_is_a_result_that_the_report_states(store: Store) -> None:
    report = _report(store, WITHOUT_LESION)
    assert "No lesion found." in report.text
    assert report.lesions == {}
    assert report.numbers["n_lesions"] == "0"
    # The overview, and the brain from three sides.
    assert len(report.sources) == 1 + 3
    assert "No lesion found." not in _report(store, VISIT).text


def test_one_sample_has_no_standard_error(store: Store) -> None:
    report = _report(store, ONE_SAMPLE)
    errors = [value for key, value in report.lesions["L001"].items() if key.endswith("_se")]
    assert set(errors) == {"n/a"}
    assert "one sample has none" in report.text


def test_facts_of_the_sidecars_are_told(store: Store) -> None:
    text = _report(store, VISIT).text
    for fact in ("phantom_unet 0.1.0", "FLAIR 0.281, T1w 0.243", ">smoothgrad<", ">42<", ">cpu<"):
        assert fact in text


def test_a_report_of_lesions_that_were_given_has_no_threshold(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [VISIT], facts={"Threshold": None})
    write_report(store, VISIT)
    text = _report(store, VISIT).text
    assert "none, for the lesions were given" in text
    assert "those of other derivatives were taken" in text
    assert "lesion probability n/a" not in text


@pytest.mark.parametrize(
    ("method", "units", "words"),
    [
        ("vargrad", "(logit per unit of normalised intensity)^2", "varies with noise"),
        ("smoothgrad-squared", "(logit per unit of normalised intensity)^2", "no direction"),
        ("integrated-gradients", "probability", "beside the baseline"),
        ("gradient", "log-odds per unit of normalised intensity", "gets brighter there"),
    ],
)
def test_a_report_is_that_of_the_method(
    tmp_path: Path, method: str, units: str, words: str
) -> None:
    noise = ("NoiseLevel", "NoiseRule", "NoiseStandardDeviation", "RandomSeed")
    is_random = method in ("vargrad", "smoothgrad-squared")
    facts = {"Units": units} | ({} if is_random else dict.fromkeys(noise))
    store = publish_outputs(tmp_path, [VISIT], method, facts)
    write_report(store, VISIT)
    text = _report(store, VISIT).text
    assert words in text
    assert f"Saliency in {units}, " in text
    assert f">{method}<" in text
    assert ("one standard error over the noise samples" in text) == is_random
    assert ("without standard error" in text) == (not is_random)
    others = {"varies with noise", "beside the baseline", "gets brighter there"} - {words}
    assert not any(other in text for other in others)
    label = method.replace("-", "")
    names = {path.name for path in (tmp_path / "sub-01" / "figures").glob("*saliency.svg")}
    assert names == {f"{VISIT.name}_label-L00{i}_desc-{label}_saliency.svg" for i in (1, 2, 3)}


def test_a_report_of_root_mean_squares_tells_of_no_direction(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [VISIT], facts={"Aggregation": "rms"})
    write_report(store, VISIT)
    text = _report(store, VISIT).text
    assert "no direction" in text
    assert "gets brighter there" not in text
    assert "The values have no sign" in text
    assert "does not raise the score" not in text


def test_the_same_outputs_give_the_same_report(store: Store) -> None:
    before = store.path("report", ONE_SAMPLE).read_bytes()
    assert write_report(store, ONE_SAMPLE).read_bytes() == before


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [VISIT])
    store.path("lesion_table", VISIT).unlink()
    with pytest.raises(DataError, match=r"dseg\.tsv is missing"):
        write_report(store, VISIT)


def test_a_lesion_of_the_table_that_is_not_in_the_image_is_an_error(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [VISIT])
    labels, grid = nifti.load(store.path("lesion_labels", VISIT), np.int32)
    nifti.save(store.path("lesion_labels", VISIT), np.where(labels == 2, 0, labels), grid)
    with pytest.raises(DataError, match=r"L002 has a row but no voxel"):
        write_report(store, VISIT)


# ---- the colour scale

_MAPS = arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=16))


@given(_MAPS, _MAPS)
def test_the_limit_is_common_and_symmetric(flair: np.ndarray, t1w: np.ndarray) -> None:
    limit = lesion_figure.symmetric_limit([flair, t1w])
    assert limit > 0
    assert limit == lesion_figure.symmetric_limit([t1w, flair])
    assert limit == lesion_figure.symmetric_limit([-flair, t1w])
    assert limit == pytest.approx(lesion_figure.symmetric_limit([4 * flair, 4 * t1w]) / 4) or not (
        flair.any() or t1w.any()
    )
    largest = max(np.abs(flair).max(), np.abs(t1w).max())
    assert limit <= largest * (1 + 1e-6) or largest == 0
    assert lesion_figure.symmetric_limit([flair, t1w], percentile=100) == (largest or 1)


def test_the_limit_does_not_hang_on_how_much_is_zero() -> None:
    values = np.array([3.0, -1.0, 2.0], np.float32)
    assert lesion_figure.symmetric_limit([values]) == lesion_figure.symmetric_limit(
        [values, np.zeros(99, np.float32)]
    )


def test_a_comparison_shows_lesions_found_and_missed_with_means_by_outcome(
    tmp_path: Path,
) -> None:
    store = publish_outputs(tmp_path / "out", [VISIT])
    rows = raw_rows(store.path("lesion_table", VISIT), store.path("saliency_table", VISIT))
    outcomes = ["TP", *["FN"] * (len(rows) - 2), "TN"]
    compare_with_reference(store, VISIT, outcomes)
    write_report(store, VISIT)
    report = _report(store, VISIT)
    assert sorted(report.lesions) == [row["name"] for row in rows[:-1]]
    assert report.numbers["n_lesions"] == "1"
    for outcome in ("TP", "FN", "TN"):
        own = [row for row, of_row in zip(rows, outcomes, strict=True) if of_row == outcome]
        shown = report.outcomes[outcome]
        assert int(shown["n"]) == len(own)
        for column in ("volume_mm3", "flair_peak", "t1w_mean_inside", "flair_contrast"):
            expected = np.mean([float(row[column]) for row in own])
            assert float(shown[column]) == pytest.approx(expected)
    assert "Against the reference mask" not in _report(_without_comparison(tmp_path), VISIT).text


def _without_comparison(folder: Path) -> Store:
    store = publish_outputs(folder / "plain", [VISIT])
    write_report(store, VISIT)
    return store


def test_both_maps_and_the_colour_bar_have_the_same_symmetric_scale(scan: Scan) -> None:
    strong, weak = (np.full(scan.labels.shape, value, np.float32) for value in (2.0, -0.1))
    maps = {"flair": Crop(weak, (0, 0, 0)), "t1w": Crop(strong, (0, 0, 0))}
    svg = Html(str(lesion_figure.draw_lesion(scan, 1, maps, "units")))
    assert "\N{MINUS SIGN}2</text>" in svg.text
    shown = _image(next(uri for uri in svg.sources if "image/png" in uri))
    side = shown.shape[1] // 2
    assert shown.shape == (3 * side, 2 * side)
    # Of 254 steps from -2 to 2; outside of the grid there is none.
    assert set(np.unique(shown[:, :side])) == {127, 127 - 6}
    assert set(np.unique(shown[:, side:])) == {127, 254}


def _image(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as image:
        return np.asarray(image)


def test_the_figure_of_a_lesion_stands_alone(scan: Scan) -> None:
    maps = {channel: Crop(np.zeros((1, 1, 1), np.float32), (0, 0, 0)) for channel in CHANNELS}
    svg = lesion_figure.draw_lesion(scan, 1, maps, "units & more")
    assert minidom.parseString(svg).documentElement.tagName == "svg"  # noqa: S318 - our own
    page = Html(str(svg))
    assert set(page.uses) <= set(page.ids)
    assert all(uri.startswith("data:image/") for uri in page.sources)


@pytest.mark.parametrize("axis", VIEWS)
def test_what_is_outlined_is_the_lesion_in_the_image(scan: Scan, axis: int) -> None:
    window = next(window for window in lesion_windows(scan, 2) if window.axis == axis)
    mask = upright(window.of(scan.labels) == 2, axis)
    filled = np.zeros_like(mask)
    for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)v1", area_path(mask)):
        filled[int(row), int(column) : int(column) + int(length)] = True
    np.testing.assert_array_equal(filled, mask)
    edges = re.findall(r"[hv](\d+)", outline_path(mask))
    assert sum(map(int, edges)) == len(figures.outline(mask))


def test_colours_of_both_signs_are_equally_light_and_zero_is_the_ground() -> None:
    colours = SALIENCY_COLOURS(np.linspace(0, 1, 201))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    np.testing.assert_allclose(lightness, lightness[::-1], atol=2.5)
    assert (np.diff(lightness[100:]) > 0).all()
    assert lightness[100] == lightness.min()


# ---- slices and windows


def test_a_crop_is_found_on_an_oblique_grid() -> None:
    grid = oblique_grid()
    crop = grid.crop((5, 0, 11), (3, 4, 5))
    rounded = Grid(crop.shape, crop.affine.astype(np.float32).astype(np.float64))
    assert rounded.offset_in(grid) == (5, 0, 11)


@given(st.tuples(*[st.integers(0, 12)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_window_of_a_crop_equals_window_of_the_whole(
    offset: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    flair, t1w, labels = phantom(VISIT)
    scan = Scan(oblique_grid(), {"flair": flair, "t1w": t1w}, flair != 0, labels, 3)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = np.zeros(labels.shape, np.float32)
    part = tuple(slice(begin, begin + n) for begin, n in zip(offset, shape, strict=True))
    whole[part] = values
    for window in lesion_windows(scan, 1):
        np.testing.assert_array_equal(window.of_crop(Crop(values, offset)), window.of(whole))


@pytest.mark.parametrize("index", [1, 2, 3])
def test_the_windows_show_the_slices_with_most_voxels_and_a_margin(scan: Scan, index: int) -> None:
    inside = scan.labels == index
    windows = lesion_windows(scan, index)
    assert [window.axis for window in windows] == list(VIEWS)
    assert len({window.shape for window in windows}) == 1
    for window in windows:
        others = tuple(axis for axis in range(3) if axis != window.axis)
        assert window.of(inside).sum() == inside.sum(others).max()
        for axis, start, size in zip(others, window.start, window.shape, strict=True):
            places = np.argwhere(inside)[:, axis]
            assert places.min() - start >= 12
            assert start + size - 1 - places.max() >= 12


def test_an_outline_is_where_the_mask_ends() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2] = True
    segments = figures.outline(mask)
    assert len(segments) == 8
    np.testing.assert_array_equal(segments.min((0, 1)), [0.5, 1.5])
    np.testing.assert_array_equal(segments.max((0, 1)), [3.5, 2.5])
    assert len(figures.outline(np.zeros((3, 3), bool))) == 0


def test_the_overview_shows_every_lesion_of_a_few(scan: Scan) -> None:
    chosen = overview_slices(scan, 12)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 12
    assert set(np.unique(scan.labels[:, :, chosen])) == {0, 1, 2, 3}


def test_edges_of_a_step_are_at_the_step() -> None:
    plane = np.zeros((20, 20), np.float32)
    plane[10:] = 5
    field = figures.edges(plane)
    assert (field[9] > 0).all()
    assert (field[10] < 0).all()
    assert np.isnan(figures.edges(np.zeros((4, 4), np.float32))).all()


@pytest.mark.parametrize(("axis", "place"), [(2, (0, 0)), (1, (0, 0)), (0, (0, -1))])
def test_right_is_left_above_is_up_and_in_sagittal_slices_the_front_is_right(
    axis: int, place: tuple[int, int]
) -> None:
    volume = np.zeros((4, 5, 6), np.int32)
    # Right, anterior, superior.
    volume[-1, -1, -1] = 1
    image = upright(np.moveaxis(volume, axis, 0)[-1], axis)
    assert image[place] == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_any_experiment_alone_is_shown(tmp_path: Path, name: str) -> None:
    store = publish_outputs(tmp_path, [VISIT])
    table = tables()[name]
    own = table[table["participant_id"] == f"sub-{VISIT.participant}"]
    # Those of `synthetic` are of no lesion.
    full = own.reindex(columns=list(EXPERIMENT_COLUMNS[name]), fill_value=0)
    write_table(full, store.path(f"experiment_{name}", VISIT))
    write_report(store, VISIT)
    text = _report(store, VISIT).text
    titles = [chart["title"] for chart in draw_experiments({name: own})]
    assert titles
    assert all(title in text for title in titles)
