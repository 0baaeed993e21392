# SPDX-License-Identifier: Apache-2.0
"""Reports are made anew from the output folder alone, and nothing else is touched."""

from __future__ import annotations

import logging
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.cli.run import main
from tests.outputs import TWO_SESSIONS, publish_outputs

CACHES = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "NIPYPE_CONFIG_DIR")
# Holds a visit until its input ends.
HOLDER = """
import sys
from pathlib import Path
from bids_lesion_xai.bids.store import Store
with Store(Path(sys.argv[1])).shared() as lock:
    print(lock.take(sys.argv[2]), flush=True)
    sys.stdin.read()
"""
ONE, OTHER = TWO_SESSIONS[:2]


@pytest.fixture(autouse=True)
def _caches_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in CACHES:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return publish_outputs(tmp_path / "out", TWO_SESSIONS)


def rebuild(store: Store, *options: str, level: str = "participant") -> int:
    work = str(store.root.parent / "work")
    nowhere = str(store.root.parent / "nowhere")
    return main([nowhere, str(store.root), level, "--reports-only", "-w", work, *options])


def digests(store: Store) -> dict[str, str]:
    return {
        path.relative_to(store.root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in store.root.rglob("*")
        if path.is_file()
    }


def test_reports_alone_are_written_and_the_visit_stays_as_complete_as_it_was(
    store: Store,
) -> None:
    before = digests(store)
    assert rebuild(store) == 0
    after = digests(store)
    changed = {name for name in after if before.get(name) != after[name]}
    assert {f"{visit.name}.html" for visit in TWO_SESSIONS} <= changed
    assert all(
        name.endswith((".html", "_provenance.json")) or "/figures/" in name for name in changed
    )
    for visit in TWO_SESSIONS:
        content = provenance.read(store, visit)
        assert content is not None
        assert provenance.damages(store, content) == []


def test_a_damage_elsewhere_stays_one(store: Store) -> None:
    table = store.path("preproc_t1w", ONE).with_suffix("").with_suffix(".json")
    table.write_text(table.read_text() + "\n")
    assert rebuild(store) == 0
    content = provenance.read(store, ONE)
    assert content is not None
    assert any(table.name in words for words in provenance.damages(store, content))


def test_visits_are_chosen_by_label(store: Store) -> None:
    assert rebuild(store, "--session-id", ONE.session) == 0
    assert [path.name for path in store.root.glob("sub-*.html")] == [f"{ONE.name}.html"]


def test_a_visit_that_cannot_be_read_does_not_stop_the_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.path("lesion_table", ONE).unlink()
    assert rebuild(store) == 1
    assert store.path("report", OTHER).exists()
    (message,) = (r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
    assert ONE.name in message


def test_an_output_that_is_cut_short_is_to_be_processed_again_not_fetched(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    image = store.path("preproc_t1w", ONE)
    image.write_bytes(image.read_bytes()[:100])
    assert rebuild(store) == 1
    (message,) = (r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
    assert "process its visit again" in message
    assert "download" not in message


def test_a_visit_that_another_run_works_on_is_left_to_it(store: Store) -> None:
    program = [sys.executable, "-c", HOLDER, str(store.root), ONE.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert rebuild(store) == 1
    assert not store.path("report", ONE).exists()
    assert store.path("report", OTHER).exists()


@pytest.mark.parametrize(
    ("options", "code"), [(["--participant-label", "77"], 66), (["--session-label", "77"], 66)]
)
def test_who_is_not_there_is_named(store: Store, options: list[str], code: int) -> None:
    assert rebuild(store, *options) == code


def test_without_results_there_is_no_report(tmp_path: Path) -> None:
    assert rebuild(Store(tmp_path / "out")) == 66
    (tmp_path / "out").mkdir()
    assert rebuild(Store(tmp_path / "out")) == 65


def test_the_group_report_is_made_anew_too(store: Store) -> None:
    assert rebuild(store, level="group") == 0
    assert store.path("group_report").exists()
    assert not list(store.root.glob("logs/run-*.toml"))
