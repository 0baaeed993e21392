# SPDX-License-Identifier: Apache-2.0
"""The one table of everything that the app writes.

Writers, readers, reports, `.bidsignore` and the README's list of outputs all come from it. To add
an output, add a row here and let an interface produce the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bids_lesion_xai.bids.naming import format_name
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import (
    CHANNELS,
    EXPERIMENTS,
    INPUT_METHODS,
    LOCATIONS,
    OUTCOMES,
    SALIENCY_PERCENTAGES,
    SHELLS_MM,
)

# Stands for the method of explanation in the value of an entity.
METHOD = "METHOD"
DEFAULT_METHOD = "smoothgrad"


def method_label(method: str) -> str:
    """Return the name of a method of explanation as it stands in file names.

    >>> method_label("smoothgrad-squared")
    'smoothgradsquared'
    """
    return method.replace("-", "")


METHOD_LABELS = tuple(map(method_label, INPUT_METHODS))


class Level(Enum):
    """What there is one file of."""

    VISIT = "visit"
    LESION = "lesion"
    FIGURE = "figure"
    LESION_FIGURE = "lesion figure"
    REPORT = "report"
    GROUP = "group"


_FIGURES = (Level.FIGURE, Level.LESION_FIGURE)
# There is one file for each lesion of these.
LESION_LEVELS = (Level.LESION, Level.LESION_FIGURE)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    description : str
    units : str
        Empty if it has none.
    kind : str
        The BIDS ``Format``, where it is not that of any number.
    levels : mapping of str to str
        The words that a column of words may hold, and their meaning; empty for numbers.
    """

    description: str
    units: str = ""
    kind: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Derivative:
    """One kind of output file.

    Parameters
    ----------
    key : str
        What the code calls it.
    level : Level
    suffix, extension : str
        End of the file name.
    description : str
        For the sidecar, the README and captions.
    entities : mapping
        Entities of the file name beside ``sub`` and ``ses`` (and ``label`` for a lesion); `METHOD`
        in a value stands for the method of explanation.
    units : str
        Unit of the voxel values.
    facts : tuple of str
        Keys that the writer must give for the sidecar; empty for a file without own sidecar.
    columns : mapping of name to Column
        For tables.
    standard : bool
        False if BIDS has no such name yet, so that `.bidsignore` must list it.
    optional : bool
        Whether only runs that were asked for it write it.
    """

    key: str
    level: Level
    suffix: str
    extension: str
    description: str
    entities: Mapping[str, str] = field(default_factory=dict)
    units: str = ""
    facts: tuple[str, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)
    standard: bool = True
    optional: bool = False

    def path(
        self,
        visit: Visit | None = None,
        lesion: str | None = None,
        method: str = DEFAULT_METHOD,
    ) -> Path:
        """Return the path of the file relative to the output folder.

        Parameters
        ----------
        visit : Visit
            For every level but ``GROUP``.
        lesion : str
            Name of the lesion, e.g. ``L001``, for the levels ``LESION`` and ``LESION_FIGURE``.
        method : str
            The explanation's, as it stands in file names; see `method_label`.
        """
        if visit is None:
            return Path(self.suffix + self.extension)
        if self.level is Level.REPORT:
            return Path(visit.name + self.extension)
        label = {"label": lesion} if lesion else {}
        own = {key: value.replace(METHOD, method) for key, value in self.entities.items()}
        name = format_name({**visit.entities, **own, **label}, self.suffix, self.extension)
        if self.level in _FIGURES:
            return Path(f"sub-{visit.participant}", "figures", name)
        return visit.folder / "anat" / name

    def example(self, visit: Visit, method: str = DEFAULT_METHOD) -> Path:
        """Return `path` for `visit`, and its first lesion, where there is one file for each."""
        of_lesion = self.level in LESION_LEVELS
        return self.path(
            None if self.level is Level.GROUP else visit, "L001" if of_lesion else None, method
        )


_INTENSITY_UNITS = "standard deviations of the brain"


