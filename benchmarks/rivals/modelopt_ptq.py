"""NVIDIA ModelOpt's ONNX quantisation, for the INT8 comparison; run where it is installed."""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize


def main() -> None:
    """Quantise the network as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=Path, required=True, help="float ONNX graph")
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, H, W, 3) uint8")
    parser.add_argument("--gate", type=Path, help="not used")
    parser.add_argument("--out", type=Path, required=True, help=".onnx to write")
    parser.add_argument("--method", choices=("max", "entropy"), default="entropy")
    args = parser.parse_args()
    quantize(
        str(args.network),
        quantize_mode="int8",
        calibration_data={"image": np.load(args.frames)},
        calibration_method=args.method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(args.out),
    )
    versions = {"nvidia-modelopt": metadata.version("nvidia-modelopt")}
    args.out.with_suffix(".json").write_text(json.dumps({"versions": versions}) + "\n")


if __name__ == "__main__":
    main()
