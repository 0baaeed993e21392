#!/usr/bin/env bash
# Runs the worked example: docs/example.sh DATA FOLDER
# DATA holds openms-labelled and mslesseg-labelled.  FOLDER receives a raw BIDS dataset and one of
# masks, both of links, and the output.  BIN is where the app is installed, by default .venv/bin
# of this repository.
set -euo pipefail

data=$(realpath "$1")
mkdir -p "$2"
folder=$(realpath "$2")
repository=$(dirname "$(dirname "$(realpath "$0")")")
bin=${BIN:-$repository/.venv/bin}

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

app() {
    "$bin/bids-lesion-xai" "$folder/bids" "$folder/output" "$@" \
        --reference-masks "$folder/masks" --n-samples 4 \
        --tta none \
        --nprocs 1 --omp-nthreads 1 --work-dir "$folder/work" --resource-monitor
}

# The experiments that take longest are made on fewer people.
app participant --participant-label 07 --experiments all
app participant --participant-label 14 39 --session-label 01 \
    --experiments perilesional synthetic channel
app participant --participant-label 19 --experiments synthetic channel
"$bin/bids-lesion-xai" "$folder/bids" "$folder/output" group
"$bin/bids-lesion-xai-flag" "$folder/output" --output "$folder/flag"