def _intensity_columns(channel: str, name: str) -> dict[str, Column]:
    texts = {
        "intensity": f"mean of {name} over the region",
        "intensity_rim": f"mean of {name} over the brain within 3 mm, outside all regions",
        "contrast": f"the mean of {name} over the region minus that over the rim",
    }
    return {f"{channel}_{key}": Column(text, _INTENSITY_UNITS) for key, text in texts.items()}


_LESION_COLUMNS = {
    "index": Column("value of the lesion in the label image", kind="integer"),
    "name": Column("name of the lesion in file names and reports", kind="string"),
    "volume_mm3": Column("volume", "mm3"),
    "n_voxels": Column("number of voxels"),
    "centroid_x_mm": Column("centre of mass, right positive", "mm"),
    "centroid_y_mm": Column("centre of mass, anterior positive", "mm"),
    "centroid_z_mm": Column("centre of mass, superior positive", "mm"),
    "mean_probability": Column("mean lesion probability over the lesion's voxels"),
    "peak_probability": Column("largest lesion probability of the lesion's voxels"),
    "equivalent_diameter_mm": Column("diameter of the sphere of the same volume", "mm"),
    **{
        f"bbox_{axis}_{end}": Column(f"bounding box along voxel axis {axis}: {meaning}")
        for axis in "xyz"
        for end, meaning in (("first", "first index"), ("last", "last index, inclusive"))
    },
    "outcome": Column(
        "what the region is by the reference mask; n/a without one", levels=OUTCOMES
    ),
    "location": Column(
        "place in the brain by the tissue map, the first that holds of infratentorial, "
        "periventricular, juxtacortical and deep",
        levels=LOCATIONS,
    ),
    "ventricle_distance_mm": Column("distance to the nearest lateral ventricle, 0 inside", "mm"),
    "cortex_distance_mm": Column("distance to the nearest cerebral cortex, 0 inside", "mm"),
    **{
        key: column
        for channel, name in CHANNELS.items()
        for key, column in _intensity_columns(channel, name).items()
    },
}

# Of the default method and target; a sidecar that states others counts.
SALIENCY_UNITS = "logit per unit of normalised intensity"


def _channel_columns(channel: str) -> dict[str, Column]:
    name = CHANNELS[channel]
    distances = zip((0, *SHELLS_MM), SHELLS_MM, strict=False)
    error = "Monte-Carlo standard error over the noise samples"
    columns = {
        "peak": f"saliency of {name} of the largest magnitude, with its sign",
        "peak_se": f"{error} at the voxel of the peak",
        "mean_inside": f"mean saliency of {name} over the lesion's voxels",
        "mean_inside_se": f"{error} of the mean inside",
        **{
            f"mean_shell_{outer}mm": f"mean saliency of {name} over voxels outside the lesion, "
            f"more than {inner} and at most {outer} mm (Euclidean, between voxel centres) from it"
            for inner, outer in distances
        },
        **{
            f"{sign}_{side}": f"sum of the {sign} saliency values of {name} {where}"
            for side, where in (("inside", "in the lesion"), ("outside", "outside the lesion"))
            for sign in ("positive", "negative")
        },
    }
    shapes = {
        **{
            f"distance_{percent}_mm": Column(
                f"distance from the lesion within which {percent} % of the absolute saliency of "
                f"{name} lies, 0 if it lies in the lesion",
                "mm",
            )
            for percent in SALIENCY_PERCENTAGES
        },
        "sign_balance": Column(
            f"sum of the saliency of {name} over the sum of its absolute values, -1 to 1"
        ),
        "compactness": Column(
            "radius of gyration of the lesion's voxels over that of all voxels weighted by the "
            f"absolute saliency of {name}: 1 if it is spread like the lesion, small if wide"
        ),
    }
    described = {key: Column(text, SALIENCY_UNITS) for key, text in columns.items()} | shapes
    return {f"{channel}_{key}": column for key, column in described.items()}


