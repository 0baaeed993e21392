# SPDX-License-Identifier: Apache-2.0
"""Reading who runs the visits: this machine, or the scheduler of a cluster."""

from __future__ import annotations

from math import inf
from pathlib import Path

from bids_lesion_xai.config import LOCAL, SCHEDULERS, Plugin
from bids_lesion_xai.errors import UsageError

_LOCAL_NAMES = (LOCAL, "LegacyMultiProc")
# What is taken of the arguments of the local plugins: all that this app's own scheduler knows.
_LOCAL_ARGS = ("n_procs", "memory_gb")


def read_plugin(path: Path) -> Plugin:
    """Return what a file says in YAML or JSON: `plugin`, a name, and `plugin_args`, a mapping.

    Raises
    ------
    UsageError
        The file cannot be read, or says something else.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
        raise UsageError(message) from error
    name, args = None, None
    if isinstance(content, dict):
        name, args = content.get("plugin"), content.get("plugin_args") or {}
    if name not in (*_LOCAL_NAMES, *SCHEDULERS) or not isinstance(args, dict):
        names = ", ".join((LOCAL, *SCHEDULERS))
        message = (
            f"{path} says {content!r}; expected is a mapping of plugin (one of {names}) and "
            "plugin_args (a mapping)."
        )
        raise UsageError(message)
    if name in SCHEDULERS:
        return Plugin(name, args)
    args = {key: args[key] for key in _LOCAL_ARGS if key in args}
    for key, value in args.items():
        is_number = type(value) in (int, float) and 0 < value < inf
        if not is_number or (key == "n_procs" and value % 1):
            message = f"{path} says {key} {value!r}; a number above 0 is expected."
            raise UsageError(message)
    return Plugin(LOCAL, args)
