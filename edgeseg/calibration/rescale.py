"""Channels of one tensor brought to one range, exactly, before its single INT8 scale is chosen.

One scale for a tensor serves its largest channel; ESPNet's image skips lie beside features a
hundred times larger. x / s in each channel, with s multiplied into the weights that read it, leaves
the network as it is: BatchNormalization and convolutions take 1 / s, PReLU and ReLU keep positive
factors, concats and poolings pass them on (Nagel et al. 2019, section 4.1, between any layers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.calibration.observe import Observer
from edgeseg.errors import DataError, GraphError
from edgeseg.graph import CONVOLUTIONS, initializers

Factors = dict[str, tuple[float, ...]]
"""Tensor -> what each of its channels is divided by."""

HOMOGENEOUS = ("PRelu", "Relu", "LeakyRelu")
POOLS = ("AveragePool", "MaxPool")
SCALED = "/scaled"
SHARE = 99.99
"""Percent of a channel's values in a frame that lie below its magnitude."""
SMALLEST = 1e-3
"""A channel's magnitude, and its weight among its readers, count as at least this share of the
largest: what is nearly dead is not blown up."""


@dataclass(frozen=True)
class Reader:
    """A convolution that takes the channels from `first` on of its input."""

    node: onnx.NodeProto
    first: int


@dataclass(frozen=True)
class Source:
    """A tensor that can be rescaled: its channels, the node that makes them, all that reads it.

    `within` are the tensors from the maker's to the readers' that are divided with it.
    """

    tensor: str
    channels: int
    maker: onnx.NodeProto
    readers: tuple[Reader, ...]
    within: tuple[str, ...]


