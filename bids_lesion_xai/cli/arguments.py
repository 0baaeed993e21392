# SPDX-License-Identifier: Apache-2.0
"""What argparse lacks: kinds of values, and a help that shows defaults that say something."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

_N = TypeVar("_N", int, float)

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there is something to show, and a value once for all spellings."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, list) and action.default:
            return f"{action.help} (default: {' '.join(action.default)})"
        # The path of the shipped model is long, and of no use to anybody.
        is_path = isinstance(action.default, Path)
        says_nothing = action.default in (None, False, []) or action.nargs == 0 or is_path
        return action.help if says_nothing else super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = ", ".join(action.option_strings)
        if action.nargs == 0:
            return flags
        return (
            f"{flags} {self._format_args(action, self._get_default_metavar_for_optional(action))}"
        )


def add_choice(
    group: argparse._ArgumentGroup,
    flag: str,
    known: dict[str, str],
    before: str = "",
    default: str | None = None,
) -> None:
    """Add an option whose values are the keys of `known`, each explained by its text."""
    texts = "; ".join(f"{name}: {text}" for name, text in known.items())
    group.add_argument(flag, choices=tuple(known), default=default, help=before + texts)


def positive(text: str) -> int:
    """Return the whole number of at least 1 that `text` states; for argparse."""
    return _number(int, text, lambda number: number >= 1, "a whole number of at least 1")


def not_negative(text: str) -> float:
    """Return the number of at least 0 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 <= number < inf, "a number of at least 0")


def whole(text: str) -> int:
    """Return the whole number from 0 to 4294967295 that `text` states; for argparse."""
    expected = "a whole number from 0 to 4294967295"
    return _number(int, text, lambda number: 0 <= number < 2**32, expected)


def above_zero(text: str) -> float:
    """Return the number above 0 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 < number < inf, "a number above 0")


def fraction(text: str) -> float:
    """Return the number between 0 and 1 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 < number < 1, "a probability between 0 and 1")


def gigabytes(text: str) -> float:
    """Return GB of a size in MB, or in a unit that follows it."""
    units = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(?:i?B)?)?", text.strip(), re.IGNORECASE)
    size = float(found[1]) * units[(found[2] or "M").upper()] if found else 0.0
    if not 0 < size < inf:
        message = f"{text}: a number of MB is expected, or one with a unit, such as 16G"
        raise argparse.ArgumentTypeError(message)
    return size


def _number(kind: type[_N], text: str, accept: Callable[[_N], bool], expected: str) -> _N:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not accept(number):
        message = f"{text}: {expected} is expected"
        raise argparse.ArgumentTypeError(message)
    return number


def device(text: str) -> str:
    """Return `text` if it may name a device; for argparse."""
    if not _DEVICE.fullmatch(text):
        message = f"{text}: auto, cpu, cuda or cuda:N is expected"
        raise argparse.ArgumentTypeError(message)
    return text


def file_or_folder(text: str) -> Path:
    """Return the path that `text` names; for argparse.

    An empty one, as of a variable that is not set, would be the current folder.
    """
    if not text:
        message = "a path is expected, not an empty text"
        raise argparse.ArgumentTypeError(message)
    return Path(text)


def named_folder(text: str) -> tuple[str, Path]:
    """Return name and path of a dataset, of ``NAME=PATH`` or ``PATH``; for argparse."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        try:
            name, path = Path(text).resolve().name, text
        except (OSError, RuntimeError) as error:
            message = f"{text}: {error}"
            raise argparse.ArgumentTypeError(message) from error
    if not _NAME.fullmatch(name) or not path:
        message = f"{text}: NAME=PATH is expected, with a name of letters, digits, -, _ and dots"
        raise argparse.ArgumentTypeError(message)
    return name, Path(path)


def labels(prefix: str) -> Callable[[str], tuple[str, ...]]:
    """Return what takes labels apart, for argparse: ``01``, ``sub-01,sub-02`` or ``@FILE``.

    A file has labels between spaces, commas or lines, or is a table whose first column is called
    ``participant_id`` or ``session_id``. Lines that begin with ``#`` are left out.

    Parameters
    ----------
    prefix : str
        ``sub-`` or ``ses-``; labels come without it.
    """

    def split(text: str) -> tuple[str, ...]:
        words = _labels_of_file(Path(text[1:])) if text.startswith("@") else text.split(",")
        found = tuple(word.strip().removeprefix(prefix) for word in words)
        if not found or "" in found:
            message = f"{text}: a label is expected, such as {prefix}01, or several with commas"
            raise argparse.ArgumentTypeError(message)
        return found

    return split


def _labels_of_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"@{path}: a text file with labels is expected ({error})"
        raise argparse.ArgumentTypeError(message) from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if lines and lines[0].split("\t")[0] in ("participant_id", "session_id"):
        return [line.split("\t")[0] for line in lines[1:]]
    return [word for line in lines for word in re.split(r"[\s,]+", line.strip()) if word]
