# SPDX-License-Identifier: Apache-2.0
"""Small line charts of single lesions, drawn by a template: hundreds take no time and no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bids_lesion_xai.reports.page import SUPERSCRIPTS

_WIDTH, _HEIGHT = 300, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 18, 32

Values = Sequence[float] | NDArray[Any]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Parameters
    ----------
    label : str
    colour : str
    x, y : sequence or array of float
        Points that are NaN or infinite are left out.
    dashed : bool
    pointed : bool
        Whether points are drawn, without a line.
    """

    label: str
    colour: str
    x: Values
    y: Values
    dashed: bool = False
    pointed: bool = False


@dataclass(frozen=True)
class Band:
    """A mean with its error, drawn over a range of x."""

    colour: str
    x: tuple[float, float]
    mean: float
    error: float


@dataclass(frozen=True)
class Chart:
    """A chart as its template takes it; lengths are in its own units.

    Parameters
    ----------
    title, x_label, y_label, description : str
    lines, bands, x_ticks, y_ticks, rules : list of dict
        `rules` are reference lines.
    """

    title: str
    x_label: str
    y_label: str
    description: str
    lines: list[dict[str, object]]
    bands: list[dict[str, object]] = field(default_factory=list)
    x_ticks: list[dict[str, object]] = field(default_factory=list)
    y_ticks: list[dict[str, object]] = field(default_factory=list)
    rules: list[dict[str, float]] = field(default_factory=list)
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def draw(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    x_ticks: Ticks = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    bands: Sequence[Band] = (),
    levels: Sequence[float] = (),
    places: Sequence[float] = (),
) -> Chart:
    """Return a chart of lines.

    Parameters
    ----------
    title : str
    lines : sequence of Line
    x_label, y_label : str
    x_ticks : sequence of (float, str)
        Nice numbers if not given.
    x_range, y_range : tuple of float
        Fitted to the lines and bands if not given.
    bands : sequence of Band
    levels, places : sequence of float
        Where a horizontal or a vertical line of reference is.
    """
    points = [_finite(line) for line in lines]
    edges = [value for band in bands for value in (band.mean - band.error, band.mean + band.error)]
    all_x = np.concatenate([x for x, _ in points] or [np.zeros(1)])
    all_y = np.concatenate([*(y for _, y in points), np.array([*levels, *edges], float)])
    x_scale = _Scale(*(x_range or _range(all_x, 0.0)), _LEFT, _WIDTH - _RIGHT)
    y_low, y_high = y_range or _range(all_y[np.isfinite(all_y)], 0.06)
    y_scale = _Scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    y_ticks = np.asarray(MaxNLocator(4).tick_values(y_low, y_high))
    power = _power(y_low, y_high)
    ticks = x_ticks or [
        (value, _tick_text(value))
        for value in MaxNLocator(6).tick_values(x_scale.low, x_scale.high)
    ]
    return Chart(
        title,
        x_label,
        y_label + (f", ×10{str(power).translate(SUPERSCRIPTS)}" if power else ""),
        f"{title}: {', '.join(line.label for line in lines)}; {y_label} by {x_label}.",
        [
            {
                "label": line.label,
                "colour": line.colour,
                "dashed": line.dashed,
                "path": "" if line.pointed else _path(x_scale.of(x), y_scale.of(y)),
                "marks": _marks(x_scale.of(x), y_scale.of(y)) if line.pointed else [],
            }
            for line, (x, y) in zip(lines, points, strict=True)
        ],
        [_band(band, x_scale, y_scale) for band in bands if np.isfinite(band.mean)],
        [
            {"at": round(x_scale.at(value), 1), "text": text}
            for value, text in ticks
            if x_scale.low <= value <= x_scale.high
        ],
        [
            {"at": round(y_scale.at(value), 1), "text": _tick_text(value / 10**power)}
            for value in _without_rounding_errors(y_ticks)
            if y_low <= value <= y_high
        ],
        [
            *({"y": round(y_scale.at(value), 1)} for value in levels),
            *({"x": round(x_scale.at(value), 1)} for value in places),
        ],
    )


@dataclass(frozen=True)
class _Scale:
    """A range of values, and the lengths that stand for its ends."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (float(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def of(self, values: np.ndarray) -> np.ndarray:
        shares = (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)
        return np.round(self.start + shares * (self.end - self.start), 1)


def _finite(line: Line) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = (high - low) * margin
    return (low - room, high + room) if high > low else (low - 1, high + 1)


def _power(low: float, high: float) -> int:
    """Return the power of ten that small or large ticks share; 0 for others."""
    largest = max(abs(low), abs(high))
    power = int(np.floor(np.log10(largest))) if largest else 0
    return power if not -2 <= power <= 3 else 0


def _tick_text(value: float) -> str:
    return format(float(value), ".6g").replace("-", "\N{MINUS SIGN}")


def _without_rounding_errors(ticks: np.ndarray) -> np.ndarray:
    step = float(np.diff(ticks).min()) if ticks.size > 1 else 1.0
    return np.where(np.abs(ticks) < 1e-9 * step, 0.0, ticks)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    points = (f"{a:g} {b:g}" for a, b in zip(x, y, strict=True))
    return "M" + "L".join(points) if x.size else ""


def _marks(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _band(band: Band, x_scale: _Scale, y_scale: _Scale) -> dict[str, object]:
    left, right = (round(x_scale.at(value), 1) for value in band.x)
    error = band.error if np.isfinite(band.error) else 0.0
    top, bottom = (y_scale.at(band.mean + sign * error) for sign in (1, -1))
    return {
        "colour": band.colour,
        "x": left,
        "width": round(max(right - left, 1), 1),
        "y": round(top, 1),
        "height": round(max(bottom - top, 0), 1),
        "mean": round(y_scale.at(band.mean), 1),
    }
