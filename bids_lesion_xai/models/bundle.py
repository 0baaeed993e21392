# SPDX-License-Identifier: Apache-2.0
"""Reading a MONAI bundle: network, inputs and weights. It is read as data, nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.conventions import CHANNELS, LESION_CLASS
from bids_lesion_xai.errors import UnavailableError

DEFAULT_BUNDLE = Path(__file__).parent / "flair_t1w_unet"
# Classes of `monai.networks.nets` that a bundle may name.
ALLOWED_NETWORKS = ("UNet", "DynUNet", "SwinUNETR")
# Where `inference.json` names a class.
_TARGETS = (("network_def", "_target_"), ("inferer", "_target_"))
# How MONAI marks expressions, references and macros.
_EXPRESSION_MARKS = ("$", "@", "%")
_MOST_LEVELS = 32
# Logits of background and lesion from two volumes.
_NETWORK_SHAPE = {"spatial_dims": 3, "in_channels": len(CHANNELS), "out_channels": 2}
_CHANNEL_DEF = {str(i): name for i, name in enumerate(CHANNELS.values())}
# Where the classes of the output are stated.
_LESION = str(LESION_CLASS)
_CLASSES = {"0": "background", _LESION: "lesion"}
_WEIGHTS_SUFFIXES = (".safetensors", ".pt")
_LARGEST_SIDE = 1024
# Arguments of MONAI's `SlidingWindowInferer` that change no value or are read, and what the others
# must be, since windows are blended like that.
_INFERER_FREE = ("roi_size", "overlap", "sw_batch_size", "progress", "cache_roi_weight_map")
_INFERER_DEFAULTS = {"sigma_scale": 0.125, "padding_mode": "constant", "cval": 0}
_INFERER_BLEND = {"mode": "gaussian", **_INFERER_DEFAULTS}


@dataclass(frozen=True)
class Bundle:
    """A segmentation model on disk.

    Parameters
    ----------
    name, version : str
        From `metadata.json`.
    network : str
        Name of the class in `monai.networks.nets`.
    arguments : dict
        Keyword arguments of that class.
    multiple : int
        Every side of the input must be a multiple of this number of voxels.
    window : tuple of int, or None
        Shape of the sliding windows that the network is evaluated in; None for the whole volume.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.
    threshold : float
        Lesion probability from which a voxel counts as lesion, unless the user says otherwise.
    peak_threshold : float
        Lesion probability that a voxel of each lesion reaches, unless the user says otherwise;
        the threshold where the bundle states none.
    trained_on : tuple of str
        People whose images or lesion masks are in the training data, where the bundle names them.
    trained_masks : tuple of str
        `mask_checksum` of these masks, where the bundle states them.
    weights : Path
    sha256 : str
        Checksum that `metadata.json` states for the weights.
    """

    name: str
    version: str
    network: str
    arguments: dict[str, Any]
    multiple: int
    window: tuple[int, ...] | None
    overlap: float
    threshold: float
    peak_threshold: float
    trained_on: tuple[str, ...]
    trained_masks: tuple[str, ...]
    weights: Path
    sha256: str

    def thresholds(self, threshold: float | None, peak: float | None) -> tuple[float, float]:
        """Return the probabilities of a voxel and of a peak; None takes the model's own."""
        voxel = self.threshold if threshold is None else threshold
        return voxel, max(voxel, self.peak_threshold if peak is None else peak)

    def verify(self) -> None:
        """Compare the weights with their checksum.

        Raises
        ------
        UnavailableError
            They differ.
        """
        found = sha256(self.weights)
        if found != self.sha256:
            message = (
                f"{self.weights.name} of model {self.name} has SHA-256 {found}, but its "
                f"metadata.json states {self.sha256}. Restore the file that belongs to it."
            )
            raise UnavailableError(message)


