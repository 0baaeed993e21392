# SPDX-License-Identifier: Apache-2.0
"""Colours that mean something, told apart by readers with any colour vision."""

from __future__ import annotations

from matplotlib.colors import LinearSegmentedColormap, to_hex

# Of the images, read on white as on black.
CHANNEL_COLOURS = {"flair": "#1a9a8a", "t1w": "#d0852a"}
PLAIN_COLOUR = "#5b7fa6"
CHANNEL_MARKERS = {"flair": "o", "t1w": "s"}
SERIES_COLOURS = (PLAIN_COLOUR, "#b5577f", "#7c8f2c")
OUTCOME_COLOURS = {"TP": "#2f6fb0", "FP": "#d1662f", "FN": "#b0569a", "TN": "#6f7d8c"}
OUTCOME_MARKERS = {"TP": "o", "FP": "s", "FN": "^", "TN": "D"}

# Behind images.
GROUND = "#0f1114"
# Blue, ground, rose: zero is as dark as the ground, and the CIE lightness rises alike towards both
# ends, in equal steps (5, 22, 39, 56, 73, 90). Colour-blind readers tell the two hues apart.
SALIENCY_COLOURS = LinearSegmentedColormap.from_list(
    "blue_rose",
    [
        *("#d3e4f9", "#7eb9ee", "#328dcb", "#106191", "#133752", GROUND),
        *("#542821", "#9a3f32", "#d46554", "#f49d8c", "#fbdcd5"),
    ],
)
LESION_COLOUR = "#ffe04a"
MISSED_COLOUR = "#ff7ad9"
_N_STOPS = 11


def scale_stops() -> list[tuple[int, str]]:
    """Return places, in percent, and colours along the scale of saliency."""
    return [
        (round(100 * place / (_N_STOPS - 1)), to_hex(SALIENCY_COLOURS(place / (_N_STOPS - 1))))
        for place in range(_N_STOPS)
    ]
