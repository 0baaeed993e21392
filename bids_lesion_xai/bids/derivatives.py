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
from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM

# Stands for the method of explanation in the value of an entity.
METHOD = "METHOD"
DEFAULT_METHOD = "smoothgrad"


def method_label(method: str) -> str:
    """Return the name of a method of explanation as it stands in file names.

    >>> method_label("smoothgrad-squared")
    'smoothgradsquared'
    """
    return method.replace("-", "")


class Level(Enum):
    """What there is one file of."""

    VISIT = "visit"
    LESION = "lesion"
    FIGURE = "figure"
    LESION_FIGURE = "lesion figure"
    REPORT = "report"
    GROUP = "group"


_FIGURES = (Level.FIGURE, Level.LESION_FIGURE)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    description : str
    units : str
        Empty if it has none.
    kind : str
        The BIDS ``Format`` of a column that BIDS itself defines, else empty.
    """

    description: str
    units: str = ""
    kind: str = ""


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
        of_lesion = self.level in (Level.LESION, Level.LESION_FIGURE)
        return self.path(
            None if self.level is Level.GROUP else visit, "L001" if of_lesion else None, method
        )


_LESION_COLUMNS = {
    "index": Column("value of the lesion in the label image", kind="integer"),
    "name": Column("name of the lesion in file names and reports"),
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
    return {f"{channel}_{key}": Column(text, SALIENCY_UNITS) for key, text in columns.items()}


_SALIENCY_COLUMNS = {
    "index": _LESION_COLUMNS["index"],
    "name": _LESION_COLUMNS["name"],
    "n_samples": Column("number of noise samples, or of points on a way"),
    "flair_share": Column(
        "share of FLAIR in the sum of the absolute saliency values of both images, 0 to 1"
    ),
    **_channel_columns("flair"),
    **_channel_columns("t1w"),
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
    "measure": Column("column of group_lesions or of group_participants that it is about"),
    "units": Column(
        "of estimate, low and high; doublings are differences of binary logarithms, of numbers "
        "and volumes of lesions plus 1 (doubling means +1)"
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

_MASK_FACTS = ("Sources", "SpatialReference", "Type", "Manual")
_SEGMENTATION_FACTS = ("Threshold", "MinimumVolume_mm3", "Connectivity", "Model")
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
            "standard deviations of the brain",
            ("Sources", "SkullStripped", "IntensityMean", "IntensityStandardDeviation"),
        ),
        Derivative(
            "preproc_flair",
            Level.VISIT,
            "FLAIR",
            _NIFTI,
            "FLAIR as the network sees it: registered rigidly to T1w, resampled once, "
            "bias-corrected, skull-stripped, normalised inside the brain",
            _T1W | {"desc": "preproc"},
            "standard deviations of the brain",
            (
                *("Sources", "SpatialReference", "SkullStripped"),
                *(
                    "IntensityMean",
                    "IntensityStandardDeviation",
                    "RegistrationMethod",
                    "RegistrationSimilarity",
                ),
            ),
        ),
        Derivative(
            "brain_mask",
            Level.VISIT,
            "mask",
            _NIFTI,
            "Brain mask on the grid of the preprocessed T1w",
            {"desc": "brain"},
            facts=(*_MASK_FACTS, "SkullStripMethod"),
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
            facts=("Sources", "SpatialReference", "Manual", *_SEGMENTATION_FACTS),
            columns=_LESION_COLUMNS,
        ),
        Derivative(
            "lesion_table",
            Level.VISIT,
            "dseg",
            ".tsv",
            "One row a lesion: size, place and probability",
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
            ".png",
            "FLAIR, T1w and both saliency maps of one lesion",
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
            "group_lesions",
            Level.GROUP,
            "group_lesions",
            ".tsv",
            "One row a lesion, over all visits",
            facts=("Sources", "Units"),
            columns={**_VISIT_COLUMNS, **_LESION_COLUMNS, **_SALIENCY_COLUMNS},
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
