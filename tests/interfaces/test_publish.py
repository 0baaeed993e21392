# SPDX-License-Identifier: Apache-2.0
"""Publishing a visit: all of it, with its facts, or no mark of completeness."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.derivatives import DERIVATIVES, EXPLANATION_FACTS, Level
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.errors import DataError, OutputError
from bids_lesion_xai.interfaces.publish import Complete, Publish
from bids_lesion_xai.models.bundle import Bundle, read_bundle
from bids_lesion_xai.workflows.participant import init_visit_wf
from tests.bundles import write_small_bundle

VISITS = (Visit("01"), Visit("01", "02"))
OF_VISIT = [row for row in DERIVATIVES.values() if row.level is Level.VISIT]
KEYS = [row.key for row in OF_VISIT if not row.optional and row.key != LAST_KEY]
OPTIONAL = ["region_labels", "region_table", "normal_mask"]
CHANNELS = ("flair", "t1w")
FOUND = {
    "skull_strip_method": "given",
    "brain_volume_mm3": 1234567.5,
    "registration_method": "rigid",
    "registration_similarity": 0.5,
    "flair_mean": 11.0,
    "flair_standard_deviation": 12.0,
    "t1w_mean": 21.0,
    "t1w_standard_deviation": 22.0,
}
EXPLAINED = {"sigma": [0.25, 0.75], "device": "cpu", "engine": "pruned"}
# Of the method that is published: it has no baseline, and takes all samples.
NOT_SET = {"TargetError", "Baseline"}
WITHOUT_NOISE = dict.fromkeys(
    ("NoiseLevel", "NoiseRule", "NoiseStandardDeviation", "RandomSeed", "TargetError")
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("publish") / "model")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def publisher(
    store: Store, model: Path, visit: Visit, lesions: Sequence[str] = (), options: str = ""
) -> Publish:
    """Return the interface of a visit as the graph sets it, with a file of its own for each input.

    The content of each file is its key.
    """
    work = store.root.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    (work / "lesions").mkdir(parents=True)
    publish = node_of(store, model, visit, options).interface
    for key in KEYS:
        publish.inputs.trait_set(**{key: _write(work / key, key)})
    for name, content in (("preprocess", FOUND), ("explain", EXPLAINED)):
        path = _write(work / f"{name}.json", json.dumps(content))
        publish.inputs.trait_set(**{f"{name}_facts_file": path})
    for lesion in lesions:
        for channel in CHANNELS:
            _write(work / "lesions" / f"{lesion}_{channel}.nii.gz", f"{lesion} {channel}")
    publish.inputs.lesion_folder = str(work / "lesions")
    return publish


def complete(store: Store, model: Path, visit: Visit) -> Complete:
    """Return the interface that marks a visit as complete, as the graph sets it."""
    interface = node_of(store, model, visit, name="complete").interface
    interface.inputs.report_file = _write(store.root.parent / "report", "a report")
    interface.inputs.visit = visit.name
    return interface


def node_of(
    store: Store, model: Path, visit: Visit, options: str = "", name: str = "publish"
) -> Any:
    raw = store.root.parent / "raw"
    anat = raw / visit.folder / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    flair, t1w = (anat / f"{visit.name}_{suffix}.nii.gz" for suffix in ("FLAIR", "T1w"))
    for path in (flair, t1w):
        path.touch()
    arguments = [str(raw), str(store.root), "participant", "--model", str(model)]
    arguments += options.split()
    config = parse([*arguments, "-w", str(store.root.parent / "run"), "--device", "cpu"])
    inputs = VisitInputs(visit, flair, t1w, raw, ())
    return init_visit_wf(inputs, config, bundle_of(model)).get_node(name)


def bundle_of(model: Path) -> Bundle:
    return read_bundle(model)


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def files(store: Store) -> dict[str, str]:
    """Return the text of every file in the output folder, by its path."""
    return {
        path.relative_to(store.root).as_posix(): path.read_text(encoding="utf-8")
        for path in store.root.rglob("*")
        if path.is_file()
    }


def sidecar_of(store: Store, key: str, visit: Visit) -> Path:
    path = store.path(key, visit)
    return path.with_name(path.name.partition(".")[0] + ".json")


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_every_output_of_a_visit_is_written_with_all_its_facts(
    store: Store, model: Path, visit: Visit
) -> None:
    outputs = publisher(store, model, visit).run().outputs
    assert outputs.visit == visit.name
    expected = set()
    for key in KEYS:
        path, sidecar = store.path(key, visit), sidecar_of(store, key, visit)
        assert path.read_text() == key
        expected.add(path)
        if DERIVATIVES[key].facts:
            expected.add(sidecar)
            content = json.loads(sidecar.read_text())
            missing = {fact for fact in DERIVATIVES[key].facts if content.get(fact) is None}
            assert missing == NOT_SET & set(DERIVATIVES[key].facts)
            assert content["Description"] == DERIVATIVES[key].description
            assert set(DERIVATIVES[key].columns) <= set(content)
    assert {str(path.relative_to(store.root)) for path in expected} == set(files(store))
    assert store.visits() == []
    complete(store, model, visit).run()
    assert store.visits() == [visit]


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
def test_every_source_is_a_file_of_the_output_or_of_the_input(
    store: Store, model: Path, visit: Visit
) -> None:
    publisher(store, model, visit).run()
    uris = []
    for path in store.root.rglob("*.json"):
        content = json.loads(path.read_text())
        uris += content["Sources"]
        uris += [content["SpatialReference"]] if "SpatialReference" in content else []
    roots = {"bids::": store.root, "bids:raw:": store.root.parent / "raw"}
    found = [root / uri.removeprefix(p) for uri in uris for p, root in roots.items() if p in uri]
    assert len(found) == len(uris) > len(KEYS)
    assert all(path.is_file() for path in found)
    assert {path.name for path in found if "raw" in path.parts} == {
        f"{visit.name}_FLAIR.nii.gz",
        f"{visit.name}_T1w.nii.gz",
    }


def test_regions_are_written_only_where_there_is_a_reference_mask(
    store: Store, model: Path
) -> None:
    visit = VISITS[1]
    publish = publisher(store, model, visit)
    publish.inputs.trait_set(**{key: _write(store.root.parent / key, key) for key in OPTIONAL})
    publish.inputs.reference_uri = "bids:reference-masks:sub-01/anat/mask.nii.gz"
    publish.inputs.tissue_uri = "bids:tissue-maps:sub-01/anat/dseg.nii.gz"
    publish.run()
    for key in OPTIONAL:
        assert store.path(key, visit).read_text() == key
    others = [publish.inputs.reference_uri, publish.inputs.tissue_uri]
    sources = store.facts("region_labels", visit)["Sources"]
    own = [store.uri(key, visit) for key in ("lesion_labels", "normal_mask")]
    assert sources == [own[0], *others, own[1]]
    assert store.facts("normal_mask", visit)["Sources"][3:] == [own[0], *others]
    assert store.facts("region_labels", visit)["RandomSeed"] == 0
    assert store.facts("lesion_labels", visit)["Sources"][1:] == others[1:]
    assert store.uri("region_labels", visit) in store.facts("saliency_table", visit)["Sources"]
    publisher(store, model, visit).run()
    assert not any(store.path(key, visit).exists() for key in OPTIONAL)
    assert store.uri("lesion_labels", visit) in store.facts("saliency_table", visit)["Sources"]


def test_the_tables_of_experiments_are_written_where_there_are_any(
    store: Store, model: Path
) -> None:
    visit = VISITS[1]
    publish = publisher(store, model, visit, options="--random-seed 5")
    folder = store.root.parent / "work" / "experiments"
    folder.mkdir()
    for name in ("channel", "randomisation"):
        _write(folder / f"{name}.tsv", name)
    publish.inputs.experiment_folder = str(folder)
    publish.inputs.experiment_numbers = _write(folder.parent / "numbers", "numbers")
    publish.run()
    for key in ("numbers", "channel", "randomisation"):
        assert store.path(f"experiment_{key}", visit).read_text() == key
        facts = store.facts(f"experiment_{key}", visit)
        assert (facts["RandomSeed"], facts["PeakThreshold"]) == (5, 0.5)
        sources = store.facts("saliency_table", visit)["Sources"]
        assert facts["Sources"] == [*sources, store.uri("normal_mask", visit)]
        # Experiments on images do not depend on how maps are made.
        own = {name: facts[name] for name in EXPLANATION_FACTS if name in facts}
        maps = {name: store.facts("saliency_table", visit)[name] for name in EXPLANATION_FACTS}
        assert own == ({} if key == "channel" else maps)
    assert not store.path("experiment_faithfulness", visit).exists()
    publisher(store, model, visit).run()
    assert not store.path("experiment_channel", visit).exists()


def test_facts_say_what_was_found_of_which_image(store: Store, model: Path) -> None:
    visit = VISITS[1]
    publisher(store, model, visit).run()
    facts = {key: store.facts(key, visit) for key in KEYS if DERIVATIVES[key].facts}
    for channel, mean in (("flair", 11.0), ("t1w", 21.0)):
        image = facts[f"preproc_{channel}"]
        assert (image["IntensityMean"], image["IntensityStandardDeviation"]) == (mean, mean + 1)
        assert image["BiasCorrection"] == "full"
        assert facts[f"saliency_{channel}"]["InputChannel"].lower() == channel
    assert facts["flair_to_t1w"]["RegistrationSimilarity"] == 0.5
    assert facts["preproc_flair"]["RegistrationMethod"] == "rigid"
    assert facts["brain_mask"]["SkullStripMethod"] == "given"
    assert facts["brain_mask"]["BrainVolume_mm3"] == 1234567.5
    bundle = bundle_of(model)
    expected_model = {
        "Name": bundle.name,
        "Version": bundle.version,
        "SHA256": bundle.sha256,
        "TestTimeAugmentation": "flip",
    }
    for key in ("saliency_table", "saliency_flair", "saliency_t1w"):
        assert facts[key]["NoiseStandardDeviation"] == {"FLAIR": 0.25, "T1w": 0.75}
        assert (facts[key]["Device"], facts[key]["Engine"]) == ("cpu", "pruned")
        assert facts[key]["NumberOfSamples"] == 50
        assert facts[key]["Model"] == expected_model
    for key in ("lesion_mask", "lesion_mask_native", "lesion_labels"):
        assert (facts[key]["Threshold"], facts[key]["MinimumVolume_mm3"]) == (0.5, 6.0)
    assert facts["lesion_mask_native"]["SpatialReference"].endswith("_FLAIR.nii.gz")
    assert facts["lesion_mask"]["SpatialReference"] == store.uri("preproc_t1w", visit)


@pytest.mark.parametrize("manual", [True, False, None])
def test_sidecars_say_whose_masks_were_taken(
    manual: bool | None, store: Store, model: Path
) -> None:
    visit = VISITS[1]
    publish = publisher(store, model, visit, ("L001",))
    publish.inputs.brain_uri, publish.inputs.lesions_uri = "bids:prep:b", "bids:drawn:l"
    publish.inputs.lesions_are_manual = manual
    publish.run()
    assert store.facts("brain_mask", visit)["Sources"][-1] == "bids:prep:b"
    mask = store.facts("lesion_mask", visit)
    assert mask["Sources"] == ["bids:drawn:l", store.uri("flair_to_t1w", visit)]
    for key in ("lesion_mask", "lesion_mask_native", "lesion_labels"):
        facts = store.facts(key, visit)
        assert facts["Threshold"] is facts["PeakThreshold"] is None
        assert facts.get("Manual", "not told") == ("not told" if manual is None else manual)


def test_maps_of_single_lesions_get_to_their_places(store: Store, model: Path) -> None:
    visit = VISITS[0]
    publisher(store, model, visit, ("L001", "L010", "L1000")).run()
    for lesion in ("L001", "L010", "L1000"):
        for channel in CHANNELS:
            path = store.path(f"lesion_saliency_{channel}", visit, lesion)
            assert path.read_text() == f"{lesion} {channel}"


def test_a_second_run_leaves_nothing_of_the_first(
    store: Store, model: Path, tmp_path: Path
) -> None:
    visit = VISITS[1]
    publisher(store, model, visit, ("L001", "L002", "L003")).run()
    store.write_text(DERIVATIVES["report"].path(visit), "a report")
    store.write_text(DERIVATIVES["lesion_figure"].path(visit, "L003"), "a figure")
    # A run that was killed leaves files that it was writing.
    mask = store.path("lesion_mask", visit)
    store.write_text(mask.with_name(f".{mask.name}.1.partial"), "half")
    publisher(store, model, visit, ("L001",)).run()
    (tmp_path / "fresh").mkdir()
    fresh = Store(tmp_path / "fresh" / "out")
    publisher(fresh, model, visit, ("L001",)).run()
    assert files(store) == files(fresh)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "",
            {
                "Method": "smoothgrad",
                "Aggregation": "mean",
                "Target": "logit",
                "Units": "logit per unit of normalised intensity",
                "NoiseRule": "robust",
            },
        ),
        (
            "--preset published --n-samples 9 --target-error 0.1 --random-seed 4",
            {
                "Method": "smoothgrad",
                "Aggregation": "max",
                "Units": "logit per unit of normalised intensity",
                "NumberOfSamples": 9,
                "TargetError": 0.1,
                "NoiseLevel": 0.05,
                "NoiseRule": "flair-range",
                "Baseline": None,
                "RandomSeed": 4,
            },
        ),
        (
            "--method vargrad --target probability",
            {
                "Method": "vargrad",
                "Target": "probability",
                "Units": "(probability per unit of normalised intensity)^2",
            },
        ),
        (
            "--method integrated-gradients --target logodds --baseline brain-mean --n-samples 8",
            {
                "Method": "integrated-gradients",
                "Units": "log-odds",
                "NumberOfSamples": 8,
                "Baseline": "brain-mean",
                **WITHOUT_NOISE,
            },
        ),
        ("--method gradient", {"Method": "gradient", "NumberOfSamples": 1, **WITHOUT_NOISE}),
    ],
)
def test_sidecars_of_saliency_state_how_it_was_made(
    store: Store, model: Path, options: str, expected: dict[str, Any]
) -> None:
    visit = VISITS[1]
    publisher(store, model, visit, ("L001",), options).run()
    for key in ("saliency_flair", "saliency_t1w", "saliency_table"):
        content = store.facts(key, visit)
        assert {name: content[name] for name in expected} == expected
    columns = store.facts("saliency_table", visit)
    assert columns["flair_peak"]["Units"] == columns["Units"]
    assert "Units" not in columns["flair_share"]


def test_sidecars_of_images_state_that_a_run_was_a_test(store: Store, model: Path) -> None:
    visit = VISITS[1]
    publisher(store, model, visit, ("L001",), "--sloppy").run()
    for key in ("preproc_flair", "preproc_t1w"):
        assert store.facts(key, visit)["BiasCorrection"] == "coarse"


def test_files_of_another_method_take_the_place_of_those_before(
    store: Store, model: Path, tmp_path: Path
) -> None:
    visit = VISITS[1]
    publisher(store, model, visit, ("L001", "L002")).run()
    store.write_text(
        store.path("lesion_figure", visit, "L002").relative_to(store.root), "a figure"
    )
    before = files(store)
    publisher(store, model, visit, ("L001",), "--method smoothgrad-squared").run()
    (tmp_path / "fresh").mkdir()
    fresh = Store(tmp_path / "fresh" / "out")
    publisher(fresh, model, visit, ("L001",), "--method smoothgrad-squared").run()
    assert files(store) == files(fresh)
    old = {path for path in before if path.partition("desc-")[2].startswith("smoothgrad")}
    assert len(old) > 6
    assert not old & set(files(store))
    for key in ("saliency_table", "saliency_flair"):
        assert "desc-smoothgradsquared" in store.path(key, visit).name
        assert store.path(key, visit).read_text() == key


@pytest.mark.parametrize(("visit", "other"), [VISITS, VISITS[::-1]], ids=lambda visit: visit.name)
def test_a_visit_with_and_one_without_session_leave_each_other_alone(
    store: Store, model: Path, visit: Visit, other: Visit
) -> None:
    for one in (visit, other):
        publisher(store, model, one, ("L001",)).run()
        store.write_text(DERIVATIVES["report"].path(one), f"report of {one.name}")
        for key in ("lesion_figure", "overview_figure"):
            lesion = "L001" if key == "lesion_figure" else None
            store.write_text(DERIVATIVES[key].path(one, lesion), f"figure of {one.name}")
    before = files(store)
    store.clear(visit)
    left = {path for path, text in before.items() if other.name in Path(path).name}
    if not other.session:
        left = {path for path in left if VISITS[1].name not in path}
    assert len(left) > len(KEYS) + 3
    assert {path for path in files(store) if "sub-" in path} == left


def test_sidecars_are_written_before_their_files(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = VISITS[1]
    replaced = []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    publisher(store, model, visit, ("L001", "L002")).run()
    for key in KEYS:
        if DERIVATIVES[key].facts:
            place = replaced.index(store.path(key, visit))
            assert replaced.index(sidecar_of(store, key, visit)) == place - 1


@pytest.mark.parametrize("fails_at", range(len(KEYS) + len(CHANNELS)))
@pytest.mark.parametrize("complete_before", [False, True])
def test_a_write_that_fails_leaves_nothing_of_the_visit(
    store: Store,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    complete_before: bool,
    fails_at: int,
) -> None:
    visit = VISITS[1]
    if complete_before:
        publisher(store, model, visit, ("L001",)).run()
        complete(store, model, visit).run()
        assert store.visits() == [visit]
    publish = publisher(store, model, visit, ("L001",))
    copy = shutil.copyfile
    done = []

    def fail(source: str, partial: Path) -> None:
        if len(done) == fails_at:
            partial.write_text("hal")
            raise OSError(28, "No space left on device")
        done.append(copy(source, partial))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        publish.run()
    assert len(done) == fails_at
    assert files(store) == {}
    assert store.visits() == []


def test_facts_that_are_not_complete_leave_the_visit_as_it_was(store: Store, model: Path) -> None:
    visit = VISITS[0]
    publisher(store, model, visit, ("L001",)).run()
    before = files(store)
    publish = publisher(store, model, visit)
    Path(publish.inputs.preprocess_facts_file).write_text("{}")
    with pytest.raises(KeyError):
        publish.run()
    assert files(store) == before


def test_what_is_written_about_a_visit_is_what_is_there(store: Store, model: Path) -> None:
    visit = VISITS[1]
    publisher(store, model, visit, ("L001",)).run()
    before = files(store)
    complete(store, model, visit).run()
    content = json.loads(store.path(LAST_KEY, visit).read_text(encoding="utf-8"))
    digests = {
        path: {"Bytes": len(text.encode()), "SHA256": sha256(text.encode()).hexdigest()}
        for path, text in before.items()
    }
    assert content["Outputs"] == digests
    assert content["Device"] == "cpu"
    assert content["Inputs"]["FLAIR"] == {
        "URI": f"bids:raw:{visit.folder}/anat/{visit.name}_FLAIR.nii.gz",
        "SHA256": sha256(b"").hexdigest(),
    }


def test_an_input_that_changes_while_it_is_processed_leaves_the_visit_incomplete(
    store: Store, model: Path
) -> None:
    visit = VISITS[0]
    publisher(store, model, visit).run()
    last = complete(store, model, visit)
    Path(last.inputs.input_files["T1w"]).write_text("another image")
    with pytest.raises(DataError, match=r"sub-01_T1w.*was changed"):
        last.run()
    assert store.visits() == []


@pytest.mark.parametrize("output", ["maps", "summary"])
def test_maps_of_single_lesions_are_kept_unless_a_summary_is_asked_for(
    output: str, store: Store, model: Path
) -> None:
    options = f"--saliency-output {output}"
    publisher(store, model, VISITS[0], ["L001"], options).run()
    kept = {name for name in files(store) if "label-L001" in name}
    assert len(kept) == (2 if output == "maps" else 0)
    assert store.path("saliency_flair", VISITS[0]).exists()


@pytest.mark.parametrize("spaces", ["T1w", "T1w FLAIR", "FLAIR"])
def test_the_native_mask_is_made_where_flair_is_an_output_space(
    spaces: str, store: Store, model: Path
) -> None:
    asked = node_of(store, model, VISITS[0], f"--output-spaces {spaces}", "native_mask")
    assert (asked is not None) == ("FLAIR" in spaces)
