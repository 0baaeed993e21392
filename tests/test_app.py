# SPDX-License-Identifier: Apache-2.0
"""One run of the app over two visits, and what must hold of all that it leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.bids.derivatives import DERIVATIVES, LESION_LEVELS, Level
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.validate import validate
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.run import main
from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import centre_of_mass_mm
from tests.bundles import REACH, write_small_bundle
from tests.outputs import Html, lesion_rows, raw_rows, saliency_row
from tests.phantoms import CENTRE_MM, brain_mask, moved, world_mm
from tests.rawdata import BALLS, FLAIR_GRID, MOTION, T1W_GRID, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.ants]

WITH_LESIONS, WITHOUT = Visit("01", "01"), Visit("02")
VISITS = (WITH_LESIONS, WITHOUT)
LESIONS = {WITH_LESIONS: ("L001", "L002", "L003"), WITHOUT: ()}
DATASET_FILES = {
    "dataset_description.json",
    ".bidsignore",
    "README.md",
    "logs/CITATION.md",
    "logs/CITATION.bib",
}
N_SAMPLES = 2
TEXTS = {".html", ".json", ".tsv", ".md", ".bib", ".txt", ".toml"}


@dataclass(frozen=True)
class Run:
    """What a run was given, what it answered and where its outputs lie."""

    folder: Path
    exit_code: int
    before: dict[str, str]
    after: dict[str, str]

    @property
    def store(self) -> Store:
        return Store(self.folder / "out")


def listing(folder: Path) -> dict[str, str]:
    """Return the checksum of every file, and an empty text for every folder."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in folder.rglob("*")
    }


