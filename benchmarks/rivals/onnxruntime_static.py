"""ONNX Runtime's `quantize_static` as its documentation advises, for the INT8 comparison.

The graph goes through its `quant_pre_process` first; Q/DQ, symmetric int8, weights per channel.
`--stride N` (its CalibStridedMinMax) hands it N frames at a time, for calibrators that else hold
every activation of every frame. `--reduce-range 1` keeps weights in 7 bits, for x86 without VNNI.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class Frames(CalibrationDataReader):
    """(N, H, W, 3) uint8, one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give the frames of a part."""
        self.left = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next frame by its input's name; None at the end."""
        index = next(self.left, None)
        return None if index is None else {"image": self.images[index : index + 1]}


def main() -> None:
    """Quantise the network as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=Path, required=True, help="float ONNX graph")
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, H, W, 3) uint8")
    parser.add_argument("--gate", type=Path, help="not used")
    parser.add_argument("--out", type=Path, required=True, help=".onnx to write")
    parser.add_argument("--method", choices=METHODS, default="minmax")
    parser.add_argument("--stride", type=int)
    parser.add_argument("--reduce-range", type=int, choices=(0, 1), default=0)
    args = parser.parse_args()
    options: dict[str, object] = {"ActivationSymmetric": True, "WeightSymmetric": True}
    if args.stride:
        options["CalibStridedMinMax"] = args.stride
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(args.network, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            args.out,
            Frames(np.load(args.frames, mmap_mode="r")),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=bool(args.reduce_range),
            calibrate_method=METHODS[args.method],
            extra_options=options,
        )
    versions = {"onnxruntime": onnxruntime.__version__}
    args.out.with_suffix(".json").write_text(json.dumps({"versions": versions}) + "\n")


if __name__ == "__main__":
    main()
