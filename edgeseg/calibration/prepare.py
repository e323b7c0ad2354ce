"""The float graph that INT8 is written on: the same results, in tensors that suit INT8 better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from edgeseg.calibration.pixels import read_pixels
from edgeseg.calibration.rescale import rescale


def prepare(model: onnx.ModelProto, factors: Mapping[str, Sequence[float]]) -> onnx.ModelProto:
    """A copy of `model` that reads the frame as `pixel - 128` and has its channels rescaled."""
    return rescale(read_pixels(model), factors)
