# SPDX-License-Identifier: Apache-2.0
"""Every exit code, provoked as it comes about in life, at the level of main()."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.cli.run import main
from bids_lesion_xai.workflows.names import work_folder
from tests.outputs import publish_outputs
from tests.test_repository import EXIT_CODES

CACHES = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "NIPYPE_CONFIG_DIR")


@pytest.fixture(autouse=True)
def process_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a run does to its own process."""
    for variable in CACHES:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A shell that starts the tests in the background lets them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hypothesis has Python call it when garbage is collected, where an interrupt would be lost.
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks.extend(callbacks)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("bids_lesion_xai").setLevel(logging.NOTSET)


class Place:
    """Where a run takes place: a dataset of two participants whose images hold nothing."""

    def __init__(self, root: Path) -> None:
        self.bids, self.out, self.work = root / "bids", root / "out", root / "work"
        image = nb.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4))
        for label, suffixes in {"01": ("FLAIR", "T1w"), "02": ("T1w",)}.items():
            folder = self.bids / f"sub-{label}" / "anat"
            folder.mkdir(parents=True)
            for suffix in suffixes:
                nb.save(image, folder / f"sub-{label}_{suffix}.nii.gz")

    def argv(self, *options: str, level: str = "participant") -> list[str]:
        folders = [str(self.bids), str(self.out), level, "-w", str(self.work)]
        return [*folders, "--skip-bids-validation", *options]


def group(place: Place) -> list[str]:
    publish_outputs(place.out)
    return place.argv(level="group")


def reports(place: Place) -> list[str]:
    publish_outputs(place.out)
    return [str(place.out / "not there"), *place.argv("--reports-only")[1:]]


def no_images(place: Place) -> list[str]:
    for path in place.bids.rglob("*.nii.gz"):
        path.unlink()
    return place.argv()


def output_is_a_file(place: Place) -> list[str]:
    place.out.write_text("a file")
    return place.argv()


def work_cannot_be_written(place: Place) -> list[str]:
    place.work.mkdir()
    work_folder(parse(place.argv())).write_text("a file")
    return place.argv()


CASES: list[tuple[int, str, Callable[[Place], list[str]]]] = [
    (0, "a plan", lambda place: place.argv("--dry-run")),
    (0, "a group", group),
    (0, "reports", reports),
    (1, "a visit fails", lambda place: place.argv()),
    (
        1,
        "a named one is not",
        lambda place: place.argv("--participant-label=01,02", "--dry-run"),
    ),
    (2, "no such option", lambda place: place.argv("--smoothgrad")),
    (2, "an engine of other models", lambda place: place.argv("--engine", "window")),
    (65, "no images", no_images),
    (66, "no such participant", lambda place: place.argv("--participant-label", "77")),
    (69, "no such device", lambda place: place.argv("--device", "cuda:99")),
    (69, "no such model", lambda place: place.argv("--model", str(place.bids))),
    (73, "the output is a file", output_is_a_file),
    (74, "the work folder is a file", work_cannot_be_written),
]


def ended(argv: list[str]) -> int:
    """Return how main() ends, whether it returns or exits."""
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("code", "what", "prepare"), CASES, ids=[f"{c}: {w}" for c, w, _ in CASES]
)
def test_what_ends_with_which_code(
    code: int, what: str, prepare: Callable[[Place], list[str]], tmp_path: Path
) -> None:
    assert what
    assert ended(prepare(Place(tmp_path))) == code


def _kill_workers() -> None:
    """Kill every worker, as the system does that is out of memory."""
    for worker in multiprocessing.active_children():
        worker.kill()


# By exit code: what happens again and again while workers run.
BLOWS: dict[int, Callable[[], None]] = {
    75: _kill_workers,
    130: lambda: os.kill(os.getpid(), signal.SIGINT),
    143: lambda: os.kill(os.getpid(), signal.SIGTERM),
}


@pytest.mark.parametrize("code", BLOWS)
def test_how_a_run_ends_that_is_struck_while_it_works(
    code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, is_over = Place(tmp_path), threading.Event()

    def strike() -> None:
        while not is_over.wait(0.05):
            if multiprocessing.active_children():
                BLOWS[code]()
                if code > 128:
                    return

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        assert ended(place.argv()) == code
    finally:
        is_over.set()
        thread.join()
    messages = [record.getMessage() for record in caplog.records]
    assert any("once more, one step at a time" in message for message in messages) == (code == 75)
    assert not list(place.out.rglob("*_provenance.json"))


def test_every_code_is_provoked() -> None:
    assert {code for code, *_ in CASES} | set(BLOWS) == EXIT_CODES | {0}
