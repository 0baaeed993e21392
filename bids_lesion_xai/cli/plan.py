# SPDX-License-Identifier: Apache-2.0
"""What a run would do, told without doing it."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.dataset import SkippedVisit, VisitInputs
from bids_lesion_xai.bids.provenance import NOT_COMPLETE
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.companions import WORDS, with_companions
from bids_lesion_xai.cli.costs import ASSUMED_LESIONS, Estimate, estimate, side_by_side
from bids_lesion_xai.cli.participant import (
    asked_for_by_name,
    check_engine,
    find_inputs,
    nothing_to_do,
)
from bids_lesion_xai.cli.screen import say
from bids_lesion_xai.config import SCHEDULERS, RunConfig
from bids_lesion_xai.errors import SOME_VISITS_FAILED, DataError, OutputError
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.workflows.resume import find_reasons

_COLUMNS = (
    *("participant_id", "session_id", "status", "reason", "flair", "t1w", "not_taken", "notes"),
    *("has_result", "minutes", "memory_gb", "work_disk_gb", "output_disk_gb"),
)
_GPU = Path("/dev/nvidia0")


def tell_plan(config: RunConfig) -> int:
    """Tell what a run would do, and return the exit code that its selection would end with.

    Raises
    ------
    LesionXaiError
        The run would end with it before anything is processed.
    """
    # What is found is told below, all at once.
    logging.getLogger("bids_lesion_xai").setLevel(logging.WARNING)
    code = 0
    if "participant" in config.levels:
        code = _tell_participants(config)
    if "group" in config.levels:
        n_complete = len(Store(config.output_dir).visits())
        say(f"group: tables and report of all visits of OUTPUT_DIR; complete now: {n_complete}")
    return code


def _tell_participants(config: RunConfig) -> int:
    from bids_lesion_xai.models.network import check_network

    bundle = read_bundle(config.model)
    check_engine(config, bundle)
    check_network(bundle)
    visits, skipped = find_inputs(config)
    if visits:
        visits, alone = with_companions(visits, config)
        skipped += alone
    store, one = Store(config.output_dir), estimate(config)
    reasons = find_reasons(store, visits, config, bundle)
    for inputs in visits:
        for line in _lines(inputs, reasons[inputs.visit], one):
            say(line)
    for skip in skipped:
        say(f"{skip.visit.name}: skipped\n  {skip.reason}")
    if config.dry_run_table:
        rows = [_row(inputs, reasons[inputs.visit], one) for inputs in visits]
        rows += [_skip_row(skip) for skip in skipped]
        _write_table(config.dry_run_table, rows)
    if not visits:
        raise DataError(nothing_to_do(config))
    n_changed = sum(bool(why) for why in reasons.values())
    for line in _total(n_changed, len(visits) - n_changed, len(skipped), one, config):
        say(line)
    named = any(asked_for_by_name(skip, visits, config) for skip in skipped)
    return SOME_VISITS_FAILED if named else 0


def _lines(inputs: VisitInputs, why: Sequence[str], one: Estimate) -> Iterator[str]:
    yield inputs.visit.name
    for name, path in (("FLAIR", inputs.flair), ("T1w", inputs.t1w)):
        yield f"  {name:<14} {path.relative_to(inputs.bids_dir).as_posix()}"
    for field, companion in inputs.companions.items():
        yield f"  {WORDS[field]:<14} {companion.path.name}"
        for other in companion.others:
            yield f"  not taken      {other}"
    for rejection in inputs.rejected:
        yield f"  not taken      {rejection}"
    for note in inputs.notes:
        yield f"  note           {note}"
    if not why:
        yield "  result         is there, and nothing has changed: it is left as it is"
        return
    if list(why) != [NOT_COMPLETE]:
        yield f"  again, for     {'; '.join(why)}"
    yield (
        f"  takes about    {one.minutes:.0f} min, {one.memory_gb:.1f} GB of memory, "
        f"{one.work_disk_gb:.1f} GB of work folder, {one.output_disk_gb:.2f} GB of output"
    )


def _total(
    n_visits: int, n_unchanged: int, n_skipped: int, one: Estimate, config: RunConfig
) -> Iterator[str]:
    visits = _counted(n_visits, "visit")
    yield f"in all: {visits} to process, {n_unchanged} unchanged, {n_skipped} skipped"
    if not n_visits:
        return
    if config.plugin.name in SCHEDULERS:
        yield f"  time           {one.minutes:.0f} min a job of {config.plugin.name}"
    else:
        n_beside = side_by_side(config, one)
        minutes = one.minutes * n_visits / min(n_beside, n_visits)
        length = f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.0f} min"
        yield (
            f"  time           about {length} on {_counted(config.n_procs, 'core')}, "
            f"{_counted(n_beside, 'visit')} at a time"
        )
    work, output = (n_visits * each for each in (one.work_disk_gb, one.output_disk_gb))
    for name, path, needed in (
        ("work folder", config.work_dir, work),
        ("output", config.output_dir, output),
    ):
        free = _free_gb(path)
        warning = "; THAT IS TOO LITTLE" if free < needed else ""
        yield f"  {name:<14} about {needed:.1f} GB, {free:.0f} GB are free{warning}"
    yield (
        f"  these are rough, for {ASSUMED_LESIONS} lesions a visit on an idle machine"
        + (", and too high for a GPU" if _may_use_gpu(config) else "")
        + ("" if config.model == DEFAULT_BUNDLE else ", and of the shipped model, not of this one")
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _may_use_gpu(config: RunConfig) -> bool:
    return config.device.startswith("cuda") or (config.device == "auto" and _GPU.exists())


def _free_gb(path: Path) -> float:
    """Return the free space where a folder is, or will be made."""
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return shutil.disk_usage(there).free / 1e9


def _ids(visit: Visit) -> dict[str, str]:
    session = f"ses-{visit.session}" if visit.session else "n/a"
    return {"participant_id": f"sub-{visit.participant}", "session_id": session}


def _row(inputs: VisitInputs, why: Sequence[str], one: Estimate) -> dict[str, Any]:
    return {
        **_ids(inputs.visit),
        "status": "process" if why else "unchanged",
        "reason": "; ".join(why) or "n/a",
        "flair": inputs.flair.relative_to(inputs.bids_dir).as_posix(),
        "t1w": inputs.t1w.relative_to(inputs.bids_dir).as_posix(),
        "not_taken": "; ".join(map(str, inputs.rejected)) or "n/a",
        "notes": "; ".join(inputs.notes) or "n/a",
        "has_result": "no" if list(why) == [NOT_COMPLETE] else "yes",
        "minutes": round(one.minutes, 1),
        "memory_gb": round(one.memory_gb, 1),
        "work_disk_gb": round(one.work_disk_gb, 2),
        "output_disk_gb": round(one.output_disk_gb, 2),
    }


def _skip_row(skip: SkippedVisit) -> dict[str, Any]:
    return {**_ids(skip.visit), "status": "skip", "reason": skip.reason}


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, _COLUMNS, "n/a", delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        message = f"--dry-run-table {path} cannot be written ({error.strerror})."
        raise OutputError(message) from error