def app(raw: Path, folder: Path, model: Path, *options: str) -> int:
    """Run the app in this process, and put back what it changes of the process."""
    before = signal.getsignal(signal.SIGTERM)
    arguments = [raw, folder / "out", "--model", model, "-w", folder / "work"]
    arguments += ["--skull-strip", "skip", "--device", "cpu", "--n-samples", N_SAMPLES, *options]
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "NIPYPE_CONFIG_DIR"):
            patch.setenv(variable, str(folder / "cache"))
        try:
            return main([*map(str, arguments)])
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("app")
    raw, model = folder / "raw", write_small_bundle(folder / "model")
    write_raw(raw, {WITH_LESIONS: BALLS, WITHOUT: ()})
    paths = [raw, *raw.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    before = listing(raw)
    exit_code = app(raw, folder, model, "--nprocs", "2", "participant", "group")
    yield Run(folder, exit_code, before, listing(raw))
    for path in paths:
        path.chmod(modes[path])


def placed(store: Store, channel: str, lesion: str) -> NDArray[np.float32]:
    """Return the map of a lesion on the whole grid, put where its affine says."""
    _, whole = nifti.load(store.path("lesion_labels", WITH_LESIONS))
    values, grid = nifti.load(store.path(f"lesion_saliency_{channel}", WITH_LESIONS, lesion))
    offset = np.linalg.solve(whole.affine, grid.affine[:, 3])[:3]
    start = np.rint(offset).astype(int)
    np.testing.assert_allclose(offset, start, atol=1e-3)
    dense = np.zeros(whole.shape, np.float32)
    dense[tuple(slice(i, i + n) for i, n in zip(start, values.shape, strict=True))] = values
    return dense


def labels_of(store: Store) -> NDArray[np.int32]:
    return nifti.load(store.path("lesion_labels", WITH_LESIONS), np.int32)[0]


def test_all_visits_are_done(run: Run) -> None:
    assert run.exit_code == 0
    assert run.store.visits() == sorted(VISITS)


def test_the_validator_finds_nothing_to_say(run: Run) -> None:
    issues = validate(run.store.root, run.folder / "cache")
    assert [issue for issue in issues if issue["severity"] in ("error", "warning")] == []


def test_every_file_is_in_the_table_of_outputs_and_every_output_is_there(run: Run) -> None:
    expected = set(DATASET_FILES)
    for row in DERIVATIVES.values():
        if row.optional:
            continue
        places = []
        if row.level is Level.GROUP:
            places = [row.path()]
        elif row.level in LESION_LEVELS:
            places = [row.path(visit, name) for visit in VISITS for name in LESIONS[visit]]
        else:
            places = [row.path(visit) for visit in VISITS]
        expected |= {place.as_posix() for place in places}
        if row.facts:
            stems = [place.as_posix().removesuffix(row.extension) for place in places]
            expected |= {f"{stem}.json" for stem in stems}
    found = {path for path, checksum in listing(run.store.root).items() if checksum}
    logs = {path for path in found if re.fullmatch(r"logs/run-[0-9a-f]{32}\.(json|toml)", path)}
    assert len(logs) == 2
    assert found - logs == expected


def test_the_readme_of_the_output_names_files_that_are_there(run: Run) -> None:
    text = (run.store.root / "README.md").read_text(encoding="utf-8")
    shown = dict(
        zip(re.findall(r"^- `(.*)`: ", text, re.MULTILINE), DERIVATIVES.values(), strict=True)
    )
    label = WITH_LESIONS.participant
    session = f"ses-{WITH_LESIONS.session}" if WITH_LESIONS.session else ""
    for path, row in shown.items():
        name = path.replace("LABEL", f"{label}_{session}" if session else label)
        folder = f"sub-{label}/{session}/anat" if "/anat/" in path else Path(name).parent
        if "/figures/" in path:
            folder = f"sub-{label}/figures"
        is_there = (run.store.root / folder / Path(name).name).is_file()
        assert is_there == (not row.optional), path


def test_nothing_that_is_shared_names_a_folder_of_the_machine(run: Run) -> None:
    paths = [path for path in run.store.root.rglob("*") if path.suffix in TEXTS]
    assert {path.suffix for path in paths} == TEXTS
    folders = (run.folder, Path(__file__).parents[1], Path(sys.prefix), Path.home())
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert [folder for folder in folders if f"{folder}/" in text] == [], path


def test_a_run_says_how_it_came_about(run: Run) -> None:
    (path,) = (run.store.root / "logs").glob("run-*.json")
    log = json.loads(path.read_text(encoding="utf-8"))
    assert log["Status"] == "done"
    assert log["Model"]["Name"] == "small"
    assert log["Libraries"]["torch"] == version("torch")
    for visit in log["Visits"]:
        assert visit["Status"] == "done"
        assert 0 < visit["WallSeconds"] < log["WallSeconds"]
    text = (run.store.root / "logs/CITATION.md").read_text(encoding="utf-8")
    for words in ("The brain mask was given", "small 1.2.3", f"samples: {N_SAMPLES};", "rigidly"):
        assert words in text


def test_the_options_of_the_run_are_kept(run: Run) -> None:
    (path,) = (run.store.root / "logs").glob("run-*.toml")
    options = pytest.importorskip("tomllib").loads(path.read_text(encoding="utf-8"))
    assert options["n-samples"] == N_SAMPLES
    assert options["skull-strip"] == "skip"
    assert options["paths"] == {"model": "model"}


def test_the_log_states_what_came_of_every_visit(run: Run) -> None:
    (path,) = (run.store.root / "logs").glob("run-*.json")
    content = json.loads(path.read_text())
    found = {entry["Visit"]: (entry["Status"], entry["Reason"]) for entry in content["Visits"]}
    assert found == {visit.name: ("done", "") for visit in VISITS}


def test_no_file_is_left_half_written(run: Run) -> None:
    assert not list(run.folder.rglob("*.partial"))


def test_the_input_is_as_it_was(run: Run) -> None:
    assert run.before == run.after
    assert len(run.before) > 2 * len(VISITS)


def test_reports_load_nothing_and_link_to_what_is_there(run: Run) -> None:
    reports = sorted(run.store.root.glob("*.html"))
    assert len(reports) == len(VISITS) + 1
    for path in reports:
        report = Html(path.read_text(encoding="utf-8"))
        assert report.alternatives
        assert all(source.startswith("data:") for source in report.sources)
        for link in report.links:
            target, _, anchor = link.partition("#")
            if target.startswith(("https://", "http://")):
                continue
            other = path.with_name(target) if target else path
            assert other.is_file()
            assert not anchor or anchor in Html(other.read_text(encoding="utf-8")).ids


def test_lesions_are_found_where_they_are(run: Run) -> None:
    rows = raw_rows(run.store.path("lesion_table", WITH_LESIONS))
    assert [row["name"] for row in rows] == list(LESIONS[WITH_LESIONS])
    for row, (middle_mm, radius_mm) in zip(rows, BALLS, strict=True):
        found_mm = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
        assert np.linalg.norm(found_mm - (CENTRE_MM + middle_mm)) < 1
        assert float(row["equivalent_diameter_mm"]) == pytest.approx(2 * radius_mm, abs=1.5)


def test_the_mask_on_the_native_grid_lies_where_flair_shows_the_lesions(run: Run) -> None:
    path = run.store.path("lesion_mask_native", WITH_LESIONS)
    mask, grid = nifti.load(path, np.bool_)
    assert grid.same_as(moved(FLAIR_GRID, MOTION))
    components, n_components = ndimage.label(mask)
    centres_mm = [
        centre_of_mass_mm((components == i).astype(np.float32), grid)
        for i in range(1, n_components + 1)
    ]
    for middle_mm, _ in BALLS:
        expected_mm = (MOTION @ [*(CENTRE_MM + middle_mm), 1])[:3]
        assert min(np.linalg.norm(found - expected_mm) for found in centres_mm) < 1.5


def test_the_lesion_table_states_the_numbers_of_the_images(run: Run) -> None:
    probability, grid = nifti.load(run.store.path("lesion_probability", WITH_LESIONS))
    rows = raw_rows(run.store.path("lesion_table", WITH_LESIONS))
    for row, expected in zip(
        rows, lesion_rows(labels_of(run.store), probability, grid), strict=True
    ):
        assert row["name"] == expected.pop("name")
        assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=1e-5)