def read_bundle(folder: Path) -> Bundle:
    """Read a MONAI bundle folder.

    Parameters
    ----------
    folder : Path
        With `configs/metadata.json`, `configs/inference.json` and the weights.

    Raises
    ------
    UnavailableError
        A file is missing or malformed, the network is not on the allow list, a value anywhere in
        `inference.json` is an expression (starts with `$`, `@` or `%`) or names another class, the
        inputs are not FLAIR and T1w, the network does not map two volumes to two, its classes are
        stated and are not background and lesion, or the weights are not in the folder.
    """
    metadata = _read_json(folder / "configs" / "metadata.json")
    inference = _read_json(folder / "configs" / "inference.json")
    _require_plain(inference, folder)
    try:
        definition = dict(inference["network_def"])
        network = definition.pop("_target_")
        inputs = metadata["network_data_format"]["inputs"]["image"]
        multiple = _multiple(inputs["spatial_shape"])
        bundle = Bundle(
            name=str(metadata["name"]),
            version=str(metadata["version"]),
            network=network.removeprefix("monai.networks.nets."),
            arguments=definition,
            multiple=multiple,
            threshold=_probability(inference, "threshold"),
            peak_threshold=_probability(
                {"peak_threshold": inference["threshold"], **inference}, "peak_threshold"
            ),
            **_windows(inference.get("inferer"), multiple),
            trained_on=_names(metadata.get("training", {}), "people", "masks_of"),
            trained_masks=_names(metadata.get("training", {}), "mask_checksums"),
            weights=_inside(folder, metadata["weights"]["file"]),
            sha256=str(metadata["weights"]["sha256"]),
        )
        channels, n_channels = inputs["channel_def"], inputs["num_channels"]
        outputs = metadata["network_data_format"].get("outputs", {}).get("pred", {})
        classes = outputs.get("channel_def", _CLASSES)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__} {error}"
        if isinstance(error, KeyError):
            reason = f"{error} is missing"
        message = f"The model in {folder} is not complete: {reason}."
        raise UnavailableError(message) from error
    _check(bundle, channels, n_channels)
    # Lesions may be called otherwise.
    if not isinstance(classes, dict) or {**_CLASSES, _LESION: classes.get(_LESION)} != classes:
        message = (
            f"Model {bundle.name} gives the classes {classes}; {_CLASSES} are expected in "
            "metadata.json, network_data_format.outputs.pred.channel_def."
        )
        raise UnavailableError(message)
    return bundle


def _require_plain(inference: dict[str, Any], folder: Path) -> None:
    """Refuse what MONAI would run, be it read here or not."""
    for path, value in _walk(inference):
        if isinstance(value, str) and value.startswith(_EXPRESSION_MARKS):
            message = (
                f"The model in {folder} has the expression {value!r} as {_dotted(path)} in "
                "inference.json; only plain values are read. Write the value itself, or take it "
                "out."
            )
            raise UnavailableError(message)
        if path[-1:] == ("_target_",) and path not in _TARGETS:
            message = (
                f"The model in {folder} names {value!r} as {_dotted(path)} in inference.json; "
                f"classes are read as {' and '.join(map(_dotted, _TARGETS))} alone. Take it out."
            )
            raise UnavailableError(message)


def _check(bundle: Bundle, channels: Any, n_channels: Any) -> None:
    if bundle.network not in ALLOWED_NETWORKS:
        message = (
            f"Model {bundle.name} names the network {bundle.network!r}; allowed are "
            f"{', '.join(ALLOWED_NETWORKS)} of monai.networks.nets."
        )
        raise UnavailableError(message)
    if channels != _CHANNEL_DEF or type(n_channels) is not int or n_channels != len(CHANNELS):
        message = (
            f"Model {bundle.name} takes {n_channels} channels {channels}; exactly "
            f"{len(CHANNELS)} channels {_CHANNEL_DEF} are expected in metadata.json."
        )
        raise UnavailableError(message)
    # SwinUNETR need not state its dimensions.
    given = {"spatial_dims": 3, **bundle.arguments}
    shape = {key: given.get(key) for key in _NETWORK_SHAPE}
    if shape != _NETWORK_SHAPE:
        message = (
            f"Model {bundle.name} has a network_def with {shape} in inference.json; "
            f"{_NETWORK_SHAPE} is expected."
        )
        raise UnavailableError(message)
    if bundle.weights.suffix not in _WEIGHTS_SUFFIXES or not _is_file(bundle.weights):
        message = f"Model {bundle.name}: weights {bundle.weights} not found (.safetensors or .pt)."
        raise UnavailableError(message)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _require_shallow(content)
    except (OSError, ValueError, RecursionError) as error:
        message = f"The model file {path} cannot be read ({error}). Name a MONAI bundle folder."
        raise UnavailableError(message) from error
    if not isinstance(content, dict):
        message = f"The model file {path} holds {type(content).__name__}; an object is expected."
        raise UnavailableError(message)
    return content


