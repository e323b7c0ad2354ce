"""Frames -> histograms of named tensors, by running the float ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
import onnxruntime

from edgeseg.calibration.histogram import Histogram
from edgeseg.errors import DataError, GraphError


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime, on all cores; GraphError when it can't be opened.

    Without the last level of optimisation, which in 1.31 fuses a quantised convolution with the sum
    behind it even where the convolution's own output is asked for, and then misses it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise GraphError(f"onnxruntime can't open the graph: {error}") from error


class Observer:
    """Runs a graph and also returns tensors from its middle, by name."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        own = [o.name for o in opened.graph.output]
        for name in tensors:
            if name not in own:
                opened.graph.output.append(onnx.ValueInfoProto(name=name))
        self._session = open_session(opened)
        self.tensors = tuple(tensors)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(N, H, W, 3) uint8 -> the asked tensors by name."""
        if not self.tensors:
            return {}
        values = self._session.run(list(self.tensors), {"image": images})
        return dict(zip(self.tensors, values, strict=True))


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: Iterable[np.ndarray],
    step: Callable[[int], None] | None = None,
) -> dict[str, Histogram]:
    """One pass over (H, W, 3) uint8 inputs -> one histogram per tensor. Memory is constant."""
    histograms = {name: Histogram() for name in tensors}
    observer = Observer(model, tensors)
    done = 0
    for image in images:
        for name, values in observer.run(image[None]).items():
            try:
                histograms[name].add(values)
            except ValueError as error:
                raise GraphError(f"calibration frame {done}: tensor '{name}' {error}") from error
        done += 1
        if step:
            step(done)
    if not done:
        raise DataError("no calibration frames; give --calib a data set with images")
    return histograms