_SALIENCY_COLUMNS = {
    "index": _LESION_COLUMNS["index"],
    "name": _LESION_COLUMNS["name"],
    "n_samples": Column("number of noise samples, or of points on a way"),
    "flair_share": Column(
        "share of FLAIR in the sum of the absolute saliency values of both images, 0 to 1"
    ),
    "flair_share_se": Column(
        "Monte-Carlo standard error of flair_share: jackknife over at most ten groups of noise "
        "samples"
    ),
    **_channel_columns("flair"),
    **_channel_columns("t1w"),
}

_PROFILE_COLUMNS = {
    "index": _LESION_COLUMNS["index"],
    "name": _LESION_COLUMNS["name"],
    "channel": Column("image", levels=CHANNELS),
    "near_mm": Column(
        "near end of a step of distance from the border of the lesion, exclusive: outside, to the "
        "nearest voxel of the lesion; inside, minus that to the nearest voxel outside; Euclidean, "
        "between voxel centres",
        "mm",
    ),
    "far_mm": Column("far end of the step, inclusive", "mm"),
    "n_voxels": Column("number of voxels at such a distance; steps without voxels have no row"),
    "mean": Column("mean saliency of these voxels", SALIENCY_UNITS),
    "positive": Column("sum of their positive values", SALIENCY_UNITS),
    "negative": Column("sum of their negative values", SALIENCY_UNITS),
}

_FILLS = {
    "zero": "0, the mean of the brain (published)",
    "normal": "the mean of normal-appearing white matter",
    "inpaint": "the visible tissue, continued outward",
}
_PROBABILITY = Column("mean lesion probability over the voxels of the lesion")
_LOGIT = Column("mean logit of lesion over the voxels of the lesion", "logit")
_DETECTED = Column("1 if a voxel of the lesion reaches --peak-threshold, else 0")
_MARGIN = Column(
    "distance from the lesion up to which the image is shown (Euclidean, between voxel centres); "
    "inf shows all of it",
    "mm",
)
_LESION_KEYS = {key: _LESION_COLUMNS[key] for key in ("index", "name")}
# The table of each experiment.
EXPERIMENT_COLUMNS: dict[str, dict[str, Column]] = {
    "perilesional": {
        **_LESION_KEYS,
        "fill": Column("what the brain is filled with beyond the margin", levels=_FILLS),
        "margin_mm": _MARGIN,
        "mean_probability": _PROBABILITY,
        "detected": _DETECTED,
    },
    "synthetic": {
        "position": Column("number of the place"),
        **{axis: Column(f"index of the centre along voxel axis {axis}") for axis in "xyz"},
        "diameter_mm": Column("diameter of the synthetic lesion, a sphere", "mm"),
        "channel": Column(
            "image that the contrast is in", levels={**CHANNELS, "both": "FLAIR and T1w"}
        ),
        "contrast": Column(
            "what is added to FLAIR, and taken from T1w, inside the sphere", _INTENSITY_UNITS
        ),
        "margin_mm": _MARGIN,
        "mean_probability": _PROBABILITY,
        "detected": _DETECTED,
    },
    "faithfulness": {
        **_LESION_KEYS,
        "mode": Column(
            "what is done to the first values of the order",
            levels={
                "deletion": "they take the mean of normal-appearing white matter",
                "insertion": "they alone stay as they are",
            },
        ),
        "order": Column(
            "order of the values, one a voxel and image",
            levels={
                "saliency": "largest absolute saliency first",
                "random": "random; mean of three orders",
                "intensity": "furthest from the mean of normal-appearing white matter first",
            },
        ),
        "share": Column("share of the values in the receptive field and the brain, 0 to 1"),
        "mean_logit": _LOGIT,
    },
    "randomisation": {
        **_LESION_KEYS,
        "n_layers": Column("number of layers, from the output on, whose weights were redrawn"),
        "layer": Column("name of the last of them; n/a before the first", kind="string"),
        "spearman": Column("rank correlation of the absolute saliency with that before"),
        "pearson": Column("correlation of the saliency with that before"),
    },
    "channel": {
        **_LESION_KEYS,
        "replaced": Column(
            "image that took the mean of normal-appearing white matter",
            levels={"none": "neither", **CHANNELS, "both": "FLAIR and T1w"},
        ),
        "mean_probability": _PROBABILITY,
        "mean_logit": _LOGIT,
        "detected": _DETECTED,
    },
}
_EXPERIMENT_NUMBERS = {
    **{
        f"margin_{percent}_{fill}_mm": Column(
            f"smallest margin at which the mean probability reaches {percent} % of that of the "
            f"whole image; beyond it: {meaning}",
            "mm",
        )
        for fill, meaning in _FILLS.items()
        for percent in (50, 95)
    },
    **{
        f"settled_{percent}_{fill}_mm": Column(
            f"smallest margin from which on it stays at {percent} % or more; beyond it: {meaning}",
            "mm",
        )
        for fill, meaning in _FILLS.items()
        for percent in (50, 95)
    },
    "full_probability": Column("mean probability with the whole image"),
    **{
        f"{mode}_auc_{order}": Column(
            f"area under the {mode} curve of the order {order}: mean over the shares, which are "
            "evenly spaced on a logarithmic scale, of the logit, 0 for all values replaced and 1 "
            "for none"
        )
        for mode in ("deletion", "insertion")
        for order in ("saliency", "random", "intensity")
    },
    "randomisation_spearman_first": Column(
        "rank correlation of the absolute saliency with that before the last layer was redrawn"
    ),
    "randomisation_spearman_all": Column("the same for all layers"),
    **{
        f"channel_{channel}_drop": Column(
            f"mean probability that is lost when {name} takes its normal-appearing mean"
        )
        for channel, name in CHANNELS.items()
    },
}

