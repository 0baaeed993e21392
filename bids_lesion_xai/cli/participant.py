# SPDX-License-Identifier: Apache-2.0
"""The participant level: every visit on its own account, and what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.condition import dataset_problems
from bids_lesion_xai.bids.database import Database
from bids_lesion_xai.bids.dataset import (
    SkippedVisit,
    VisitInputs,
    find_visits,
)
from bids_lesion_xai.bids.derivatives import DERIVATIVES, bidsignore, method_label
from bids_lesion_xai.bids.filters import Filters, read_filters
from bids_lesion_xai.bids.provenance import NOT_COMPLETE
from bids_lesion_xai.bids.sidecar import dataset_description, to_json
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.validate import validate
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.companions import with_companions
from bids_lesion_xai.cli.runlog import RunLog
from bids_lesion_xai.config import SCHEDULERS, RunConfig
from bids_lesion_xai.errors import (
    OUT_OF_MEMORY,
    SOME_VISITS_FAILED,
    DataError,
    LesionXaiError,
    UsageError,
)
from bids_lesion_xai.models.bundle import Bundle, read_bundle
from bids_lesion_xai.reports.citation import write_citation
from bids_lesion_xai.workflows.execute import Failure, run_visits
from bids_lesion_xai.workflows.resume import IN_USE, Claims, find_reasons

log = logging.getLogger(__name__)

_SHOWN_ISSUES = 10


def run_participants(config: RunConfig) -> int:
    """Process every visit that was asked for, and return the exit code.

    Raises
    ------
    DataError
        No visit can be processed.
    UsageError
        The engine does not fit the model.
    """
    from bids_lesion_xai.models.network import check_network, choose_device

    started = time.monotonic()
    bundle = read_bundle(config.model)
    check_engine(config, bundle)
    check_network(bundle)
    is_cluster = config.plugin.name in SCHEDULERS
    if not is_cluster:
        config = replace(config, device=str(choose_device(config.device)))
    visits, skipped = find_inputs(config)
    _tell_selection(visits, skipped)
    if not visits:
        raise DataError(nothing_to_do(config))
    visits, alone = with_companions(visits, config)
    skipped += alone
    if config.validate:
        _validate_input(config)
    named = [skip for skip in skipped if asked_for_by_name(skip, visits, config)]
    store = Store(config.output_dir)
    with Claims.enter(config) as claims:
        with claims.output.hold("files of the dataset"):
            _write_dataset_files(store, config)
        run = RunLog(store, config, bundle, visits, skipped)
        store.write_text(f"logs/{run.name}.toml", config.replay)
        free, failures = _claim(claims, visits)
        reasons = find_reasons(store, free, config, bundle)
        _tell_changes(reasons)
        run.plan(reasons)
        changed = [inputs for inputs in free if reasons[inputs.visit]]
        if is_cluster:
            for inputs in free:
                claims.release(inputs.visit)
        if changed:
            where = f"as jobs of {config.plugin.name}" if is_cluster else f"on {config.device}"
            log.info("visits to process %s: %d; cores: %d", where, len(changed), config.n_procs)
            failures += _process(run, store, changed, config, bundle)
        try:
            run.end(failures)
            with claims.output.hold("files of the dataset"):
                write_citation(store)
        finally:
            # Also if the disk is too full for logs.
            counts = len(visits), len(free) - len(changed)
            _tell_result(store, *counts, named, failures, time.monotonic() - started)
    return _exit_code(failures, named)


def _exit_code(failures: Sequence[Failure], named: Sequence[SkippedVisit]) -> int:
    if failures and not named and all(failure.out_of_memory for failure in failures):
        return OUT_OF_MEMORY
    return SOME_VISITS_FAILED if failures or named else 0


def _claim(
    claims: Claims, visits: Sequence[VisitInputs]
) -> tuple[list[VisitInputs], list[Failure]]:
    """Return the visits that this run may process, and the others as failures."""
    free, failures = [], []
    for inputs in visits:
        if claims.take_jobs(inputs.visit) and claims.take(inputs.visit):
            free.append(inputs)
        else:
            failures.append(Failure(inputs.visit, IN_USE, ""))
    return free, failures


def _process(
    run: RunLog,
    store: Store,
    visits: Sequence[VisitInputs],
    config: RunConfig,
    bundle: Bundle,
) -> list[Failure]:
    """Process visits; if the run is stopped, remove what was not finished."""
    before = {inputs.visit: store.completed_ns(inputs.visit) for inputs in visits}
    try:
        return run_visits(visits, config, bundle, run.seconds)
    except (KeyboardInterrupt, SystemExit):
        left = [visit for visit in before if store.completed_ns(visit) in (None, before[visit])]
        # Jobs of a scheduler go on.
        if config.plugin.name not in SCHEDULERS:
            for visit in left:
                if store.completed_ns(visit) is None:
                    store.clear(visit)
        run.interrupt(left)
        raise


def _tell_changes(reasons: Mapping[Visit, Sequence[str]]) -> None:
    for visit, why in reasons.items():
        if not why:
            log.info("%s: nothing has changed, it is left as it is", visit.name)
        elif why != [NOT_COMPLETE]:
            log.info("%s: processed again: %s", visit.name, "; ".join(why))


def check_engine(config: RunConfig, bundle: Bundle) -> None:
    """Refuse now what `choose_engine` would refuse after every segmentation."""
    if config.engine != "auto" and (config.engine == "window") != (bundle.window is not None):
        way = "sliding windows" if bundle.window else "the whole volume at once"
        message = (
            f"--engine {config.engine}: model {bundle.name} evaluates {way}. Use --engine auto."
        )
        raise UsageError(message)


def asked_for_by_name(
    skip: SkippedVisit, visits: Sequence[VisitInputs], config: RunConfig
) -> bool:
    """Tell whether the user named this visit.

    A visit is named by its session, or by its participant if no other visit of the participant
    can be processed, or by a filter that leaves none of its images.
    """
    if skip.visit.session in config.sessions or skip.by_filter:
        return True
    others = {inputs.visit.participant for inputs in visits}
    return skip.visit.participant in config.participants and skip.visit.participant not in others


def find_inputs(config: RunConfig) -> tuple[list[VisitInputs], list[SkippedVisit]]:
    """Find the images of every visit.

    Raises
    ------
    NotFoundError, DataError, UsageError, OutputError
        See `find_visits`, `read_filters` and `Database`.
    """
    filters = read_filters(config.bids_filter_file) if config.bids_filter_file else Filters()
    database = None
    if config.bids_database_dir:
        database = Database(
            config.bids_dir, config.bids_database_dir, config.bids_database_wipe, config.dry_run
        )
    visits, skipped = find_visits(
        config.bids_dir, config.participants, config.sessions, filters, database
    )
    for problem in dataset_problems(config.bids_dir, config.participants):
        log.warning("%s: %s", config.bids_dir, problem)
    return visits, skipped


def nothing_to_do(config: RunConfig) -> str:
    """Return what is said where no visit can be processed."""
    asked = " that --bids-filter-file asks for" if config.bids_filter_file else ""
    return f"No visit with FLAIR and T1w{asked} in {config.bids_dir}; nothing to do."


def _tell_selection(visits: Sequence[VisitInputs], skipped: Sequence[SkippedVisit]) -> None:
    for inputs in visits:
        log.info("%s: %s and %s", inputs.visit.name, inputs.flair.name, inputs.t1w.name)
        for note in inputs.notes:
            log.warning("%s: %s", inputs.visit.name, note)
        for image in inputs.rejected:
            level = logging.WARNING if image.advice else logging.INFO
            log.log(level, "%s: not taken: %s", inputs.visit.name, image)
    for skip in skipped:
        log.warning("skipped %s", skip.reason)


def _validate_input(config: RunConfig) -> None:
    """Report what the BIDS validator finds; every visit is checked on its own later."""
    cache = config.work_dir / "cache"
    whom = "these participants" if config.participants else "everybody"
    log.info("BIDS validator: looks at %s", whom)
    try:
        cache.mkdir(exist_ok=True)
        issues = validate(config.bids_dir, cache, config.participants)
    except (LesionXaiError, OSError) as error:
        # Some file systems refuse the links that the validator is shown.
        log.warning("the input was not validated: %s", error)
        return
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    for issue in errors[:_SHOWN_ISSUES]:
        log.warning("BIDS validator: %s in %s", issue.get("code"), issue.get("location"))
    log.info("BIDS validator: %d errors in the input", len(errors))


def _write_dataset_files(store: Store, config: RunConfig) -> None:
    described = dataset_description(config.bids_dir, config.output_dir, config.links)
    description = to_json(described)
    store.write_text("dataset_description.json", description)
    store.write_text(".bidsignore", bidsignore())
    method = method_label(config.method)
    outputs = "".join(
        f"- `{row.example(Visit('LABEL'), method)}`: {row.description}\n"
        for row in DERIVATIVES.values()
    )
    readme = Path(__file__).parent.parent / "reports" / "templates" / "output_readme.md"
    text = readme.read_text(encoding="utf-8").replace("VERSION", __version__)
    store.write_text("README.md", text.replace("OUTPUTS", outputs))


def _tell_result(
    store: Store,
    n_visits: int,
    n_unchanged: int,
    named: Sequence[SkippedVisit],
    failures: Sequence[Failure],
    seconds: float,
) -> None:
    done = n_visits - len(failures) - n_unchanged
    log.info(
        "visits done: %d of %d in %.1f min, %d had not changed",
        *(done, n_visits, seconds / 60, n_unchanged),
    )
    for failure in failures:
        what = "not done" if failure.reason == IN_USE else "failed"
        log.error("%s: %s: %s", what, failure.visit.name, failure.reason)
    for skip in named:
        log.error("skipped, though asked for by name: %s", skip.reason)
    if any(failure.log for failure in failures):
        log.error("crash logs are in %s", store.root / "logs")
