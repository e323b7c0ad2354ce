#!/usr/bin/env bash
# Does INT8 keep its mIoU: each MODEL at its own size (or SIZE), all of it within DROP points of mIoU by its gate, on
# each engine, then float and INT8 on the val split, which neither calibration nor gate has seen. Prints a table.
# TensorRT-RTX builds the same graph; without a GPU its folder stays ungated.
#   calibration/families.sh KIND:PATH OUT MODEL...
#   calibration/families.sh camvid:../shared/data/camvid runs/keeps espnet_q8_camvid dfanet_b_camvid
set -euo pipefail
data=$1 out=$2 drop=${DROP:-0.2} targets=${TARGETS:-onnxruntime openvino tensorrt-rtx} size=()
shift 2
[ -z "${SIZE:-}" ] || size=(--size "$SIZE")
frames=(--data "$data" --split val ${LIMIT:+--limit "$LIMIT"})
mkdir -p "$out"

field() { python -c 'import json, sys; print(eval(sys.argv[2], {"j": json.load(open(sys.argv[1])), "sum": sum}))' "$1" "$2"; }

row() {
    local line
    line=$(printf ' %s |' "$@")
    echo "|$line" | tee -a "$out/table.md"
}

for model in "$@"; do basename "$model"; done | sort | uniq -d | while read -r name; do
    echo "two models are named $name; their folders would be one" >&2
    exit 2
done

rm -f "$out/table.md"
row model size "float mIoU" engine "INT8 mIoU" difference "layers in float" "labels equal, gate" >/dev/null
row --- ---: ---: --- ---: ---: ---: ---: >/dev/null
for model in "$@"; do
    name=$(basename "$model")
    float="$out/$name-float.json"
    [ -e "$float" ] || edgeseg eval "$model" "${frames[@]}" "${size[@]}" --json "$float" >/dev/null
    for target in $targets; do
        folder="$out/$name-$target"
        [ -e "$folder/manifest.json" ] ||
            edgeseg export "$model" --target "$target" --precision int8 "${size[@]}" --calib "$data" \
                --max-miou-drop "$drop" --out "$folder" >"$out/$name-$target.txt" 2>&1 ||
            { row "$name" "${SIZE:-own}" "$(field "$float" 'round(j["miou"], 2)')" "$target" refused "" "" ""; continue; }
        manifest="$folder/manifest.json"
        at=$(field "$manifest" '"%dx%d" % tuple(j["input"]["size"])')
        kept=$(field "$manifest" '"%d of %d" % (len(j["quantisation"]["float_layers"]), len(j["quantisation"]["float_layers"]) + j["quantisation"]["convolutions"])')
        if [ "$target" = tensorrt-rtx ]; then
            row "$name" "$at" "" "$target" "built, not run" "" "$kept" ""
            continue
        fi
        result="$out/$name-$target.json"
        [ -e "$result" ] || edgeseg eval "$folder" "${frames[@]}" --json "$result" >/dev/null
        miou=$(field "$float" 'j["miou"]') int8=$(field "$result" 'j["miou"]')
        row "$name" "$at" "$(printf %.2f "$miou")" "$target" "$(printf %.2f "$int8")" \
            "$(python -c "print(f'{$int8 - $miou:+.2f}')")" "$kept" "$(field "$manifest" 'round(j["gate"]["agreement"], 2)') %"
    done
done