def numbers(run: Run, kind: str) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """Yield numbers of the saliency table, and the same from the maps, for every lesion."""
    labels = labels_of(run.store)
    for row in raw_rows(run.store.path("saliency_table", WITH_LESIONS)):
        maps = {channel: placed(run.store, channel, row["name"]) for channel in CHANNELS}
        expected = saliency_row(labels, int(row["index"]), maps, N_SAMPLES)
        keys = [
            key
            for key in expected
            if key != "name" and not key.endswith("_se") and ("shell" in key) == (kind == "shell")
        ]
        yield {key: float(row[key]) for key in keys}, {key: expected[key] for key in keys}


def test_the_saliency_table_states_the_numbers_of_the_maps(run: Run) -> None:
    pairs = list(numbers(run, "other"))
    assert len(pairs) == len(BALLS)
    for found, expected in pairs:
        assert len(found) > 12
        assert found == pytest.approx(expected, rel=1e-4)


def test_the_saliency_table_states_the_means_in_the_shells_of_the_maps(run: Run) -> None:
    for found, expected in numbers(run, "shell"):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_saliency_lies_around_its_lesion_and_nowhere_else(run: Run) -> None:
    labels = labels_of(run.store)
    cube = np.ones((3, 3, 3), bool)
    for index, name in enumerate(LESIONS[WITH_LESIONS], start=1):
        lesion = labels == index
        reached = ndimage.binary_dilation(lesion, cube, iterations=REACH)
        near = ndimage.binary_dilation(lesion, cube) & ~lesion
        for channel in CHANNELS:
            values = placed(run.store, channel, name)
            assert not values[~reached].any()
            assert np.count_nonzero(values[lesion]) > 0.99 * lesion.sum()
            assert np.abs(values[near]).max() > 0.01 * np.abs(values).max()


def test_the_map_of_all_lesions_is_the_map_of_each_around_it(run: Run) -> None:
    for channel in CHANNELS:
        whole, _ = nifti.load(run.store.path(f"saliency_{channel}", WITH_LESIONS))
        # These lesions lie so far apart that no two maps meet.
        maps = [placed(run.store, channel, name) for name in LESIONS[WITH_LESIONS]]
        np.testing.assert_array_equal(whole, np.sum(maps, axis=0))


def test_no_lesion_is_a_result_with_images_of_zeros_and_empty_tables(run: Run) -> None:
    for key in ("lesion_mask", "lesion_mask_native", "lesion_labels", "saliency_flair"):
        assert not nifti.load(run.store.path(key, WITHOUT))[0].any()
    for key in ("lesion_table", "saliency_table"):
        header = "\t".join(DERIVATIVES[key].columns) + "\n"
        assert run.store.path(key, WITHOUT).read_text() == header


