# SPDX-License-Identifier: Apache-2.0
"""One HTML page in one file: template, numbers, images and charts. It needs no network."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bids_lesion_xai import __version__
from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.group.collect import MISSING
from bids_lesion_xai.reports.colours import (
    CHANNEL_COLOURS,
    GROUND,
    LESION_COLOUR,
    MISSED_COLOUR,
    scale_stops,
)

# Where saliency is averaged, from the inside outwards: end of the column's name, and a label.
PROFILE = (
    ("mean_inside", "inside"),
    *(
        (f"mean_shell_{outer}mm", f"{inner}–{outer}")
        for inner, outer in zip((0, *SHELLS_MM), SHELLS_MM, strict=False)
    ),
)

_MINUS = "\N{MINUS SIGN}"
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Drawn in this colour, a chart takes the colour of the text of the page.
INK = "#010203"
# An id of a chart, and a use of it.
_ID = re.compile(r'(?<=[ \n]id=")|(?<=href="#)|(?<=url\(#)')
_CHART_SETTINGS: Any = {
    # Names of people's groups may have dollars.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bids_lesion_xai",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.borderaxespad": 0,
}


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return the text of a page, or of a part of it.

    Parameters
    ----------
    template : str
        Name of a file of `templates`.
    content : mapping
        The template's variables. Text is escaped.
    """
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bids_lesion_xai.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number_text, exact=exact_text, fact=fact_text)
    environment.globals.update(
        version=__version__,
        channels=CHANNELS,
        colours=CHANNEL_COLOURS,
        inline_chart=inline_chart,
        ground=GROUND,
        lesion_colour=LESION_COLOUR,
        missed_colour=MISSED_COLOUR,
        scale_colours=[colour for _, colour in scale_stops()],
        profile=PROFILE,
    )
    return environment


def is_missing(value: Any) -> bool:
    """Tell whether a value of a table or sidecar is missing."""
    return value is None or value == MISSING or (isinstance(value, float) and math.isnan(value))


def number_text(value: Any, digits: int = 3) -> str:
    """Return a number as people read it: whole, or with `digits` significant digits.

    >>> [number_text(value) for value in (1234.5, 7.0, 0.01, 1.5e-7, float("nan"))]
    ['1234', '7', '0.0100', '1.50×10⁻⁷', 'n/a']
    """
    if is_missing(value):
        return MISSING
    if value == round(value) or abs(value) >= 10**digits - 0.5:
        text = format(round(value), "," if abs(value) >= 1e4 else "d").replace(",", _THIN_SPACE)
    else:
        text = format(value, f"#.{digits}g").rstrip(".")
    mantissa, _, exponent = text.partition("e")
    power = f"×10{str(int(exponent)).translate(SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", _MINUS) + power


def exact_text(value: Any) -> str:
    """Return a number as text that states it exactly.

    >>> exact_text(0.1), exact_text(7), exact_text(float("nan"))
    ('0.1', '7', 'n/a')
    """
    if is_missing(value):
        return MISSING
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))


def fact_text(value: Any) -> str:
    """Return a value of a sidecar as people read it.

    >>> fact_text({"FLAIR": 0.25, "T1w": 0.5}), fact_text([1, 2]), fact_text("mean")
    ('FLAIR 0.25, T1w 0.5', '1, 2', 'mean')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(fact_text(item) for item in value)
    if is_missing(value):
        return MISSING
    return format(value, "g") if isinstance(value, float) else str(value)


def data_uri(content: bytes, media_type: str) -> str:
    """Return the content of a file as a URI that needs no file.

    >>> data_uri(b"hello", "text/plain")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def image_uri(path: Path) -> str:
    """Return a PNG image as the URI of a WebP image, which is several times smaller."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=88, method=2)
    return data_uri(buffer.getvalue(), "image/webp")


@contextmanager
def chart(
    width: float, height: float, margins: Mapping[str, float] | None = None
) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of `width` x `height` inches and its axes, in the style of the page.

    Draw and call `chart_uri` inside the block. Without `margins`, they are fitted to the labels,
    which takes as long as drawing.
    """
    with mpl.rc_context(_CHART_SETTINGS):
        figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
        if margins:
            figure.subplots_adjust(**margins)
        yield figure, figure.subplots()


def chart_svg(figure: Figure) -> str:
    """Return a chart as the text of an SVG image, for `inline_chart`.

    The same figure gives the same text.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    # Its style would hold for the whole page.
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return body[body.index("<svg") :].replace(INK, "currentColor")


def inline_chart(svg: str, name: str, description: str) -> Markup:
    """Return a chart as a part of a page, whose colours and letters it takes.

    Parameters
    ----------
    svg : str
        Of `chart_svg`.
    name : str
        Tells the charts of a page apart.
    description : str
        For readers who do not see it.
    """
    start = f'<svg class="chart" role="img" aria-label="{escape(description)}"'
    return Markup(start + _ID.sub(f"{name}-", svg.removeprefix("<svg")))  # noqa: S704


def zero_line(axes: Axes) -> None:
    """Draw the horizontal line of 0."""
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5, zorder=1)


def profile_axis(axes: Axes) -> None:
    """Name the places of `PROFILE` on the horizontal axis."""
    axes.set_xticks(range(len(PROFILE)), [label for _, label in PROFILE])
    axes.set_xlabel("distance from the lesion, mm")
    axes.set_ylabel("mean saliency")
