# SPDX-License-Identifier: Apache-2.0
"""The app: from the command line to the exit code."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from bids_lesion_xai.bids.sidecar import require_own
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.cli.screen import Screen
from bids_lesion_xai.cli.user import WORK_FOLDER, complete_user, require_private
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.errors import (
    INPUT_OUTPUT_ERROR,
    INTERRUPTED,
    OUT_OF_MEMORY,
    SOME_VISITS_FAILED,
    DataError,
    LesionXaiError,
    NotFoundError,
    OutputError,
)

if TYPE_CHECKING:
    from bids_lesion_xai.bids.store import Store
    from bids_lesion_xai.bids.visit import Visit

log = logging.getLogger("bids_lesion_xai")


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code (see `bids_lesion_xai.errors`)."""
    config, screen = parse(argv), Screen()
    _configure_logging(config.verbosity, screen)
    complete_user()
    signal.signal(signal.SIGTERM, _terminate)
    for warning in config.warnings:
        log.warning("%s", warning)
    code = _run(config)
    return INPUT_OUTPUT_ERROR if screen.is_cut and not code else code


def _run(config: RunConfig) -> int:
    """Do what was asked for, and return the exit code; errors are told in one message."""
    try:
        _require_folders(config)
        _require_covariates(config)
        require_own(config.output_dir)
        if config.dry_run:
            code = _plan(config)
            _check_folders(config)
            return code
        _make_folders(config)
        _check_folders(config)
        if config.boilerplate_only:
            return _write_citation(config)
        return _run_levels(config)
    except LesionXaiError as error:
        log.error("%s", error)
        return error.exit_code
    except OSError as error:
        # Of a visit, these are contained; this one concerns the whole run, e.g. a full disk.
        log.error("%s", error)
        return INPUT_OUTPUT_ERROR
    except MemoryError:
        log.error("memory does not suffice; see --mem and --low-mem")
        return OUT_OF_MEMORY
    except KeyboardInterrupt:
        log.error("interrupted; visits that are complete stay in the output folder")
        return INTERRUPTED


def _run_levels(config: RunConfig) -> int:
    """Run the levels that were asked for; the worst exit code stays."""
    code = 0
    for level in config.levels:
        try:
            code = max(code, _run_level(level, config))
        except DataError as error:
            # If every visit failed, there is nothing for the group, and that is told already.
            if not code:
                raise
            log.error("%s", error)
    return code


def _run_level(level: str, config: RunConfig) -> int:
    """Run one analysis level; the imports are slow, so each level pays for its own only."""
    if level == "participant" and config.reports_only:
        from bids_lesion_xai.cli.reports import rebuild_reports

        return rebuild_reports(config)
    if level == "participant":
        from bids_lesion_xai.cli.participant import run_participants

        return run_participants(config)
    return _run_group(config)


def _plan(config: RunConfig) -> int:
    with TemporaryDirectory() as cache:
        _place_caches(Path(cache))
        # Only now, for matplotlib reads where its cache is when it is imported.
        from bids_lesion_xai.cli.plan import tell_plan

        return tell_plan(config)


def _write_citation(config: RunConfig) -> int:
    from bids_lesion_xai.bids.store import Store
    from bids_lesion_xai.reports.citation import write_citation

    store = Store(config.output_dir)
    with store.shared():
        for path in write_citation(store):
            log.info("wrote %s", path)
    return 0


def _run_group(config: RunConfig) -> int:
    from bids_lesion_xai.bids.covariates import read_covariates
    from bids_lesion_xai.bids.store import Store
    from bids_lesion_xai.reports.group import write_group

    covariates = read_covariates(config.bids_dir, config.group_by) if config.group_by else None
    store = Store(config.output_dir)
    matches, unfollowed = _follow(store) if config.follow_lesions else ({}, [])
    with store.shared():
        written, group = write_group(store, covariates, matches, unfollowed)
        if config.levels == ("group",) and not config.reports_only:
            store.write_text(f"logs/{config.run}.toml", config.replay)
    for path in written:
        log.info("wrote %s", path)
    for difference in group.differences:
        log.warning("the visits of the group were not processed alike: %s", difference)
    for problem in group.problems:
        log.error("left out of the group: %s", problem)
    for problem in group.unfollowed:
        log.error("lesions of this person are not followed: %s", problem)
    return SOME_VISITS_FAILED if group.problems or group.unfollowed else 0


def _follow(store: Store) -> tuple[dict[Visit, dict[int, int]], list[str]]:
    from bids_lesion_xai.interfaces.follow import follow_lesions

    return follow_lesions(store, store.visits())


def _configure_logging(verbosity: int, screen: Screen) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbosity > 1 else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[screen],
    )
    for noisy in ("matplotlib", "PIL", "bidsschematools", "bids"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It says what it mends in a header, but not in which file; `imaging.header` says both.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


def _terminate(number: int, frame: FrameType | None) -> None:
    log.error("terminated; visits that are complete stay in the output folder")
    raise SystemExit(128 + number)


def _require_folders(config: RunConfig) -> None:
    """Check that the folder that is read is there.

    Raises
    ------
    NotFoundError
        It is not.
    """
    if config.reports_only:
        if not config.output_dir.is_dir():
            message = f"OUTPUT_DIR {config.output_dir} does not exist; --reports-only reads it."
            raise NotFoundError(message)
    elif not config.bids_dir.is_dir():
        problem = "is not a folder" if config.bids_dir.exists() else "does not exist"
        message = f"BIDS_DIR {config.bids_dir} {problem}; name the root folder of a BIDS dataset."
        raise NotFoundError(message)


def _require_covariates(config: RunConfig) -> None:
    """Check what the group level needs at the end, before hours are spent on participants.

    Raises
    ------
    NotFoundError, DataError
        See `bids_lesion_xai.bids.covariates.read_covariates`.
    """
    if config.group_by:
        from bids_lesion_xai.bids.covariates import read_covariates

        read_covariates(config.bids_dir, config.group_by)


def _make_folders(config: RunConfig) -> None:
    """Make the output and work folders, and point every cache into the work folder.

    Raises
    ------
    OutputError
        A folder cannot be made.
    """
    work_mode = 0o700 if config.work_dir.name == WORK_FOLDER else 0o777
    for folder, mode in ((config.output_dir, 0o777), (config.work_dir, work_mode)):
        try:
            folder.mkdir(mode, parents=True, exist_ok=True)
        except OSError as error:
            message = f"{folder} cannot be made ({error.strerror})."
            raise OutputError(message) from error
    _place_caches(config.work_dir / "cache")


def _check_folders(config: RunConfig) -> None:
    """Check that what is written to is there or can be made, and by this user.

    Raises
    ------
    OutputError
        A folder cannot be written to.
    """
    for folder in (config.output_dir, config.work_dir):
        there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
        if not there.is_dir():
            message = f"{folder} cannot be made ({there} is not a folder). Name another folder."
            raise OutputError(message)
        if not os.access(there, os.W_OK):
            problem = "be written to" if there == folder else f"be made in {there}"
            message = f"{folder} cannot {problem}. Name another folder or change its rights."
            raise OutputError(message)
    if config.work_dir.name == WORK_FOLDER and config.work_dir.exists():
        require_private(config.work_dir)


def _place_caches(folder: Path) -> None:
    """Let libraries write their caches into a folder instead of the user's home."""
    for variable in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "NIPYPE_CONFIG_DIR"):
        # One that the environment names may be a folder of the host that a container cannot write.
        os.environ[variable] = str(folder)
