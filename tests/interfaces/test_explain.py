# SPDX-License-Identifier: Apache-2.0
"""The interface of the explanation: its files hold what `explain_lesions` says."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.conventions import INPUT_METHODS
from bids_lesion_xai.explain import Attribution, Progress, explain_lesions
from bids_lesion_xai.explain.summary import lesion_map, lesion_numbers, radial_profile
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces import explain as interface
from bids_lesion_xai.interfaces.explain import Explain, ProgressLog
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.network import load_network
from tests.bundles import INFERER, MULTIPLE, write_small_bundle
from tests.outputs import raw_rows
from tests.phantoms import oblique_grid

SHAPE = (23, 20, 15)
GRID = Grid(SHAPE, oblique_grid((0.9, 1.3, 2.1), (-1, -1, 1), (11, -7, 5)).affine)
COLUMNS = list(DERIVATIVES["saliency_table"].columns)
PROFILE_COLUMNS = list(DERIVATIVES["saliency_profile"].columns)
CHANNELS = ("flair", "t1w")
OPTIONS: dict[str, Any] = {
    "method": "smoothgrad",
    "aggregation": "mean",
    "target": "logit",
    "engine": "auto",
    "baseline": "zero",
    "n_samples": 3,
    "target_error": None,
    "memory_gb": 1.0,
    "seed": 5,
    "visit": "sub-01",
}
NOISE_LEVEL = 0.2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("explain") / "model")


def images() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int32]]:
    """Return FLAIR and T1w, shape (2, X, Y, Z), the brain, and lesions close to each other."""
    values = np.random.default_rng(2).normal(0, 1, (2, *SHAPE)).astype(np.float32)
    values[1] *= 3
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 1:-3, 2:-1] = True
    values[:, ~brain] = 0
    labels = np.zeros(SHAPE, np.int32)
    labels[8:12, 8:11, 6:9] = 1
    labels[14:16, 9:11, 7] = 2
    # On the face of the volume.
    labels[22, 3:5, 14] = 3
    return values, brain, labels


def explain(
    folder: Path, model: Path, labels: NDArray[np.int32] | None = None, **options: Any
) -> Any:
    """Run the interface in `folder`, and return its outputs."""
    values, brain, three = images()
    arrays = {
        "flair_file": values[0],
        "t1w_file": values[1],
        "brain_mask_file": brain,
        "labels_file": three if labels is None else labels,
    }
    files = {
        name: str(nifti.save(folder / f"{name}.nii.gz", array, GRID))
        for name, array in arrays.items()
    }
    files["explained_file"] = files["labels_file"]
    run = Explain(
        model=str(model),
        noise_level=NOISE_LEVEL,
        device="cpu",
        use_gpu=False,
        allow_tf32=False,
        flip=False,
        n_threads=1,
        columns=COLUMNS,
        profile_columns=PROFILE_COLUMNS,
        **{**files, "noise_rule": "robust", **OPTIONS, **options},
    )
    return run.run(cwd=str(folder)).outputs


def sigma() -> list[float]:
    """Return the noise level times the range from the 0.1 to the 99.9 percentile in the brain."""
    values, brain, _ = images()
    low, high = np.percentile(values[:, brain], [0.1, 99.9], axis=1)
    return (NOISE_LEVEL * (high - low)).tolist()


def published_sigma() -> list[float]:
    """Return the noise level times FLAIR's range, for both images."""
    flair = images()[0][0].astype(np.float64)
    return [NOISE_LEVEL * (flair.max() - flair.min())] * 2


def directly(model: Path, **options: Any) -> list[Attribution]:
    """Return what the function says that the interface calls."""
    values, _, labels = images()
    network = load_network(read_bundle(model), torch.device("cpu"))
    given = {"sigma": sigma(), "multiple": MULTIPLE, **OPTIONS, **options}
    found = explain_lesions(network, torch.from_numpy(values), torch.from_numpy(labels), **given)
    return list(found)


def assert_near(found: NDArray, expected: Any) -> None:
    """Compare to what float32 resolves of the largest magnitude."""
    expected = np.asarray(expected)
    peak = float(np.abs(expected).max())
    assert peak > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * peak)


def placed(path: Path) -> NDArray[np.float32]:
    """Return the map of one lesion on the whole grid, put where its affine says."""
    image = nb.load(path)
    assert image.get_data_dtype() == np.float32
    steps = np.linalg.inv(GRID.affine) @ image.affine
    offset = np.rint(steps[:3, 3]).astype(int)
    np.testing.assert_allclose(steps[:3, :3], np.eye(3), atol=1e-5)
    np.testing.assert_allclose(steps[:3, 3], offset, atol=1e-4)
    dense = np.zeros(SHAPE, np.float32)
    box = tuple(
        slice(start, start + size) for start, size in zip(offset, image.shape, strict=True)
    )
    dense[box] = np.asarray(image.dataobj)
    return dense