_VISIT_COLUMNS = {
    "participant_id": Column("participant"),
    "session_id": Column("session; n/a in a dataset without sessions"),
}

_PARTICIPANT_COLUMNS = {
    **_VISIT_COLUMNS,
    "n_lesions": Column("number of lesions"),
    "lesion_volume_mm3": Column("volume of all lesions", "mm3"),
    "median_lesion_volume_mm3": Column("median volume of a lesion", "mm3"),
    "n_true_positive": Column("lesions that share a voxel with the reference mask"),
    "n_false_positive": Column("lesions that share none"),
    "n_missed": Column("lesions of the reference mask that share no voxel with a lesion found"),
    "brain_volume_mm3": Column("volume of the brain mask", "mm3"),
    "mean_probability": Column("mean over the lesions of their mean lesion probability"),
    "registration_similarity": Column("similarity of FLAIR and T1w after registration"),
    "flair_share": Column("mean over the lesions of the share of FLAIR in the saliency"),
    **{
        f"{channel}_{key}": Column(f"mean over the lesions of {channel}_{key}", SALIENCY_UNITS)
        for channel in CHANNELS
        for key in ("peak", "mean_inside", *(f"mean_shell_{mm}mm" for mm in SHELLS_MM))
    },
}

_CLAIM_COLUMNS = {
    "question": Column("what is asked"),
    "contrast": Column("what is compared with what, or where"),
    "measure": Column(
        "column of group_lesions or of group_participants that it is about, or volume_doublings, "
        "the change of the volumes of matched lesions"
    ),
    "units": Column(
        "of estimate, low and high; doublings are differences of binary logarithms (doubling "
        "means +1), of numbers and volumes of lesions plus 1, of matched lesions of their volumes "
        "as they are"
    ),
    "estimate": Column("estimate"),
    "low": Column("lower limit of its 95 % interval"),
    "high": Column("upper limit of its 95 % interval"),
    "effect_kind": Column(
        "kind of effect size: Cohen's dz (mean less null value, over the standard deviation of "
        "participants), standardised mean difference (over the standard deviation of lesions of "
        "one visit and outcome, taken as known), Cohen's d, or correlation"
    ),
    "effect": Column("effect size"),
    "effect_low": Column("lower limit of its 95 % interval"),
    "effect_high": Column("upper limit of its 95 % interval"),
    "p": Column("two-sided p; n/a where nothing is tested"),
    "p_holm": Column("p corrected by Holm over the claims of one question"),
    "n_participants": Column("number of participants that it rests on"),
    "n_lesions": Column("number of lesions that it rests on; 0 where one row a participant is"),
    "model": Column("model"),
    "statement": Column("what was found, in words; a difference is claimed if p_holm < 0.05"),
}

