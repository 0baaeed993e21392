#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What brainlife hands in as a BIDS dataset, and BIDS derivatives as what brainlife takes.

It runs outside the container, so it needs nothing but Python itself.

    convert.py inputs CONFIG BIDS       makes the dataset; prints options for the app, one a line
    convert.py outputs DERIVATIVES OUT  makes brainlife's folders and product.json in OUT
"""

import base64
import csv
import json
import re
import shutil
import sys
from pathlib import Path

# Keys of config.json, which name files, and BIDS suffixes.
IMAGES = {"t1": "T1w", "flair": "FLAIR"}
# What `main` removes before a run.
WRITTEN = (
    *("lesion_xai", "output", "mask", "parcellation", "output_report"),
    *("preprocessed_t1", "preprocessed_flair"),
)
# Of an input's meta, what is no content of a sidecar.
NOT_OF_SIDECAR = ("subject", "session", "run", "acq", "nifti_headers")


def fail(message):
    """End with one line, and the exit code of unusable data."""
    sys.stderr.write(f"brainlife: {message}\n")
    raise SystemExit(65)


def write_inputs(config_path, bids):
    """Make a BIDS dataset of the images that a config names, and return options for the app."""
    config = read_config(config_path)
    metas = {
        key: entry.get("meta") or {}
        for entry in config.get("_inputs") or []
        for key in entry.get("keys") or [entry.get("id")]
    }
    for key in IMAGES:
        if not isinstance(config.get(key), str):
            fail(f"{config_path} names no {key}; an image (.nii.gz) is expected.")
        if not Path(config[key]).is_file():
            fail(f"{key}: {config[key]} does not exist.")
        if Path(config[key]).parts[0] in WRITTEN:
            fail(f"{key}: {config[key]} is where this app writes; move it to another folder.")
    # An input that says nothing of its visit is of the other's.
    visits = {visit_of(metas[key]) for key in IMAGES if "subject" in metas.get(key, {})}
    if len(visits) > 1:
        names = " and ".join("_".join(visit) for visit in sorted(visits))
        fail(f"t1 and flair are of different visits: {names}.")
    entities = visits.pop() if visits else ("sub-01",)
    anat = bids.joinpath(*entities, "anat")
    anat.mkdir(parents=True)
    description = {"Name": "brainlife", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(bids / "dataset_description.json", description)
    for key, suffix in IMAGES.items():
        name = "_".join([*entities, suffix])
        # A copy: a link may point to where the container sees nothing.
        shutil.copyfile(config[key], anat / f"{name}.nii.gz")
        sidecar = {k: v for k, v in metas.get(key, {}).items() if k not in NOT_OF_SIDECAR}
        write_json(anat / f"{name}.json", sidecar)
    return list(options_of(config))


def read_config(path):
    """Return the content of config.json."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read: {error}")
    entries = config.get("_inputs") or [] if isinstance(config, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("meta") or {}, dict) for entry in entries
    ):
        fail(f"{path} is not as brainlife writes it: a mapping, with a list of inputs in _inputs.")
    return config


def visit_of(meta):
    """Return the BIDS entities of an input: participant and, if there is one, session."""
    subject, session = label_of(meta, "subject", "sub-"), label_of(meta, "session", "ses-")
    participant = f"sub-{subject or '01'}"
    return (participant, f"ses-{session}") if session else (participant,)


def label_of(meta, key, prefix):
    """Return what a meta says of an entity as BIDS spells it, without its prefix; may be empty."""
    text = "" if meta.get(key) is None else str(meta[key])
    if text.startswith(prefix):
        text = text[len(prefix) :]
    return re.sub(r"[^0-9A-Za-z]", "", text)


def options_of(config):
    """Yield the options of the app that a config holds beside its inputs, word by word."""
    for key, value in config.items():
        if key in IMAGES or key.startswith("_") or value is None or value is False or value == "":
            continue
        yield "--" + key.replace("_", "-")
        if value is not True:
            yield from map(str, value if isinstance(value, list) else [value])


def write_outputs(derivatives, out):
    """Make the folders of brainlife's datatypes, and product.json."""
    found = sorted(derivatives.glob("sub-*/**/*_desc-lesions_dseg.nii.gz"))
    if len(found) != 1:
        fail(f"{derivatives} holds {len(found)} label images of lesions; one is expected.")
    labels_image = found[0]
    anat, visit = labels_image.parent, labels_image.name.split("_space-")[0]
    files = {
        "mask/mask.nii.gz": anat / f"{visit}_space-T1w_label-L_mask.nii.gz",
        "parcellation/parc.nii.gz": labels_image,
        "preprocessed_t1/t1.nii.gz": anat / f"{visit}_desc-preproc_T1w.nii.gz",
        "preprocessed_flair/flair.nii.gz": anat / f"{visit}_space-T1w_desc-preproc_FLAIR.nii.gz",
        "output_report/html/index.html": derivatives / f"{visit}.html",
    }
    for target, source in files.items():
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / target)
    with (anat / labels_image.name.replace(".nii.gz", ".tsv")).open(newline="") as stream:
        lesions = list(csv.DictReader(stream, delimiter="\t"))
    labels = [
        {"name": row["name"], "label": row["index"], "voxel_value": int(row["index"])}
        for row in lesions
    ]
    write_json(out / "parcellation" / "label.json", labels)
    volume_ml = sum(float(row["volume_mm3"]) for row in lesions) / 1000
    overview = derivatives / visit.split("_")[0] / "figures" / f"{visit}_overview.png"
    picture = base64.b64encode(overview.read_bytes()).decode("ascii")
    product = {
        "mask": {"meta": {}, "tags": ["lesion"]},
        "parcellation": {"meta": {}, "tags": ["lesion"]},
        "preprocessed_t1": {"tags": ["preprocessed"]},
        "preprocessed_flair": {"tags": ["preprocessed"]},
        "brainlife": [
            {"type": "info", "msg": f"{len(lesions)} lesions, {volume_ml:.2f} mL"},
            {"type": "image/png", "name": "FLAIR with lesions", "base64": picture},
        ],
    }
    write_json(out / "product.json", product)


def write_json(path, content):
    """Write JSON with an indent."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main():
    """Run the step that the command line names."""
    if len(sys.argv) != 4 or sys.argv[1] not in ("inputs", "outputs"):
        sys.stderr.write(__doc__)
        raise SystemExit(2)
    source, target = map(Path, sys.argv[2:])
    if sys.argv[1] == "outputs":
        write_outputs(source, target)
        return
    for word in write_inputs(source, target):
        sys.stdout.write(f"{word}\n")


if __name__ == "__main__":
    main()
