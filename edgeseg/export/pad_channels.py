"""Channels padded to the engine's block: the same labels, fewer layout reorders.

Engines compute float convolutions in blocks of 8 or 16 channels. Around a branch of 12 or 25
channels they reorder its tensors, which can take longer than the arithmetic. Here such convolutions
get further output channels with weights of zero, and whatever reads them has weights of zero for
them: what they hold never reaches a score.

A tensor's layout says which original channel each of its channels is, -1 for padding. Layouts pass
through everything that treats channels alike; two summands need the same one. Where an operator
needs the channels as they were, the convolutions that made them are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.graph import initializers

Layout = tuple[int, ...]

# fmt: off
ALIKE = frozenset((
    "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Clip", "Identity", "Cast",
    "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "Elu", "Softplus", "Erf",
))
# fmt: on
"""One tensor in, one out, every channel for itself."""
PAIRWISE = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min"])
GROWTH = 1.34
"""12 channels become 16, 25 become 32; 11 don't become 16."""


class NeedsExactError(Exception):
    """An operator that needs the channels of these tensors as they were."""

    def __init__(self, *tensors: str) -> None:
        super().__init__(*tensors)
        self.tensors = tensors


@dataclass
class Padding:
    """One try: which convolutions stay `exact`, and what has been found so far."""

    constants: dict[str, np.ndarray]
    channels: dict[str, int]
    block: int
    growth: float
    exact: frozenset[str]
    layouts: dict[str, Layout] = field(default_factory=dict)
    makers: dict[str, frozenset[str]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[str, np.ndarray] = field(default_factory=dict)

    def layout(self, tensor: str) -> Layout | None:
        """The layout of a tensor; None when it is as it was."""
        return self.layouts.get(tensor)

    def channel_layout(self, tensor: str) -> Layout:
        """The layout of a tensor, spelt out."""
        return self.layouts.get(tensor) or tuple(range(self.channels[tensor]))

    def give(self, tensor: str, layout: Layout, makers: frozenset[str]) -> None:
        """Say what a tensor's channels are now, and which convolutions made it so."""
        if layout != tuple(range(self.channels[tensor])):
            self.layouts[tensor], self.makers[tensor] = layout, makers

    def constant(self, name: str, value: np.ndarray) -> str:
        """A new constant; its name."""
        new = f"{name}/padded{len(self.made)}"
        self.made[new] = np.ascontiguousarray(value)
        return new


def pad_channels(
    model: onnx.ModelProto, block: int = 16, growth: float = GROWTH
) -> onnx.ModelProto:
    """A copy whose convolutions have multiples of `block` output channels where that is exact.

    A convolution that would get more than `growth` times its channels stays as it is: its further
    arithmetic costs more than reorders.
    """
    constants = initializers(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    channels = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if len(value.type.tensor_type.shape.dim) == 4
    }
    exact: frozenset[str] = frozenset()
    while True:
        padding = Padding(constants, channels, block, growth, exact)
        try:
            for node in model.graph.node:
                padding.nodes.append(_rewritten(node, padding))
            for output in model.graph.output:
                _need_exact(padding, output.name)
        except NeedsExactError as error:
            makers = [padding.makers.get(t, frozenset()) for t in error.tensors]
            exact = exact.union(*makers)
            continue
        return _assembled(model, padding)


def _assembled(model: onnx.ModelProto, padding: Padding) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    graph.node.extend(padding.nodes)
    used = {name for node in padding.nodes for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in padding.made.items())
    return result


def _rewritten(node: onnx.NodeProto, padding: Padding) -> onnx.NodeProto:
    """The node for what its inputs have become; sets the layouts of its outputs."""
    handler = HANDLERS.get(node.op_type)
    if handler is None:
        _need_exact(padding, *node.input)
        return node
    new = onnx.NodeProto()
    new.CopyFrom(node)
    handler(new, padding)
    return new


def _need_exact(padding: Padding, *tensors: str) -> None:
    changed = [tensor for tensor in tensors if padding.layout(tensor)]
    if changed:
        raise NeedsExactError(*changed)


def _laid(array: np.ndarray, layout: Layout, axis: int, fill: float = 0.0) -> np.ndarray:
    """`array` with its channels along `axis` as `layout` says, padding filled."""
    shape = list(array.shape)
    shape[axis] = len(layout)
    result = np.full(shape, fill, array.dtype)
    where = [i for i, original in enumerate(layout) if original >= 0]
    source = [layout[i] for i in where]
    index: list[slice | list[int]] = [slice(None)] * array.ndim
    index[axis] = where
    result[tuple(index)] = np.take(array, source, axis)
    return result


def _convolution(node: onnx.NodeProto, padding: Padding) -> None:
    tensor, name = node.input[0], node.input[1]
    weight = padding.constants.get(name)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if weight is None or weight.ndim != 4:
        _need_exact(padding, tensor)
        return
    layout = padding.layout(tensor)
    if groups > 1:
        if groups != weight.shape[0] or weight.shape[1] != 1:
            _need_exact(padding, tensor)
            return
        if layout is None:
            return
        _store(node, padding, _laid(weight, layout, 0), layout)
        next(a for a in node.attribute if a.name == "group").i = len(layout)
        padding.give(node.output[0], layout, padding.makers[tensor])
        return
    if layout is not None:
        weight = _laid(weight, layout, 1)
    outputs = tuple(range(weight.shape[0]))
    extra = -len(outputs) % padding.block
    if node.name in padding.exact or len(outputs) + extra > padding.growth * len(outputs):
        extra = 0
    wanted = outputs + (-1,) * extra
    if layout is None and not extra:
        return
    _store(node, padding, _laid(weight, wanted, 0), wanted)
    padding.give(node.output[0], wanted, frozenset({node.name}))


def _store(node: onnx.NodeProto, padding: Padding, weight: np.ndarray, outputs: Layout) -> None:
    """New weights, and a bias for `outputs` if there was one."""
    node.input[1] = padding.constant(node.input[1], weight)
    if len(node.input) > 2:
        bias = padding.constants.get(node.input[2])
        if bias is None:
            raise NeedsExactError(node.input[0])
        node.input[2] = padding.constant(node.input[2], _laid(bias, outputs, 0))


def _transposed(node: onnx.NodeProto, padding: Padding) -> None:
    layout = padding.layout(node.input[0])
    if layout is None:
        return
    weight = padding.constants.get(node.input[1])
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if weight is None or groups != 1:
        raise NeedsExactError(node.input[0])
    node.input[1] = padding.constant(node.input[1], _laid(weight, layout, 0))


def _alike(node: onnx.NodeProto, padding: Padding) -> None:
    layout = padding.layout(node.input[0])
    if layout is not None:
        _need_exact(padding, *node.input[1:])
        for output in node.output:
            padding.give(output, layout, padding.makers[node.input[0]])


def _concat(node: onnx.NodeProto, padding: Padding) -> None:
    axis = next(a.i for a in node.attribute if a.name == "axis")
    if not any(padding.layout(tensor) for tensor in node.input):
        return
    if axis != 1:
        _need_exact(padding, *node.input)
        return
    whole: list[int] = []
    first = 0
    for tensor in node.input:
        whole += [first + c if c >= 0 else -1 for c in padding.channel_layout(tensor)]
        first += padding.channels[tensor]
    makers = [padding.makers.get(tensor, frozenset()) for tensor in node.input]
    padding.give(node.output[0], tuple(whole), frozenset().union(*makers))


def _pairwise(node: onnx.NodeProto, padding: Padding) -> None:
    tensors = [t for t in node.input if t not in padding.constants]
    layouts = [padding.layout(t) for t in tensors]
    if not any(layouts):
        return
    full = [padding.channel_layout(t) for t in tensors]
    if any(layout != full[0] for layout in full):
        raise NeedsExactError(*tensors)
    for index, name in enumerate(node.input):
        if name in padding.constants:
            fill = 1.0 if node.op_type == "Div" else 0.0
            node.input[index] = _channelwise(name, full[0], fill, tensors[0], padding)
    makers = [padding.makers.get(t, frozenset()) for t in tensors]
    padding.give(node.output[0], full[0], frozenset().union(*makers))


def _channelwise(name: str, layout: Layout, fill: float, reader: str, padding: Padding) -> str:
    """A constant that is broadcast over a tensor of 4 axes, for the new channels."""
    value = padding.constants[name]
    axis = value.ndim - 3
    if axis < 0 or value.shape[axis] == 1:
        return name
    if value.shape[axis] != padding.channels[reader]:
        raise NeedsExactError(reader)
    return padding.constant(name, _laid(value, layout, axis, fill))


def _slopes(node: onnx.NodeProto, padding: Padding) -> None:
    layout = padding.layout(node.input[0])
    if layout is None:
        return
    if node.input[1] not in padding.constants:
        raise NeedsExactError(*node.input)
    node.input[1] = _channelwise(node.input[1], layout, 0.0, node.input[0], padding)
    padding.give(node.output[0], layout, padding.makers[node.input[0]])


def _normalisation(node: onnx.NodeProto, padding: Padding) -> None:
    layout = padding.layout(node.input[0])
    if layout is None:
        return
    for index, fill in enumerate((1.0, 0.0, 0.0, 1.0), start=1):
        name = node.input[index]
        node.input[index] = padding.constant(name, _laid(padding.constants[name], layout, 0, fill))
    padding.give(node.output[0], layout, padding.makers[node.input[0]])


def _resize(node: onnx.NodeProto, padding: Padding) -> None:
    layout = padding.layout(node.input[0])
    if layout is None:
        return
    if len(node.input) > 3 and node.input[3]:
        sizes = padding.constants.get(node.input[3])
        if sizes is None or len(sizes) != 4:
            raise NeedsExactError(node.input[0])
        node.input[3] = padding.constant(
            node.input[3], np.array([sizes[0], len(layout), *sizes[2:]], sizes.dtype)
        )
    padding.give(node.output[0], layout, padding.makers[node.input[0]])


HANDLERS: dict[str, Callable[[onnx.NodeProto, Padding], None]] = {
    **dict.fromkeys(ALIKE, _alike),
    **dict.fromkeys(PAIRWISE, _pairwise),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Concat": _concat,
    "PRelu": _slopes,
    "BatchNormalization": _normalisation,
    "Resize": _resize,
}
