"""Bias correction: what INT8 adds to the mean of a layer's output is taken off its bias.

Rounding shifts means, and what follows shifts them further (a PReLU of noise has another mean than
the noise). So layers are corrected from the first to the last, each measured behind those that are
corrected already (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
correction", section 4.2, the empirical form). Every node runs once for each frame: the graph is
walked in pieces that end where a corrected output is first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgeseg.calibration.observe import Observer, open_session
from edgeseg.calibration.placement import Place
from edgeseg.calibration.qdq import write_qdq

Offsets = dict[str, tuple[float, ...]]
"""Layer -> by how much each channel of its INT8 output is too large on average."""

Values = dict[str, np.ndarray]
Node = onnx.NodeProto


def find_offsets(
    model: onnx.ModelProto,
    places: tuple[Place, ...],
    ranges: Mapping[str, float],
    images: Sequence[np.ndarray],
) -> Offsets:
    """Offsets of all `places` on some (H, W, 3) uint8 inputs; a few frames are enough for means."""
    layers = {p.layer for p in places}
    outputs = {n.name: n.output[0] for n in model.graph.node if n.name in layers}
    wanted = _float_means(model, tuple(outputs.values()), images)
    quantised = write_qdq(model, places, ranges)
    offsets: Offsets = {}
    frames: list[Values] = [{"image": image[None]} for image in images]
    for piece, read_later in _pieces(quantised.graph, layers):
        _run(quantised, piece, read_later, frames)
        for node in piece:
            if node.name in layers:
                offsets[node.name] = _correct(frames, node.output[0], wanted[node.output[0]])
    return offsets


def _float_means(
    model: onnx.ModelProto, tensors: tuple[str, ...], images: Sequence[np.ndarray]
) -> Values:
    """(C,) float64 of each (1, C, H, W) tensor, over all images."""
    observer = Observer(model, tensors)
    sums: Values = {}
    for image in images:
        for name, values in observer.run(image[None]).items():
            sums[name] = sums.get(name, 0.0) + _mean(values) / len(images)
    return sums


def _mean(values: np.ndarray) -> np.ndarray:
    mean: np.ndarray = values.mean(axis=(0, 2, 3), dtype=np.float64)
    return mean


def _correct(frames: list[Values], tensor: str, wanted: np.ndarray) -> tuple[float, ...]:
    """Shift the tensor of all frames to the mean that it should have; by how much."""
    found = np.sum([_mean(values[tensor]) for values in frames], axis=0) / len(frames)
    offset = found - wanted
    for values in frames:
        values[tensor] = values[tensor] - offset.astype(np.float32).reshape(1, -1, 1, 1)
    return tuple(float(v) for v in offset)


def _pieces(graph: onnx.GraphProto, layers: set[str]) -> Iterator[tuple[list[Node], set[str]]]:
    """Nodes in order, cut before what reads an output of `layers`; and what is read after each."""
    pieces: list[list[Node]] = [[]]
    fresh: set[str] = set()
    for node in graph.node:
        if fresh.intersection(node.input):
            pieces.append([])
            fresh.clear()
        pieces[-1].append(node)
        if node.name in layers:
            fresh.update(node.output)
    for i, piece in enumerate(pieces):
        yield piece, {name for later in pieces[i + 1 :] for node in later for name in node.input}


def _run(
    model: onnx.ModelProto, piece: list[Node], read_later: set[str], frames: list[Values]
) -> None:
    """Run a piece on each frame's values; keep what is read later, and what the piece ends with."""
    own = [name for node in piece for name in node.output]
    read = {name for node in piece for name in node.input}
    inputs = [name for name in frames[0] if name in read]
    asked = [name for name in own if name in read_later or name not in read]
    constants = [t for t in model.graph.initializer if t.name in read]
    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(frames[0][name].dtype), frames[0][name].shape
        )
        for name in inputs
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in asked]
    part = helper.make_model(
        helper.make_graph(piece, "piece", given, outputs, constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = open_session(part)
    for values in frames:
        results = session.run(asked, {name: values[name] for name in inputs})
        values.update(zip(asked, results, strict=True))
        for name in [n for n in values if n not in read_later and n not in asked]:
            del values[name]