# BIDS knows true and false alone: a sidecar has it only where it is known.
MANUAL = "Manual"
_MASK_FACTS = ("Sources", "SpatialReference", "Type", MANUAL)
_IMAGE_FACTS = (
    *("SkullStripped", "BiasCorrection", "IntensityMean", "IntensityStandardDeviation"),
)
_SEGMENTATION_FACTS = (
    *("Threshold", "PeakThreshold", "MinimumVolume_mm3", "Connectivity", "Model"),
)
_SALIENCY_FACTS = (
    "Sources",
    "SpatialReference",
    "Method",
    "Aggregation",
    "Target",
    "Units",
    "NumberOfSamples",
    "TargetError",
    "NoiseLevel",
    "NoiseRule",
    "NoiseStandardDeviation",
    "Baseline",
    "RandomSeed",
    "Model",
    "Engine",
    "Device",
)
_EXPERIMENT_FACTS = ("Sources", "Model", "PeakThreshold", "RandomSeed")
# How the maps came about that an experiment is about.
EXPLANATION_FACTS = ("Method", "Aggregation", "Target", "NoiseLevel", "NoiseRule", "Baseline")
# Experiments on maps; the others are on images.
EXPERIMENTS_ON_MAPS = ("faithfulness", "randomisation")
_T1W = {"space": "T1w"}
_NIFTI = ".nii.gz"