@pytest.mark.parametrize(
    "options",
    [
        *({"aggregation": name} for name in ("mean", "sum", "max", "rms")),
        *({"method": name} for name in INPUT_METHODS if name != "smoothgrad"),
        {"method": "integrated-gradients", "baseline": "brain-mean"},
        {"target": "probability"},
        {"target": "logodds", "method": "vargrad"},
        *({"engine": name} for name in ("pruned", "crop", "whole")),
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_the_map_of_a_lesion_placed_by_its_affine_is_that_of_the_function(
    tmp_path: Path, model: Path, options: dict[str, Any]
) -> None:
    outputs = explain(tmp_path, model, **options)
    folder = Path(outputs.lesion_folder)
    attributions = directly(model, **options)
    assert [attribution.lesion for attribution in attributions] == [1, 2, 3]
    names = {f"L00{lesion}_{channel}.nii.gz" for lesion in (1, 2, 3) for channel in CHANNELS}
    assert {path.name for path in folder.iterdir()} == names
    for attribution in attributions:
        for channel, expected in zip(CHANNELS, attribution.dense(SHAPE), strict=True):
            found = placed(folder / f"L00{attribution.lesion}_{channel}.nii.gz")
            assert_near(found, expected)


@pytest.mark.parametrize("options", [{"method": "vargrad"}, {"target": "probability"}])
def test_another_method_or_target_gives_another_map(
    tmp_path: Path, model: Path, options: dict[str, str]
) -> None:
    maps = []
    for name, given in (("default", {}), ("other", options)):
        (tmp_path / name).mkdir()
        outputs = explain(tmp_path / name, model, **given)
        maps.append(placed(Path(outputs.lesion_folder, "L001_flair.nii.gz")))
    first, second = (values / np.abs(values).max() for values in maps)
    assert np.abs(first - second).max() > 0.01


def test_the_noise_of_the_published_rule_is_that_of_flair_in_both_images(
    tmp_path: Path, model: Path
) -> None:
    expected = published_sigma()
    outputs = explain(tmp_path, model, noise_rule="flair-range")
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts["sigma"] == pytest.approx(expected, rel=1e-6)
    for attribution in directly(model, sigma=expected):
        for channel, values in zip(CHANNELS, attribution.dense(SHAPE), strict=True):
            name = f"L00{attribution.lesion}_{channel}.nii.gz"
            assert_near(placed(Path(outputs.lesion_folder, name)), values)


def test_a_model_of_windows_is_explained_by_windows(tmp_path: Path) -> None:
    model = write_small_bundle(tmp_path / "windows", inferer=INFERER)
    outputs = explain(tmp_path, model)
    windows = {"window": INFERER["roi_size"], "overlap": INFERER["overlap"]}
    by_windows, by_volume = directly(model, **windows), directly(model)
    assert json.loads(Path(outputs.facts_file).read_text())["engine"] == "window"
    differ = []
    for one, other in zip(by_windows, by_volume, strict=True):
        pairs = zip(CHANNELS, one.dense(SHAPE), other.dense(SHAPE), strict=True)
        for channel, expected, whole in pairs:
            assert_near(
                placed(Path(outputs.lesion_folder, f"L00{one.lesion}_{channel}.nii.gz")), expected
            )
            differ.append(bool((expected - whole).abs().max() > 0.01 * whole.abs().max()))
    assert any(differ)


def test_a_lesion_stops_at_the_error_that_is_allowed(tmp_path: Path, model: Path) -> None:
    options = {"n_samples": 40, "target_error": 0.1}
    outputs = explain(tmp_path, model, **options)
    rows = raw_rows(Path(outputs.table_file))
    used = [int(row["n_samples"]) for row in rows]
    assert used == [attribution.n_samples for attribution in directly(model, **options)]
    assert min(used) < 40
    (tmp_path / "all").mkdir()
    fewer = explain(tmp_path / "all", model, n_samples=min(used))
    lesion = used.index(min(used))
    assert raw_rows(Path(fewer.table_file))[lesion] == rows[lesion]
    for row, count in zip(rows, used, strict=True):
        pairs = [(abs(float(row[f"{c}_peak"])), float(row[f"{c}_peak_se"])) for c in CHANNELS]
        peak, error = max(pairs)
        assert 5 <= count <= 40
        assert error <= 0.1 * peak or count == 40


def test_the_whole_map_holds_at_every_voxel_the_map_of_the_nearest_lesion(
    tmp_path: Path, model: Path
) -> None:
    labels = images()[2]
    outputs = explain(tmp_path, model)
    places = np.argwhere(np.ones(SHAPE, bool)) * GRID.spacing_mm
    distances = np.stack(
        [
            np.linalg.norm(
                places[:, None] - np.argwhere(labels == lesion) * GRID.spacing_mm, axis=2
            )
            .min(1)
            .reshape(SHAPE)
            for lesion in (1, 2, 3)
        ]
    )
    nearest = distances <= distances.min(0) + 1e-9
    for channel in CHANNELS:
        whole, grid = nifti.load(Path(getattr(outputs, f"{channel}_file")))
        assert grid.same_as(GRID, 1e-4)
        folder = Path(outputs.lesion_folder)
        maps = np.stack([placed(folder / f"L00{i}_{channel}.nii.gz") for i in (1, 2, 3)])
        # Where two lesions are equally near, the voxel belongs to one of them.
        assert ((whole == maps) & nearest).any(0).all()
        overlap = np.count_nonzero(maps, axis=0) > 1
        assert (np.ptp(maps, axis=0) > 0)[overlap].any()
        for lesion in (1, 2, 3):
            assert np.abs(whole[labels == lesion]).min() > 0


@pytest.mark.parametrize("n_samples", [1, 3])
def test_the_table_on_disk_states_the_numbers_of_the_function(
    tmp_path: Path, model: Path, n_samples: int
) -> None:
    outputs = explain(tmp_path, model, n_samples=n_samples)
    rows = raw_rows(Path(outputs.table_file))
    attributions = directly(model, n_samples=n_samples)
    for row, attribution in zip(rows, attributions, strict=True):
        assert list(row) == COLUMNS
        assert (row.pop("index"), row.pop("name")) == (
            str(attribution.lesion),
            f"L00{attribution.lesion}",
        )
        of_lesion = lesion_map(attribution, images()[2], GRID.spacing_mm)
        expected = lesion_numbers(attribution, of_lesion)
        missing = {key for key, value in expected.items() if isnan(value)}
        assert {key for key, text in row.items() if text == "n/a"} == missing
        scale = max(abs(value) for value in expected.values() if not isnan(value))
        for key in set(expected) - missing:
            assert float(row[key]) == pytest.approx(expected[key], rel=1e-4, abs=1e-6 * scale)
        assert int(row["n_samples"]) == n_samples


def test_the_profile_on_disk_is_that_of_the_function(tmp_path: Path, model: Path) -> None:
    rows = iter(raw_rows(Path(explain(tmp_path, model).profile_file)))
    for attribution in directly(model):
        for expected in radial_profile(lesion_map(attribution, images()[2], GRID.spacing_mm)):
            row = next(rows)
            assert list(row) == PROFILE_COLUMNS
            assert row.pop("name") == f"L00{row.pop('index')}" == f"L00{attribution.lesion}"
            assert row.pop("channel") == expected.pop("channel")
            for key, value in expected.items():
                assert float(row.pop(key)) == pytest.approx(value, rel=1e-4, abs=1e-7)
            assert not row
    assert next(rows, None) is None


def test_other_regions_are_explained_and_stand_in_no_map_of_all_lesions(
    tmp_path: Path, model: Path
) -> None:
    labels = images()[2]
    explained = nifti.save(tmp_path / "three.nii.gz", labels, GRID)
    lesions = np.where(labels == 1, labels, 0)
    outputs = explain(tmp_path, model, lesions, explained_file=str(explained))
    (tmp_path / "all").mkdir()
    expected = explain(tmp_path / "all", model)
    assert raw_rows(Path(outputs.table_file)) == raw_rows(Path(expected.table_file))
    names = {path.name for path in Path(expected.lesion_folder).iterdir()}
    assert {path.name for path in Path(outputs.lesion_folder).iterdir()} == names
    whole, _ = nifti.load(Path(outputs.flair_file))
    np.testing.assert_array_equal(whole, placed(Path(outputs.lesion_folder, "L001_flair.nii.gz")))


def test_the_same_seed_and_visit_give_the_same_arrays_and_others_do_not(
    tmp_path: Path, model: Path
) -> None:
    runs = {
        "first": {},
        "second": {},
        "other seed": {"seed": 6},
        "other visit": {"visit": "sub-02"},
    }
    found = {}
    for name, options in runs.items():
        (tmp_path / name).mkdir()
        outputs = explain(tmp_path / name, model, **options)
        files = [outputs.flair_file, outputs.t1w_file]
        files += sorted(map(str, Path(outputs.lesion_folder).iterdir()))
        found[name] = [nifti.load(Path(path))[0] for path in files]
        found[name].append(Path(outputs.table_file).read_text())
    first, *others = found.values()
    for other, same in zip(others, (True, False, False), strict=True):
        for one, two in zip(first, other, strict=True):
            assert np.array_equal(one, two) == same


def test_a_lesion_has_the_same_map_without_the_others(tmp_path: Path, model: Path) -> None:
    labels = images()[2]
    (tmp_path / "alone").mkdir()
    alone = explain(tmp_path / "alone", model, np.where(labels == 2, labels, 0))
    all_three = explain(tmp_path, model)
    for channel in CHANNELS:
        name = f"L002_{channel}.nii.gz"
        np.testing.assert_array_equal(
            placed(Path(alone.lesion_folder, name)), placed(Path(all_three.lesion_folder, name))
        )
    rows = raw_rows(Path(alone.table_file))
    assert rows == raw_rows(Path(all_three.table_file))[1:2]


def test_the_facts_are_the_noise_of_each_channel_the_device_and_the_engine(
    tmp_path: Path, model: Path
) -> None:
    facts = json.loads(Path(explain(tmp_path, model).facts_file).read_text())
    expected = pytest.approx(sigma(), rel=1e-6)
    assert facts == {"sigma": expected, "device": "cpu", "engine": "pruned"}
    assert facts["sigma"][1] > 2 * facts["sigma"][0]


def test_no_lesion_is_a_valid_result(tmp_path: Path, model: Path) -> None:
    outputs = explain(tmp_path, model, np.zeros(SHAPE, np.int32))
    for channel in CHANNELS:
        path = Path(getattr(outputs, f"{channel}_file"))
        values, grid = nifti.load(path)
        assert nb.load(path).get_data_dtype() == np.float32
        assert grid.same_as(GRID, 1e-4)
        assert not values.any()
    assert Path(outputs.table_file).read_text() == "\t".join(COLUMNS) + "\n"
    assert list(Path(outputs.lesion_folder).iterdir()) == []
    facts = json.loads(Path(outputs.facts_file).read_text())
    assert facts == {"sigma": pytest.approx(sigma(), rel=1e-6), "device": "cpu", "engine": None}


class Clock:
    """Stands still until it is set, and keeps what is logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        monkeypatch.setattr(interface.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            interface.log, "info", lambda *args: self.told.append(args[0] % args[1:])
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_log_tells_how_far_it_is_and_the_time_left(clock: Clock) -> None:
    log = ProgressLog("sub-01_ses-2", "explained")
    clock.now += 90
    log.tell(Progress(lesion=3, n_done=2, n_lesions=8, sample=30, n_samples=50, share=0.25))
    assert clock.told == [
        "sub-01_ses-2: [#####...............] 25 %, 2 of 8 lesions explained, "
        "sample 30 of 50 of lesion 3, about 4.5 min left"
    ]
    clock.now += 270
    log.tell(Progress(lesion=8, n_done=8, n_lesions=8, sample=50, n_samples=50, share=1.0))
    assert clock.told[1] == (
        "sub-01_ses-2: [####################] 100 %, 8 of 8 lesions explained, "
        "sample 50 of 50 of lesion 8, about 0.0 min left"
    )
    clock.now += 6
    log.finish(8)
    assert clock.told[2:] == ["sub-01_ses-2: 8 lesions explained in 6.1 min"]


def test_the_log_tells_something_every_ten_seconds_at_most(clock: Clock) -> None:
    log = ProgressLog("sub-01", "explained")
    times = []
    for count in range(1, 101):
        clock.now += 0.75
        before = len(clock.told)
        log.tell(Progress(1, 0, 1, count, 100, count / 100))
        times += [clock.now] * (len(clock.told) - before)
    assert times == [1010.5 + 10.5 * i for i in range(7)]


def test_the_log_follows_the_work(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(interface, "_SECONDS_BETWEEN_MESSAGES", 0)
    explain(tmp_path, model, visit="sub-05")
    *during, last = clock.told
    assert len(during) == 3 * OPTIONS["n_samples"]
    assert all(text.startswith("sub-05: [") for text in clock.told[:-1])
    assert [text.split(", ")[1].split()[0] for text in during] == list("001112223")
    assert [text.split("sample ")[1][0] for text in during] == ["1", "2", "3"] * 3
    assert "100 %" in during[-1]
    assert last == "sub-05: 3 lesions explained in 0.0 min"