def find_sources(model: onnx.ModelProto) -> tuple[Source, ...]:
    """The tensors whose makers and readers can take a factor for each channel."""
    shapes = _shapes(model)
    makers = {o: n for n in model.graph.node for o in n.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    constants = initializers(model)
    outputs = {o.name for o in model.graph.output}
    sources = []
    for node in model.graph.node:
        tensor = node.output[0]
        maker = _maker(node, makers, readers, constants)
        if maker is None or len(shapes.get(tensor, ())) != 4:
            continue
        if node is maker and len(readers.get(tensor, ())) == 1:
            follower = readers[tensor][0]
            if follower.op_type in HOMOGENEOUS:
                continue  # rescaled behind it
        within = dict.fromkeys((maker.output[0], tensor))
        found = _readers(tensor, 0, readers, constants, shapes, within)
        if found and not outputs.intersection(within):
            channels = shapes[tensor][1]
            sources.append(Source(tensor, channels, maker, tuple(found), tuple(within)))
    return tuple(sources)


def measure(
    model: onnx.ModelProto, sources: Sequence[Source], images: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """(C,) magnitude of each channel: the largest over the frames of the percentile SHARE."""
    observer = Observer(model, tuple(s.tensor for s in sources))
    found: dict[str, np.ndarray] = {}
    done = 0
    for image in images:
        for name, values in observer.run(image[None]).items():
            if not np.isfinite(values).all():
                raise GraphError(f"calibration frame {done}: tensor '{name}' holds nan or infinity")
            magnitudes = np.percentile(np.abs(values[0]).reshape(values.shape[1], -1), SHARE, 1)
            found[name] = np.maximum(found.get(name, 0.0), magnitudes)
        done += 1
    if not done:
        raise DataError("no calibration frames; give --calib a data set with images")
    return found


def find_factors(
    model: onnx.ModelProto, sources: Sequence[Source], magnitudes: Mapping[str, np.ndarray]
) -> Factors:
    """Factors that share a channel's range fairly between the tensor and the weights behind it.

    s = sqrt(magnitude / weight), where weight is that of the channel's largest weight in a reader
    against the largest of the same output channel. The largest channel keeps its magnitude.
    """
    constants = initializers(model)
    factors: Factors = {}
    for source in sources:
        magnitude = magnitudes[source.tensor]
        if not magnitude.max() > 0:
            continue
        magnitude = np.maximum(magnitude, SMALLEST * magnitude.max())
        weight = np.full(source.channels, SMALLEST)
        for reader in source.readers:
            weight = np.maximum(weight, _importance(reader, source.channels, constants))
        s = np.sqrt(magnitude / weight)
        s = s * (magnitude / s).max() / magnitude.max()
        factors[source.tensor] = tuple(float(v) for v in s)
    return factors


def rescale(model: onnx.ModelProto, factors: Mapping[str, Sequence[float]]) -> onnx.ModelProto:
    """A copy of `model` with each tensor of `factors` divided by its factors; same results.

    Divided tensors get another name, NAME + SCALED, for their values are others.
    """
    rescaled = onnx.ModelProto()
    rescaled.CopyFrom(model)
    sources = {s.tensor: s for s in find_sources(rescaled)}
    constants = _Constants(rescaled)
    for tensor, values in factors.items():
        source, s = sources[tensor], np.asarray(values, np.float64)
        _divide(source.maker, s, constants)
        for reader in source.readers:
            _multiply(reader, s, constants)
    constants.write()
    _rename(rescaled.graph, {n for tensor in factors for n in sources[tensor].within})
    return rescaled


def _rename(graph: onnx.GraphProto, tensors: set[str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [n + SCALED if n in tensors else n for n in names]
    for value in graph.value_info:
        if value.name in tensors:
            value.name += SCALED


def _maker(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, np.ndarray],
) -> onnx.NodeProto | None:
    """The normalisation or convolution that makes the output of `node`, alone or behind a ReLU."""
    if node.op_type in HOMOGENEOUS:
        before = makers.get(node.input[0])
        if before is None or len(readers[node.input[0]]) != 1:
            return None
        node = before
    if node.op_type == "BatchNormalization" or node.op_type in CONVOLUTIONS:
        return node if node.input[1] in constants else None
    return None


def _readers(
    tensor: str,
    first: int,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    within: dict[str, None],
) -> list[Reader] | None:
    """All convolutions that read `tensor`, through concats and poolings; None if others do.

    The outputs of those concats and poolings are added to `within`.
    """
    found: list[Reader] = []
    for node in readers.get(tensor, []):
        if node.op_type in CONVOLUTIONS and node.input[0] == tensor and node.input[1] in constants:
            found.append(Reader(node, first))
            continue
        if node.op_type == "Concat" and list(node.input).count(tensor) == 1:
            before = list(node.input)[: list(node.input).index(tensor)]
            if not all(name in shapes for name in before) or _axis(node) != 1:
                return None
            offset = first + sum(shapes[name][1] for name in before)
        elif node.op_type in POOLS:
            offset = first
        else:
            return None
        within[node.output[0]] = None
        behind = _readers(node.output[0], offset, readers, constants, shapes, within)
        if behind is None:
            return None
        found += behind
    return found or None


def _axis(node: onnx.NodeProto) -> int:
    return int(next(a.i for a in node.attribute if a.name == "axis"))


def _grouped(reader: Reader, weight: np.ndarray) -> np.ndarray:
    """A view (groups, input channels of a group, output channels of a group, taps)."""
    groups = next((a.i for a in reader.node.attribute if a.name == "group"), 1)
    if reader.node.op_type == "Conv":
        outputs, inputs = weight.shape[0] // groups, weight.shape[1]
        of_conv: np.ndarray = weight.reshape(groups, outputs, inputs, -1).swapaxes(1, 2)
        return of_conv
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    of_deconv: np.ndarray = weight.reshape(groups, inputs, outputs, -1)
    return of_deconv


def _importance(reader: Reader, channels: int, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """(C,) in 0..1: a channel's largest weight against the largest of that output channel."""
    view = np.abs(_grouped(reader, constants[reader.node.input[1]])).max(-1)
    share = view / np.maximum(view.max(1, keepdims=True), 1e-30)
    largest: np.ndarray = share.max(-1).reshape(-1)[reader.first : reader.first + channels]
    return largest


def _divide(maker: onnx.NodeProto, s: np.ndarray, constants: _Constants) -> None:
    if maker.op_type == "BatchNormalization":
        for i in (1, 2):
            constants.change(maker, i, constants.of(maker.input[i]) / s)
        return
    weight = constants.of(maker.input[1])
    if maker.op_type == "Conv":
        constants.change(maker, 1, weight / s.reshape(-1, 1, 1, 1))
    else:
        groups = len(s) // weight.shape[1]
        parts = weight.reshape(groups, -1, *weight.shape[1:]) / s.reshape(groups, 1, -1, 1, 1)
        constants.change(maker, 1, parts.reshape(weight.shape))
    if len(maker.input) > 2 and maker.input[2]:
        constants.change(maker, 2, constants.of(maker.input[2]) / s)


def _multiply(reader: Reader, s: np.ndarray, constants: _Constants) -> None:
    weight = constants.of(reader.node.input[1]).copy()
    view = _grouped(reader, weight)
    every = np.ones(view.shape[0] * view.shape[1])
    every[reader.first : reader.first + len(s)] = s
    view *= every.reshape(view.shape[0], view.shape[1], 1, 1)
    constants.change(reader.node, 1, weight)


class _Constants:
    """The constants of a graph while they change, in float64; each change is the node's own."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._changed: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        value = self._changed.get(name)
        return self._arrays[name].astype(np.float64) if value is None else value

    def change(self, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
        """Give `node` a constant of its own as input `index`: others may read the old one."""
        name = node.input[index]
        if name not in self._changed:
            readers = sum(name in n.input for n in self._graph.node)
            name = f"{name}/{node.name}" if readers > 1 else name
        self._changed[name] = value
        node.input[index] = name

    def write(self) -> None:
        """Put the changed constants into the graph, in float32."""
        known = {t.name: t for t in self._graph.initializer}
        for name, value in self._changed.items():
            tensor = numpy_helper.from_array(value.astype(np.float32), name)
            if name in known:
                known[name].CopyFrom(tensor)
            else:
                self._graph.initializer.append(tensor)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