DERIVATIVES: dict[str, Derivative] = {
    row.key: row
    for row in (
        Derivative(
            "preproc_t1w",
            Level.VISIT,
            "T1w",
            _NIFTI,
            "T1w as the network sees it: 1 mm isotropic in its own frame, bias-corrected, "
            "skull-stripped, normalised to mean 0 and standard deviation 1 inside the brain",
            {"desc": "preproc"},
            _INTENSITY_UNITS,
            ("Sources", *_IMAGE_FACTS),
        ),
        Derivative(
            "preproc_flair",
            Level.VISIT,
            "FLAIR",
            _NIFTI,
            "FLAIR as the network sees it: registered rigidly to T1w, resampled once, "
            "bias-corrected, skull-stripped, normalised inside the brain",
            _T1W | {"desc": "preproc"},
            _INTENSITY_UNITS,
            (
                *("Sources", "SpatialReference", *_IMAGE_FACTS),
                *("RegistrationMethod", "RegistrationSimilarity"),
            ),
        ),
        Derivative(
            "brain_mask",
            Level.VISIT,
            "mask",
            _NIFTI,
            "Brain mask on the grid of the preprocessed T1w",
            {"desc": "brain"},
            facts=(*_MASK_FACTS, "SkullStripMethod", "BrainVolume_mm3"),
        ),
        Derivative(
            "flair_to_t1w",
            Level.VISIT,
            "xfm",
            ".txt",
            "Rigid transform of ITK: maps points of T1w space to points of FLAIR space, so it "
            "resamples FLAIR onto T1w",
            {"from": "FLAIR", "to": "T1w", "mode": "image"},
            facts=("Sources", "RegistrationMethod", "RegistrationSimilarity"),
            standard=False,
        ),
        Derivative(
            "lesion_probability",
            Level.VISIT,
            "probseg",
            _NIFTI,
            "Probability of white-matter lesion",
            _T1W | {"label": "L"},
            facts=("Sources", "SpatialReference", "Model"),
        ),
        Derivative(
            "lesion_mask",
            Level.VISIT,
            "mask",
            _NIFTI,
            "White-matter lesions on the grid of the preprocessed images",
            _T1W | {"label": "L"},
            facts=(*_MASK_FACTS, *_SEGMENTATION_FACTS),
        ),
        Derivative(
            "lesion_mask_native",
            Level.VISIT,
            "mask",
            _NIFTI,
            "White-matter lesions on the native grid of FLAIR",
            {"space": "FLAIR", "label": "L"},
            facts=(*_MASK_FACTS, *_SEGMENTATION_FACTS),
        ),
        Derivative(
            "lesion_labels",
            Level.VISIT,
            "dseg",
            _NIFTI,
            "White-matter lesions, each with its own number; the largest is 1",
            _T1W | {"desc": "lesions"},
            facts=("Sources", "SpatialReference", MANUAL, *_SEGMENTATION_FACTS),
            columns=_LESION_COLUMNS,
        ),
        Derivative(
            "region_labels",
            Level.VISIT,
            "dseg",
            _NIFTI,
            "With reference masks: predicted lesions with their numbers, and after them missed "
            "lesions and control regions",
            _T1W | {"desc": "regions"},
            facts=("Sources", "SpatialReference", MANUAL, *_SEGMENTATION_FACTS, "RandomSeed"),
            columns=_LESION_COLUMNS,
            optional=True,
        ),
        Derivative(
            "region_table",
            Level.VISIT,
            "dseg",
            ".tsv",
            "With reference masks: one row a region, as in the lesion table",
            _T1W | {"desc": "regions"},
            columns=_LESION_COLUMNS,
            optional=True,
        ),
        Derivative(
            "normal_mask",
            Level.VISIT,
            "mask",
            _NIFTI,
            "With reference masks or --experiments: normal-appearing white matter, where control "
            "regions and synthetic lesions lie, and whose mean takes the place of what is hidden",
            _T1W | {"label": "WM", "desc": "normal"},
            facts=_MASK_FACTS,
            optional=True,
        ),
        Derivative(
            "lesion_table",
            Level.VISIT,
            "dseg",
            ".tsv",
            "One row a lesion: size, place, probability and intensities",
            _T1W | {"desc": "lesions"},
            columns=_LESION_COLUMNS,
        ),
        *(
            Derivative(
                f"saliency_{channel}",
                Level.VISIT,
                "saliency",
                _NIFTI,
                f"Saliency of all lesions with respect to {name}: each voxel holds the "
                "value of the map of the lesion nearest to it. The sidecar also holds for the "
                "maps of the single lesions, which are cropped to where they are not zero",
                _T1W | {"desc": f"{METHOD}{name}"},
                SALIENCY_UNITS,
                (*_SALIENCY_FACTS, "InputChannel"),
                standard=False,
            )
            for channel, name in CHANNELS.items()
        ),
        *(
            Derivative(
                f"lesion_saliency_{channel}",
                Level.LESION,
                "saliency",
                _NIFTI,
                f"Saliency of one lesion with respect to {name}, cropped to where it is not zero",
                _T1W | {"desc": f"{METHOD}{name}"},
                SALIENCY_UNITS,
                standard=False,
            )
            for channel, name in CHANNELS.items()
        ),
        Derivative(
            "lesion_figure",
            Level.LESION_FIGURE,
            "saliency",
            ".svg",
            "Three orthogonal slices of one lesion: FLAIR, T1w, mask and both saliency maps",
            {"desc": METHOD},
            standard=False,
        ),
        Derivative(
            "overview_figure",
            Level.FIGURE,
            "overview",
            ".png",
            "FLAIR with the outlines of all lesions, and the edges of T1w on FLAIR",
            standard=False,
        ),
        Derivative(
            "report",
            Level.REPORT,
            "",
            ".html",
            "Report of one visit",
            standard=False,
        ),
        Derivative(
            "saliency_table",
            Level.VISIT,
            "saliency",
            ".tsv",
            "One row a lesion: saliency in and around it, for FLAIR and T1w",
            _T1W | {"desc": METHOD},
            facts=_SALIENCY_FACTS,
            columns=_SALIENCY_COLUMNS,
            standard=False,
        ),
        Derivative(
            "saliency_profile",
            Level.VISIT,
            "profile",
            ".tsv",
            "Saliency by distance from the border of each lesion, in steps of 0.5 mm, up to 15 mm "
            "to either side: one row a lesion, image and step",
            _T1W | {"desc": METHOD},
            facts=("Sources", "Method", "Units"),
            columns=_PROFILE_COLUMNS,
            standard=False,
        ),
        Derivative(
            "experiment_numbers",
            Level.VISIT,
            "experiment",
            ".tsv",
            "With --experiments: one row a lesion, what all experiments say of it",
            _T1W | {"desc": "lesions"},
            facts=(*_EXPERIMENT_FACTS, *EXPLANATION_FACTS),
            columns={**_LESION_KEYS, **_EXPERIMENT_NUMBERS},
            standard=False,
            optional=True,
        ),
        *(
            Derivative(
                f"experiment_{name}",
                Level.VISIT,
                "experiment",
                ".tsv",
                f"With --experiments {name}: {text}",
                _T1W | {"desc": name},
                facts=(
                    *_EXPERIMENT_FACTS,
                    *(EXPLANATION_FACTS if name in EXPERIMENTS_ON_MAPS else ()),
                ),
                columns=EXPERIMENT_COLUMNS[name],
                standard=False,
                optional=True,
            )
            for name, text in EXPERIMENTS.items()
        ),
        Derivative(
            "provenance",
            Level.VISIT,
            "provenance",
            ".json",
            "How the visit came about: software, model, options, checksums of what was read and "
            "written. Where this file is, the visit is complete",
            standard=False,
        ),
        Derivative(
            "group_lesions",
            Level.GROUP,
            "group_lesions",
            ".tsv",
            "One row a lesion, over all visits; with reference masks also one a missed lesion and "
            "control region",
            facts=("Sources", "Units"),
            columns={
                **_VISIT_COLUMNS,
                **_LESION_KEYS,
                "match": Column(
                    "with --follow-lesions: number of the lesion within its person, the same in "
                    "all sessions; n/a for people with one session, and for missed lesions and "
                    "control regions"
                ),
                **_LESION_COLUMNS,
                **_SALIENCY_COLUMNS,
                **_EXPERIMENT_NUMBERS,
            },
            standard=False,
        ),
        Derivative(
            "group_participants",
            Level.GROUP,
            "group_participants",
            ".tsv",
            "One row a visit: lesion load and saliency",
            facts=("Sources", "Units"),
            columns=_PARTICIPANT_COLUMNS,
            standard=False,
        ),
        Derivative(
            "group_claims",
            Level.GROUP,
            "group_claims",
            ".tsv",
            "One row a claim on the group: estimate with 95 % interval, effect size, p corrected "
            "by Holm, and in words",
            facts=("Sources",),
            columns=_CLAIM_COLUMNS,
            standard=False,
        ),
        Derivative(
            "group_report",
            Level.GROUP,
            "group_report",
            ".html",
            "Report over all visits",
            standard=False,
        ),
    )
}


def bidsignore() -> str:
    """Return the content of `.bidsignore`: the names of the table that BIDS does not know yet.

    Folders are listed without a trailing slash: with one, the validator still reports the folder.
    """
    patterns = {"figures", "logs"}
    for row in DERIVATIVES.values():
        if row.standard or row.level in _FIGURES:
            continue
        if row.level is Level.REPORT:
            patterns.add(f"*{row.extension}")
        elif row.level is Level.GROUP:
            patterns.add("/group_*")
        else:
            patterns.add(f"*_{row.suffix}.*")
    return "".join(f"{pattern}\n" for pattern in sorted(patterns))
