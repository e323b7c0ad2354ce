"""YOLO26n-sem as an OpenVINO file, for races; run in an environment with ultralytics.

The package has the network and no weights: it is for latency only. Written as its own exporter does
for OpenVINO: normalised planes in, x8 bilinear upsampling and argmax in the graph, uint8 labels
out. The size is that of the frames. `--int8` quantises it with NNCF, on these frames.
"""

from __future__ import annotations

import argparse
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino
import torch


class Absent(types.ModuleType):
    """torchvision has no build for every torch; the network does not use it, its package asks."""

    __version__ = "0.0.0"
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(name)


def open_yolo() -> Any:
    """The class `ultralytics.YOLO`."""
    known = metadata.version
    metadata.version = lambda name: "0.0.0" if name == "torchvision" else known(name)
    for name in ("torchvision", "torchvision.ops", "torchvision.transforms"):
        sys.modules[name] = Absent(name)
    from ultralytics import YOLO

    return YOLO


def main() -> None:
    """Write the network as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", help="not used: it is another network")
    parser.add_argument("--gate", help="not used: it has no weights")
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, H, W, 3) uint8")
    parser.add_argument("--out", type=Path, required=True, help=".xml to write")
    parser.add_argument("--int8", choices=("mixed", "performance"), help="NNCF's preset")
    args = parser.parse_args()
    frames = np.load(args.frames, mmap_mode="r")
    network = open_yolo()("yolo26n-sem.yaml").model.fuse().eval()
    head = network.model[-1]
    head.export, head.format = True, "openvino"
    path = args.out.with_suffix(".onnx")
    planes = torch.zeros(1, 3, *frames.shape[1:3])
    torch.onnx.export(network, (planes,), path, opset_version=18, dynamo=False)
    model = openvino.convert_model(path)
    if args.int8:
        import nncf

        def give(frame: np.ndarray) -> np.ndarray:
            return frame.transpose(2, 0, 1)[None].astype(np.float32) / 255

        calibration = nncf.Dataset(frames, give)
        preset = nncf.QuantizationPreset(args.int8)
        model = nncf.quantize(model, calibration, preset=preset, subset_size=len(frames))
    openvino.save_model(model, args.out, compress_to_fp16=False)


if __name__ == "__main__":
    main()
