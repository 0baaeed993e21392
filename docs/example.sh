#!/usr/bin/env bash
# Runs the worked example: docs/example.sh DATA FOLDER
# DATA holds openms-labelled and mslesseg-labelled.  FOLDER receives a raw BIDS dataset and one of
# masks, both of links, and the output.  PYTHON is the interpreter of the installation.
set -euo pipefail

data=$(realpath "$1")
mkdir -p "$2"
folder=$(realpath "$2")
repository=$(dirname "$(dirname "$(realpath "$0")")")

# The labelled scans are derivatives of their datasets; here they stand for raw images.
link() {
    mkdir -p "$(dirname "$2")"
    ln -sfn "$1" "$2"
}
for dataset in openms-labelled mslesseg-labelled; do
    while read -r image; do
        raw=$(sed 's/_space-[A-Za-z0-9]*_desc-brain//' <<< "$image")
        link "$data/$dataset/$image" "$folder/bids/$raw"
    done < <(cd "$data/$dataset" && find . -name '*_desc-brain_*')
    while read -r mask; do
        link "$data/$dataset/$mask" "$folder/masks/$mask"
    done < <(cd "$data/$dataset" && find . -name '*_label-lesion_mask*')
done
for dataset in bids masks; do
    echo '{"Name": "labelled scans", "BIDSVersion": "1.9.0"}' > "$folder/$dataset/dataset_description.json"
done

"${PYTHON:-python}" "$repository/run.py" "$folder/bids" "$folder/output" participant group \
    --reference-masks "$folder/masks" --experiments all --n-samples 10 \
    --omp-nthreads 1 --work-dir "$folder/work"
