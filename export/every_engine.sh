#!/usr/bin/env bash
# One model for every target in every precision; each engine folder is gated.
#   export/every_engine.sh MODEL KIND:PATH HEIGHTxWIDTH OUT
#   export/every_engine.sh espnet_q3 synthetic: 256x512 runs/engines
set -euo pipefail
model=$1 data=$2 size=$3 out=$4
targets=${TARGETS:-onnxruntime openvino} precisions=${PRECISIONS:-fp32 fp16 int8}

refused=0
for target in $targets; do
    for precision in $precisions; do
        edgeseg export "$model" --target "$target" --precision "$precision" --size "$size" \
            --calib "$data" --out "$out/$target-$precision" || refused=1
    done
done
for folder in "$out"/*/; do
    edgeseg inspect "$folder" | grep -A 2 -E '^  (engine|gate)'
done
exit "$refused"