def test_the_group_tables_hold_every_lesion_and_every_visit(run: Run) -> None:
    participants = raw_rows(run.store.path("group_participants"))
    found = [(row["participant_id"], row["session_id"], row["n_lesions"]) for row in participants]
    assert found == [("sub-01", "ses-01", "3"), ("sub-02", "n/a", "0")]
    lesions = raw_rows(run.store.path("group_lesions"))
    tables = [run.store.path(key, WITH_LESIONS) for key in ("lesion_table", "saliency_table")]
    for row, expected in zip(lesions, raw_rows(*tables), strict=True):
        assert {key: row[key] for key in expected} == expected


def test_lesions_and_brains_of_other_datasets_are_taken_and_explained(
    run: Run, tmp_path: Path
) -> None:
    (place_mm, radius_mm), *_ = BALLS
    inside = np.linalg.norm(world_mm(T1W_GRID) - CENTRE_MM - place_mm, axis=-1) <= radius_mm
    for dataset, name, values in (
        ("drawn", "label-lesion_mask", inside),
        ("prep", "desc-brain_mask", brain_mask(T1W_GRID)),
    ):
        path = tmp_path / dataset / WITHOUT.folder / "anat" / f"{WITHOUT.name}_{name}.nii.gz"
        path.parent.mkdir(parents=True)
        nifti.save(path, values, T1W_GRID)
    options = ["--existing-lesion-mask", str(tmp_path / "drawn"), "-d", str(tmp_path / "prep")]
    raw, model = run.folder / "raw", run.folder / "model"
    assert app(raw, tmp_path, model, *options, "--nprocs", "2", "participant", "group") == 0
    store = Store(tmp_path / "out")
    assert store.visits() == [WITHOUT]
    (row,) = raw_rows(store.path("lesion_table", WITHOUT))
    found_mm = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
    assert np.linalg.norm(found_mm - (CENTRE_MM + place_mm)) < 1
    assert float(row["mean_probability"]) < 0.5
    assert nifti.load(store.path("saliency_flair", WITHOUT))[0].any()
    assert store.facts("brain_mask", WITHOUT)["SkullStripMethod"] == "derivative"
    links = json.loads((store.root / "dataset_description.json").read_text())["DatasetLinks"]
    assert set(links) == {"raw", "existing-lesion-mask", "prep"}
    text = (store.root / "logs/CITATION.md").read_text(encoding="utf-8")
    assert "those of other derivatives were taken" in text
    (log,) = (json.loads(path.read_text()) for path in (store.root / "logs").glob("run-*.json"))
    assert [skip["Visit"] for skip in log["Skipped"]] == [WITH_LESIONS.name]
    issues = validate(store.root, tmp_path / "cache")
    assert [issue for issue in issues if issue["severity"] in ("error", "warning")] == []


def test_another_run_on_another_number_of_cores_gives_the_same_voxels_and_numbers(
    run: Run, tmp_path: Path
) -> None:
    raw, model = run.folder / "raw", run.folder / "model"
    options = ("--nprocs", "1", "--participant-label", "01", "--skip-bids-validation")
    assert app(raw, tmp_path, model, *options, "participant") == 0
    again = Store(tmp_path / "out")
    first = {
        path.relative_to(run.store.root): path
        for pattern in ("*.nii.gz", "*.tsv", "*.txt")
        for path in (run.store.root / WITH_LESIONS.folder).rglob(pattern)
    }
    assert len(first) > 10 + 2 * len(BALLS)
    for relative, path in first.items():
        if path.suffix == ".gz":
            np.testing.assert_array_equal(
                nifti.load(path)[0], nifti.load(again.root / relative)[0], str(relative)
            )
        else:
            assert path.read_text() == (again.root / relative).read_text()


