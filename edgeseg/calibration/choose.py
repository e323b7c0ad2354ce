"""Which range each tensor gets: by one calibrator, or by the one that loses least in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgeseg.calibration.calibrators import AUTO, LEVELS, METHODS
from edgeseg.calibration.calibrators import method as find_method
from edgeseg.calibration.histogram import Histogram
from edgeseg.calibration.observe import Observer, open_session
from edgeseg.calibration.pixels import RANGE, is_pixels
from edgeseg.calibration.placement import Place, tensors
from edgeseg.calibration.qdq import SMALLEST

Candidates = dict[str, dict[str, float]]
"""Tensor -> calibrator -> range."""


def measured(places: tuple[Place, ...]) -> tuple[str, ...]:
    """The tensors whose ranges come from frames: all but pixels, whose scale is 1."""
    return tuple(name for name in tensors(places) if not is_pixels(name))


def find_ranges(
    model: onnx.ModelProto,
    places: tuple[Place, ...],
    method: str,
    histograms: Mapping[str, Histogram],
    few: Sequence[np.ndarray],
) -> dict[str, float]:
    """The range of each quantised tensor, from the histograms of those of `measured`.

    AUTO compares calibrators on `few` (H, W, 3) uint8 inputs.
    """
    if method == AUTO:
        found = _choose(model, places, _candidates(histograms), few)
    else:
        calibrator = find_method(method)
        found = {name: calibrator(histogram) for name, histogram in histograms.items()}
    return {name: RANGE if is_pixels(name) else found[name] for name in tensors(places)}


def _candidates(histograms: Mapping[str, Histogram]) -> Candidates:
    return {
        name: {key: calibrator(histogram) for key, calibrator in METHODS.items()}
        for name, histogram in histograms.items()
    }


def _choose(
    model: onnx.ModelProto,
    places: tuple[Place, ...],
    candidates: Candidates,
    images: Sequence[np.ndarray],
) -> dict[str, float]:
    """For each tensor the range with the least squared error in what its convolutions give."""
    readers = {name: _readers(model, places, name) for name in candidates}
    observer = Observer(model, tuple(candidates))
    errors = {name: dict.fromkeys(ranges.values(), 0.0) for name, ranges in candidates.items()}
    for image in images:
        for name, values in observer.run(image[None]).items():
            session = open_session(_part(model, readers[name], name, values))
            wanted = session.run(None, {name: values})
            for top in errors[name]:
                found = session.run(None, {name: _rounded(values, top)})
                errors[name][top] += _relative(wanted, found)
    return {name: min(tops, key=tops.__getitem__) for name, tops in errors.items()}


def _readers(
    model: onnx.ModelProto, places: tuple[Place, ...], tensor: str
) -> list[onnx.NodeProto]:
    layers = {place.layer for place in places if place.activation == tensor}
    return [node for node in model.graph.node if node.name in layers]


def _part(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensor: str, values: np.ndarray
) -> onnx.ModelProto:
    """The convolutions `nodes` alone, fed with `tensor`."""
    read = {name for node in nodes for name in node.input}
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        nodes,
        "readers",
        [helper.make_tensor_value_info(tensor, kind, values.shape)],
        [onnx.ValueInfoProto(name=node.output[0]) for node in nodes],
        [t for t in model.graph.initializer if t.name in read],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _rounded(values: np.ndarray, top: float) -> np.ndarray:
    """What a Q/DQ pair of range `top` makes of the values."""
    scale = np.float32(max(top / LEVELS, SMALLEST))
    rounded: np.ndarray = np.clip(np.rint(values / scale), -LEVELS - 1, LEVELS) * scale
    return rounded


def _relative(wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Squared error over squared magnitude, summed over the convolutions."""
    total = 0.0
    for a, b in zip(wanted, found, strict=True):
        power = float(np.square(a, dtype=np.float64).sum())
        total += float(np.square(a - b, dtype=np.float64).sum()) / max(power, 1e-30)
    return total
