#!/usr/bin/env bash
# Which calibrator loses least: float and INT8 mIoU of one model by every method on both engines.
# On train frames: a choice is never made on the frames that are reported.
#   calibration/methods.sh CHECKPOINT KIND:PATH HEIGHTxWIDTH OUT
#   calibration/methods.sh espnet_camvid camvid:../shared/data/camvid 360x480 runs/methods
set -euo pipefail
model=$1 data=$2 size=$3 out=$4 frames=${FRAMES:-41}
methods=${METHODS:-minmax percentile mse} targets=${TARGETS:-onnxruntime openvino}

echo "float: $(edgeseg eval "$model" --data "$data" --split train --limit "$frames" --size "$size" | head -n 1)"
for method in $methods; do
    edgeseg calibrate "$model" --data "$data" --size "$size" --method "$method" --out "$out/$method.json"
    for target in $targets; do
        folder="$out/$method-$target"
        edgeseg export "$model" --target "$target" --precision int8 --size "$size" \
            --calib "$out/$method.json" --gate "$data" --max-miou-drop 100 --max-class-drop 100 --out "$folder"
        echo "$method $target: $(edgeseg eval "$folder" --data "$data" --split train --limit "$frames" | head -n 1)"
    done
done