def test_a_second_run_by_another_method_takes_the_place_of_the_first(
    run: Run, tmp_path: Path
) -> None:
    raw, model = run.folder / "raw", run.folder / "model"
    options = ("--participant-label", "01", "--skip-bids-validation")
    assert app(raw, tmp_path, model, *options, "--preset", "published", "participant") == 0
    assert app(raw, tmp_path, model, *options, "--method", "vargrad", "participant", "group") == 0
    store = Store(tmp_path / "out")
    assert store.visits() == [WITH_LESIONS]
    saliency = [path for path in listing(store.root) if "_saliency." in path]
    assert len(saliency) > 4 + 3 * len(BALLS)
    assert all("desc-vargrad" in path for path in saliency)
    units = "(logit per unit of normalised intensity)^2"
    facts = store.facts("saliency_table", WITH_LESIONS)
    assert (facts["Method"], facts["Aggregation"], facts["Units"]) == ("vargrad", "mean", units)
    for name in ("group_lesions", "group_participants"):
        assert store.facts(name)["Units"] == units
    for channel in CHANNELS:
        assert placed(store, channel, "L001").min() >= 0
    text = store.path("report", WITH_LESIONS).read_text(encoding="utf-8")
    assert units in text
    issues = validate(store.root, run.folder / "cache")
    assert [issue for issue in issues if issue["severity"] in ("error", "warning")] == []


def test_a_mask_in_flair_space_tells_right_from_wrong_and_experiments_follow(
    run: Run, tmp_path: Path
) -> None:
    before = run.store
    mask, grid = nifti.load(before.path("lesion_mask_native", WITH_LESIONS), np.bool_)
    components, n_components = ndimage.label(mask)
    assert n_components == len(BALLS)
    # One lesion less than there are; a box where none is, in the brain, is missed.
    mask[components == components[mask][0]] = False
    inside = before.path("brain_mask", WITH_LESIONS)
    brain, t1w_grid = nifti.load(inside, np.bool_)
    free = ndimage.distance_transform_edt(brain & (labels_of(before) == 0))
    deepest_mm = t1w_grid.to_world_mm(np.array(np.unravel_index(free.argmax(), free.shape)))
    place = np.linalg.inv(grid.affine) @ MOTION @ [*deepest_mm, 1]
    box = tuple(slice(round(i) - 1, round(i) + 2) for i in place[:3])
    assert not mask[box].any()
    mask[box] = True
    folder = tmp_path / "masks" / WITH_LESIONS.folder / "anat"
    folder.mkdir(parents=True)
    nifti.save(folder / f"{WITH_LESIONS.name}_space-FLAIR_label-lesion_mask.nii.gz", mask, grid)
    model = run.folder / "model"
    options = ("participant", "group", "--participant-label", WITH_LESIONS.participant)
    options += ("--reference-masks", str(tmp_path / "masks"), "--experiments", "channel")
    assert app(run.folder / "raw", tmp_path, model, *options) == 0
    store = Store(tmp_path / "out")
    rows = raw_rows(store.path("region_table", WITH_LESIONS))
    outcomes = [row["outcome"] for row in rows]
    assert sorted(outcomes[: len(BALLS) + 1]) == ["FN", "FP", *["TP"] * (len(BALLS) - 1)]
    assert outcomes[len(BALLS)] == "FN"
    found_mm = [float(rows[len(BALLS)][f"centroid_{axis}_mm"]) for axis in "xyz"]
    assert np.linalg.norm(found_mm - deepest_mm) < 1.5
    names = [row["name"] for row in raw_rows(store.path("saliency_table", WITH_LESIONS))]
    assert names == [row["name"] for row in rows]
    channels = raw_rows(store.path("experiment_channel", WITH_LESIONS))
    studied = [row["name"] for row in rows if row["outcome"] != "TN"]
    assert [row["name"] for row in channels] == [name for name in studied for _ in range(4)]
    for row in channels:
        if row["replaced"] == "none":
            expected = float(rows[int(row["index"]) - 1]["mean_probability"])
            assert float(row["mean_probability"]) == pytest.approx(expected, abs=1e-5)
    normal, _ = nifti.load(store.path("normal_mask", WITH_LESIONS), np.bool_)
    regions, _ = nifti.load(store.path("region_labels", WITH_LESIONS), np.int32)
    of_controls = [outcomes[number - 1] == "TN" for number in regions[normal & (regions > 0)]]
    assert normal.any()
    assert all(of_controls)
    assert len(of_controls) == (regions > outcomes.index("FN") + 1).sum()
    links = json.loads((store.root / "dataset_description.json").read_text())["DatasetLinks"]
    assert Path(store.root, links["reference-masks"]).resolve() == tmp_path / "masks"
    assert {issue.get("severity") for issue in validate(store.root, tmp_path / "cache")} <= {None}
