"""NNCF's post-training quantisation, for the INT8 comparison; run in an environment with nncf.

`--preset mixed|performance` is NNCF's: affine or symmetric activations. An .xml as --out quantises
OpenVINO's form of the network instead of the ONNX graph. `--max-drop POINTS` is NNCF's accuracy
control: layers return to float until the frames in --gate lose at most that much mIoU.
`--overflow-fix enable` keeps all weights in 7 bits, for x86 without VNNI; NNCF's default does so in
the first layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino

IGNORE = 255


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=Path, required=True, help="float ONNX graph")
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, H, W, 3) uint8")
    parser.add_argument("--gate", type=Path, required=True, help=".npz with images and truth")
    parser.add_argument("--out", type=Path, required=True, help=".onnx or .xml to write")
    parser.add_argument("--preset", choices=("mixed", "performance"), default="performance")
    parser.add_argument("--max-drop", type=float, help="points of mIoU")
    fixes = [fix.value for fix in nncf.OverflowFix]
    parser.add_argument("--overflow-fix", choices=fixes, help="which weights have 7 bits")
    return parser.parse_args()


def miou(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """Mean IoU, 0 to 1, over the classes in the truth, of one summed confusion matrix."""
    counts = np.zeros((classes, classes), np.int64)
    for truth, called in pairs:
        keep = truth != IGNORE
        flat = truth[keep].astype(np.int64) * classes + np.minimum(called[keep], classes - 1)
        counts += np.bincount(flat, minlength=classes * classes).reshape(classes, classes)
    hits = np.diagonal(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    there = counts.sum(1) > 0
    return float(np.mean(hits[there] / union[there]))


Pairs = Iterable[tuple[np.ndarray, np.ndarray]]


def validator(classes: int) -> Any:
    """(model, (image, truth) pairs) -> mIoU, for both forms of a model; NNCF may pass a part."""

    def validate(model: Any, pairs: Pairs) -> tuple[float, None]:
        if isinstance(model, onnx.ModelProto):
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            called = ((t, session.run(None, {"image": i[None]})[0][0]) for i, t in pairs)
        else:
            called = ((t, np.array(model(i[None])[0])[0]) for i, t in pairs)
        return miou(called, classes), None

    return validate


def main() -> None:
    """Quantise the network as the command line says."""
    args = read_arguments()
    frames = np.load(args.frames, mmap_mode="r")
    if args.out.suffix == ".xml":
        model: Any = openvino.convert_model(args.network)

        def give(image: np.ndarray) -> Any:
            return image[None]
    else:
        model = onnx.load(args.network)

        def give(image: np.ndarray) -> Any:
            return {"image": image[None]}

    calibration = nncf.Dataset(frames, give)
    preset = nncf.QuantizationPreset(args.preset)
    common: dict[str, Any] = {"preset": preset, "subset_size": len(frames)}
    advanced = nncf.AdvancedQuantizationParameters()
    if args.overflow_fix:
        advanced.overflow_fix = nncf.OverflowFix(args.overflow_fix)
    if args.max_drop is None:
        quantised = nncf.quantize(model, calibration, advanced_parameters=advanced, **common)
    else:
        with np.load(args.gate) as content:
            pairs = list(zip(content["images"], content["truth"], strict=True))
        classes = 1 + max(int(truth[truth != IGNORE].max()) for _, truth in pairs)
        quantised = nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(pairs, lambda pair: give(pair[0])),
            validator(classes),
            max_drop=args.max_drop / 100,
            advanced_quantization_parameters=advanced,
            **common,
        )
    if args.out.suffix == ".xml":
        openvino.save_model(quantised, args.out, compress_to_fp16=False)
    else:
        onnx.save(quantised, args.out)
    versions = {"nncf": nncf.__version__, "openvino": openvino.__version__.partition("-")[0]}
    args.out.with_suffix(".json").write_text(json.dumps({"versions": versions}) + "\n")


if __name__ == "__main__":
    main()