def _require_shallow(content: Any) -> None:
    """Refuse what is nested so deep that comparing or showing it would fail."""
    # The walk ends at the first one, so it goes no deeper itself.
    if any(len(path) > _MOST_LEVELS for path, _ in _walk(content)):
        message = f"values are nested more than {_MOST_LEVELS} levels deep"
        raise ValueError(message)


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a JSON value and every value inside it, each after what it lies in, with its keys."""
    yield path, value
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from _walk(child, (*path, str(key)))


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _multiple(spatial_shape: list[str]) -> int:
    """Return 16 for ``["16*n", "16*n", "16*n"]``."""
    factors = {int(side.removesuffix("*n")) for side in spatial_shape}
    if len(factors) != 1:
        message = f"spatial_shape {spatial_shape} is not the same multiple on every axis"
        raise ValueError(message)
    factor = factors.pop()
    if factor < 1:
        message = f"spatial_shape {spatial_shape} has no multiple of at least one voxel"
        raise ValueError(message)
    return factor


def _names(training: dict[str, Any], *keys: str) -> tuple[str, ...]:
    """Return everything that lists of a training name, once."""
    found: set[str] = set()
    for key in keys:
        names = training.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            message = f"training.{key} {names}; a list of names is expected"
            raise ValueError(message)
        found.update(names)
    return tuple(sorted(found))


def _probability(inference: Mapping[str, Any], key: str) -> float:
    value = inference[key]
    if not isinstance(value, float) or not 0 < value < 1:
        message = f"{key} {value}; a probability above 0 and below 1 is expected"
        raise ValueError(message)
    return value


def _inside(folder: Path, file: str) -> Path:
    """Return the path of a file of the bundle: one elsewhere is not what was checked or named."""
    if Path(file).is_absolute() or ".." in Path(file).parts:
        message = f"weights {file}; a path inside the folder is expected"
        raise ValueError(message)
    return folder / file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # The name is longer than any file's, or nobody may look.
        return False


def _windows(inferer: dict[str, Any] | None, multiple: int) -> dict[str, Any]:
    """Return window and overlap of MONAI's `SlidingWindowInferer`; without one, no window."""
    given = dict(inferer or {"_target_": "SimpleInferer"})
    target = given.pop("_target_").removeprefix("monai.inferers.")
    if target == "SimpleInferer":
        return {"window": None, "overlap": 0.0}
    window, overlap = tuple(given["roi_size"]), given["overlap"]
    blend = {key: value for key, value in given.items() if key not in _INFERER_FREE}
    sides_fit = [
        type(side) is int and 0 < side <= _LARGEST_SIDE and side % multiple == 0 for side in window
    ]
    if (
        target != "SlidingWindowInferer"
        or {**_INFERER_DEFAULTS, **blend} != _INFERER_BLEND
        or sides_fit != [True] * 3
        or not 0 <= overlap < 1
    ):
        message = (
            f"inferer {inferer}; a SlidingWindowInferer with a roi_size of three multiples of "
            f"{multiple} up to {_LARGEST_SIDE}, an overlap of at least 0 and below 1, and "
            f"{_INFERER_BLEND} is expected"
        )
        raise ValueError(message)
    return {"window": window, "overlap": float(overlap)}
