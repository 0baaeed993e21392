# SPDX-License-Identifier: Apache-2.0
"""Options as TOML: every run writes a file that `--config-file` takes again.

Keys are options without their dashes in front. Paths are no part of such a file, for it is made to
be shared: of an option that names data or a model, the file holds the last part of the path alone,
and it must be given on the command line again. Folders of the machine are left out altogether.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_lesion_xai import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PATHS = "paths"
# What is about the machine, or about one run only.
_NOT_WRITTEN = (
    *("help", "version", "config_file", "work_dir", "clean_workdir", "use_plugin"),
    *("bids_database_dir", "bids_database_wipe", "dry_run", "dry_run_table", "force"),
    *("boilerplate_only", "reports_only"),
)


def to_toml(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> str:
    """Return the options of a run as TOML; one that is not set is left out.

    Parameters
    ----------
    parser : ArgumentParser
    options : mapping
        By `dest`.
    """
    lines, paths = [], []
    for dest, action in _actions(parser).items():
        value = options[dest]
        if dest in _NOT_WRITTEN or value is None or value is False or value == []:
            continue
        key = _flag(action).removeprefix("--")
        found = _paths_in(value)
        if found:
            names = ", ".join(path.name for path in found)
            paths += [_line(key, names)] if value != action.default else []
        else:
            lines.append(_line(key, _flat(value)))
    note = (
        f"# Options of a run of bids_lesion_xai {__version__}. To run it again:\n"
        "# bids-lesion-xai BIDS_DIR OUTPUT_DIR participant --config-file FILE\n"
    )
    if paths:
        paths.insert(0, f"\n# To be given on the command line.\n[{_PATHS}]\n")
    return "".join([note, *lines, *paths])


def read_arguments(
    path: Path, parser: argparse.ArgumentParser, given: Mapping[str, Any]
) -> list[str]:
    """Return the arguments of the command line that a file stands for.

    Parameters
    ----------
    path : Path
    parser : ArgumentParser
    given : mapping
        What the command line itself says, by `dest`; None for what it does not say.

    Raises
    ------
    ValueError
        The file is no TOML, has a key that is no option, or needs a path that is not given.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"it cannot be read as TOML: {error}"
        raise ValueError(message) from error
    paths = content.pop(_PATHS, {})
    if not isinstance(paths, dict):
        message = f"{_PATHS} is {paths!r}; a table of options is expected"
        raise ValueError(message)
    for key, name in paths.items():
        flag, action = _option(key, parser)
        if given[action.dest] is None:
            message = f"the run had {flag} with {name!r}; give {flag} and where that is now"
            raise ValueError(message)
    return [word for key, value in content.items() for word in _words(key, value, parser)]


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the option of each `dest`; of several, the one that is called like it."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        own = f"--{action.dest.replace('_', '-')}"
        if action.option_strings and (action.dest not in found or own in action.option_strings):
            found[action.dest] = action
    return found


def _flag(action: argparse.Action) -> str:
    return next(flag for flag in action.option_strings if flag.startswith("--"))


def _option(key: str, parser: argparse.ArgumentParser) -> tuple[str, argparse.Action]:
    """Return the option that a key of a file stands for."""
    known = {
        flag.removeprefix("--"): action
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and action.dest not in ("help", "version", "config_file")
    }
    for name in (key, key.replace("_", "-")):
        if name in known:
            return f"--{name}", known[name]
    close = difflib.get_close_matches(key, known, 1)
    hint = f"; is {close[0]} meant?" if close else ""
    message = f"{key} is no option{hint}"
    raise ValueError(message)


def _words(key: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    flag, action = _option(key, parser)
    values = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or any(isinstance(one, list | dict) for one in values):
        message = f"{key} is {value!r}; a value, or a list of values, is expected"
        raise ValueError(message)
    if action.nargs == 0:
        n_times = int(value) if isinstance(value, int) else -1
        if n_times < 0 or (n_times > 1 and not isinstance(action, argparse._CountAction)):
            message = f"{key} is {value!r}; true or false is expected"
            raise ValueError(message)
        return [flag] * n_times
    if any(isinstance(one, bool) for one in values):
        message = f"{key} is {value!r}; it takes a value"
        raise ValueError(message)
    if action.nargs == "+":
        return [flag, *map(str, values)] if values else []
    if isinstance(value, list):
        message = f"{key} is {value!r}; one value is expected"
        raise ValueError(message)
    # In one word, so that a number below 0 is not taken for an option.
    return [f"{flag}={value}"]


def _flat(value: Any) -> Any:
    """Return a value without lists in lists."""
    if isinstance(value, list | tuple):
        return [one for some in value for one in _as_list(_flat(some))]
    return value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _paths_in(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    if isinstance(value, Mapping):
        return _paths_in(list(value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [path for one in value for path in _paths_in(one)]
    return []


def _line(key: str, value: Any) -> str:
    """Return a line of TOML; JSON's strings, numbers, lists, true and false are TOML's too."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
