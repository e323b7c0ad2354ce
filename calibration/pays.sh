#!/usr/bin/env bash
# What INT8 saves on OpenVINO: one model as fp32, fp16 (bf16 where the CPU has it) and int8, with the argmax in
# the graph and outside of it. Builds the folders, times them in turns with their mIoU, and says where the time goes.
# EXPORT and BENCH hold further options of these verbs.
#   calibration/pays.sh CHECKPOINT KIND:PATH HEIGHTxWIDTH OUT
#   EXPORT="--max-miou-drop 1" calibration/pays.sh espnet_q8_camvid camvid:../shared/data/camvid 512x1024 runs/pays
set -euo pipefail
model=$1 data=$2 size=$3 out=$4 folders=()
outputs=${OUTPUTS:-labels scores} precisions=${PRECISIONS:-fp32 fp16 int8}

mkdir -p "$out"
for output in $outputs; do
    for precision in $precisions; do
        folder="$out/$(basename "$model")-$output-$precision"
        folders+=("$folder")
        [ -e "$folder/manifest.json" ] && continue
        calib=()
        if [ "$precision" = int8 ]; then
            calib=(--calib "$data")
        fi
        edgeseg export "$model" --target openvino ${EXPORT:-} --precision "$precision" --size "$size" --output "$output" \
            "${calib[@]}" --gate "$data" --out "$folder"
    done
done
edgeseg bench "${folders[@]}" --data "$data" --out "$out/bench" ${BENCH:-}
python -m edgeseg.benchmarks.layer_times "${folders[@]}" | tee "$out/layer_times.md"
