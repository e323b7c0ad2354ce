"""The one Q/DQ writer: float graph + placement + ranges -> graph that every engine takes.

Weights are symmetric int8 per output channel, activations symmetric int8 per tensor, zero points 0,
biases float. No two neighbouring weights are so large that a CPU without VNNI would saturate. Each
quantised tensor gets one QuantizeLinear/DequantizeLinear pair, which all its quantised readers
share; so do convolutions of one weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.calibration.placement import Place, tensors
from edgeseg.errors import GraphError
from edgeseg.graph import initializers

LEVELS = 127
SMALLEST = 1e-9
"""A scale is at least this: a channel or tensor of zeros has none of its own."""


def write_qdq(
    model: onnx.ModelProto,
    places: tuple[Place, ...],
    ranges: Mapping[str, float],
    offsets: Mapping[str, Sequence[float]] | None = None,
) -> onnx.ModelProto:
    """A copy of `model` with Q/DQ at `places`; `ranges` is the largest magnitude of each tensor.

    `offsets` are taken off the biases of quantised layers, by name.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    constants = initializers(model)
    readers = {p.layer: p for p in places}
    opened = {t: _activation(graph, t, ranges) for t in tensors(places)}
    first = {p.weight: p for p in reversed(places)}
    weights = {name: _weight(graph, p, constants[name]) for name, p in first.items()}
    nodes: list[onnx.NodeProto] = []
    for name in [i.name for i in graph.input]:
        nodes.extend(opened.get(name, ()))
    for node in graph.node:
        place = readers.get(node.name)
        if place is not None:
            if place == first[place.weight]:
                nodes.append(weights[place.weight])
            node.input[0] = opened[place.activation][1].output[0]
            node.input[1] = weights[place.weight].output[0]
            if offsets and place.layer in offsets:
                shift_bias(graph, node, offsets[place.layer], constants)
        nodes.append(node)
        for output in node.output:
            nodes.extend(opened.get(output, ()))
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    try:
        onnx.checker.check_model(quantised)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"the graph can't be quantised: {error}") from error
    return quantised


def weight_scales(weight: np.ndarray, axis: int) -> np.ndarray:
    """(channels,) float32: the scale of each output channel, by the largest sum of a pair / 127.

    x86 without VNNI (`vpmaddubsw`, in OpenVINO) adds the products of two neighbouring input
    channels in 16 bits. With activations of 0 to 255 that holds weights of one sign whose levels
    add up to 128 at most: so a pair counts as its positive sum or its negative one. An odd last
    channel is alone. Pairs of a deconvolution in groups of odd width are not told apart by group.
    """
    channels = np.moveaxis(weight, axis, 0)
    scales = np.zeros(len(channels))
    for sign in (1, -1):
        sums = np.maximum(sign * channels[:, 0::2], 0)
        sums[:, : channels.shape[1] // 2] += np.maximum(sign * channels[:, 1::2], 0)
        scales = np.maximum(scales, sums.reshape(len(channels), -1).max(1) / LEVELS)
    bounded: np.ndarray = np.maximum(scales, SMALLEST)
    return bounded.astype(np.float32)


def round_weight(weight: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """int8 of the weight's shape."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels: np.ndarray = np.rint(weight / scales.reshape(shape))
    bounded: np.ndarray = np.clip(levels, -LEVELS, LEVELS)
    return bounded.astype(np.int8)


def _activation(
    graph: onnx.GraphProto, tensor: str, ranges: Mapping[str, float]
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    if tensor not in ranges:
        raise GraphError(f"the range table has no tensor '{tensor}'; calibrate this network again")
    scale = np.float32(max(ranges[tensor] / LEVELS, SMALLEST))
    names = [f"{tensor}/scale", f"{tensor}/zero"]
    graph.initializer.append(numpy_helper.from_array(np.array(scale), names[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), names[1]))
    q, dq = f"{tensor}/q", f"{tensor}/dq"
    return (
        helper.make_node("QuantizeLinear", [tensor, *names], [q], name=q),
        helper.make_node("DequantizeLinear", [q, *names], [dq], name=dq),
    )


def _weight(graph: onnx.GraphProto, place: Place, weight: np.ndarray) -> onnx.NodeProto:
    scales = weight_scales(weight, place.axis)
    names = [f"{place.weight}/{part}" for part in ("int8", "scale", "zero")]
    arrays = (round_weight(weight, scales, place.axis), scales, np.zeros(len(scales), np.int8))
    for name, array in zip(names, arrays, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    dq = f"{place.weight}/dq"
    return helper.make_node("DequantizeLinear", names, [dq], name=dq, axis=place.axis)


def shift_bias(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    offset: Sequence[float],
    constants: Mapping[str, np.ndarray],
) -> None:
    """Take `offset` off the bias of `node`, which gets one of its own."""
    bias = -np.asarray(offset, np.float64)
    if len(node.input) > 2 and node.input[2]:
        bias = constants[node.input[2]] + bias
    name = f"{node.name}/bias"
    graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
    node.input[:] = [*node.input[:2], name]


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
