"""A float ONNX graph as a torch module: what engines will run is what is trained.

Only the operators that our exports hold are known. Weights of convolutions, matrix products and
normalisations and the slopes of PReLU are parameters; all other constants are buffers, and so are
the running statistics: a batch normalisation that is left in the graph stays frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

from edgeseg.errors import GraphError
from edgeseg.graph import initializers

TRAINED = {
    # operator             inputs that are learned
    "Conv":               (1, 2),
    "ConvTranspose":      (1, 2),
    "BatchNormalization": (1, 2),
    "PRelu":              (1,),
    "Gemm":               (1, 2),
    "MatMul":             (0, 1),
}  # fmt: skip

Inputs = Sequence[Tensor]
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One node: operator, name, names of inputs ("" where one is left out) and output."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Attributes


class OnnxModule(nn.Module):
    """(N, H, W, 3) pixels, as float -> the tensor `output` of a graph for batches of one frame.

    Everything is computed per frame, so any N is taken; H and W are those of the graph. A parameter
    is a constant divided by its typical size, so that a learning rate means the same share of each:
    in a graph that is prepared for INT8 weights differ by orders of magnitude.
    """

    def __init__(self, model: onnx.ModelProto, output: str) -> None:
        super().__init__()
        self.output = output
        self.watched = ""
        self._taken: dict[str, Tensor] = {}
        self.input = model.graph.input[0].name
        self.steps = _steps(model, output)
        self._attributes_of: dict[str, str] = {}
        uses = [(step.op, i, name) for step in self.steps for i, name in enumerate(step.inputs)]
        learned = {name for op, i, name in uses if i in TRAINED.get(op, ())}
        frozen = {name for op, i, name in uses if i not in TRAINED.get(op, ())}
        slopes = {name for op, i, name in uses if op == "PRelu" and i == 1}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._units: dict[str, float] = {}
        for name, array in initializers(model).items():
            if name in learned - frozen:
                self._shapes[name], self._units[name] = array.shape, _unit(array)
                given = array.reshape(-1) if name in slopes else array
                self._keep(name, given / np.float32(self._units[name]), learned=True)
            elif name in frozen:
                self._keep(name, array, learned=False)
        self._last_reader = {n: i for i, step in enumerate(self.steps) for n in step.inputs}

    def _keep(self, name: str, array: np.ndarray, *, learned: bool) -> None:
        """Torch allows no dots in names, so they become bars."""
        attribute = "constant|" + name.replace(".", "|")
        if hasattr(self, attribute):
            raise GraphError(f"two constants of the graph would both be called '{attribute}'")
        tensor = torch.from_numpy(np.array(array))
        if learned:
            self.register_parameter(attribute, nn.Parameter(tensor))
        else:
            self.register_buffer(attribute, tensor)
        self._attributes_of[name] = attribute

    def constant(self, name: str) -> Tensor:
        """The value of a parameter or buffer by its ONNX name."""
        tensor: Tensor = getattr(self, self._attributes_of[name])
        return tensor * self._units[name] if name in self._units else tensor

    def arrays(self) -> dict[str, np.ndarray]:
        """ONNX name -> value of every parameter."""
        return {
            name: self.constant(name).detach().cpu().contiguous().numpy().reshape(shape)
            for name, shape in self._shapes.items()
        }

    def operands(self, step: Step, values: dict[str, Tensor]) -> list[Tensor]:
        """What `step` reads; what is left out comes as an empty tensor."""
        return [
            self.constant(n) if n in self._attributes_of else values[n] if n else EMPTY
            for n in step.inputs
        ]

    def forward(self, pixels: Tensor) -> Tensor:
        """Run all nodes; a value is forgotten after its last reader."""
        values = {self.input: pixels}
        for i, step in enumerate(self.steps):
            operator = OPERATORS[step.op]
            values[step.output] = operator(self.operands(step, values), step.attributes)
            if step.output == self.watched:
                self._taken[step.output] = values[step.output]
            for name in step.inputs:
                if self._last_reader[name] == i:
                    self.forget(name, values)
        return values[self.output]

    def taken(self) -> dict[str, Tensor]:
        """The tensor named by `watched`, of the last forward pass; it is kept no longer."""
        taken, self._taken = self._taken, {}
        return taken

    def forget(self, name: str, values: dict[str, Tensor]) -> None:
        """Drop a value that nothing reads any more."""
        values.pop(name, None)


EMPTY = torch.empty(0)


def _unit(array: np.ndarray) -> float:
    """The power of two next to the root mean square (so that scaling is exact); 1 for zeros."""
    size = float(np.sqrt(np.square(array, dtype=np.float64).mean()))
    return float(2.0 ** np.rint(np.log2(size))) if size > 0 else 1.0


def untied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each node has vectors (biases, statistics, slopes) of its own.

    Simplifying merges constants that happen to be equal, such as two biases of zeros; trained
    apart they differ.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    vectors = {t.name: t for t in graph.initializer if sum(d > 1 for d in t.dims) <= 1}
    taken = {n for node in graph.node if node.op_type not in TRAINED for n in node.input}
    for node in graph.node:
        for i in range(1, len(node.input) if node.op_type in TRAINED else 0):
            name = node.input[i]
            if name in vectors and name in taken:
                own = graph.initializer.add()
                own.CopyFrom(vectors[name])
                own.name = node.input[i] = f"{name}/{node.name}.{i}"
            taken.add(name)
    return copy


def _steps(model: onnx.ModelProto, output: str) -> tuple[Step, ...]:
    """The nodes that `output` needs, in order; GraphError for an operator that is not known."""
    needed, steps = {output}, []
    for node in reversed(model.graph.node):
        if not needed.intersection(node.output):
            continue
        if node.op_type not in OPERATORS or len(node.output) > 1:
            known = ", ".join(OPERATORS)
            raise GraphError(
                f"operator {node.op_type} (node '{node.name}') can't be trained; known: {known}"
            )
        needed.update(node.input)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        step = Step(node.op_type, node.name, tuple(node.input), node.output[0], attributes)
        _check(step)
        steps.append(step)
    if output not in {s.output for s in steps}:
        raise GraphError(f"the graph makes no tensor '{output}'")
    return tuple(reversed(steps))


def _check(step: Step) -> None:
    """GraphError for attributes by which an operator would compute something else."""
    for key, (default, *wanted) in EXPECTED.get(step.op, {}).items():
        given = step.attributes.get(key, default)
        if given not in wanted:
            raise GraphError(
                f"{step.op} (node '{step.name}') has {key} {_text(given)}, which can't be trained; "
                f"known: {', '.join(map(_text, wanted))}"
            )
    pads = step.attributes.get("pads", [0, 0, 0, 0])
    counted = step.attributes.get("count_include_pad", 0)
    if step.op == "AveragePool" and not counted and pads[:2] != pads[2:]:
        raise GraphError(
            f"AveragePool (node '{step.name}') has pads {pads} that it does not count, which "
            "can't be trained"
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


EXPECTED: dict[str, dict[str, tuple[Any, ...]]] = {
    # ONNX's default, then all values that we know
    "Conv":          {"auto_pad": (b"NOTSET", b"NOTSET")},
    "ConvTranspose": {"auto_pad": (b"NOTSET", b"NOTSET")},
    "AveragePool":   {"auto_pad": (b"NOTSET", b"NOTSET"), "ceil_mode": (0, 0),
                      "dilations": ([1, 1], [1, 1])},
    "MaxPool":       {"auto_pad": (b"NOTSET", b"NOTSET"), "ceil_mode": (0, 0),
                      "dilations": ([1, 1], [1, 1])},
    "Pad":           {"mode": (b"constant", b"constant")},
    "Gemm":          {"transA": (0, 0), "alpha": (1.0, 1.0), "beta": (1.0, 1.0)},
    "Resize":        {"mode": (b"nearest", b"linear"), "antialias": (0, 0),
                      "coordinate_transformation_mode": (b"half_pixel", b"half_pixel",
                                                         b"align_corners")},
    "Cast":          {"to": (0, onnx.TensorProto.FLOAT)},
}  # fmt: skip


def _padded(
    image: Tensor, pads: Sequence[int], value: float = 0.0
) -> tuple[Tensor, tuple[int, int]]:
    """The image, and what its operator still has to pad (top and left, which are both sides')."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return image, (top, left)
    return functional.pad(image, (left, right, top, bottom), value=value), (0, 0)


def _conv(inputs: Inputs, given: Attributes) -> Tensor:
    image, padding = _padded(inputs[0], given.get("pads", [0, 0, 0, 0]))
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    weight = inputs[1]
    if strides != [1, 1] and weight.shape[2:] == (1, 1) and padding == (0, 0):
        # The same, and torch's backward pass of a strided 1x1 in channels-last crashes (2.13).
        image, strides = image[:, :, :: strides[0], :: strides[1]], [1, 1]
    return functional.conv2d(
        image, weight, bias, strides, padding, dilations, given.get("group", 1)
    )


def _conv_transpose(inputs: Inputs, given: Attributes) -> Tensor:
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    image, extra = inputs[0], given.get("output_padding", [0, 0])
    result = functional.conv_transpose2d(
        image,
        inputs[1],
        inputs[2] if len(inputs) > 2 else None,
        given.get("strides", [1, 1]),
        0,
        extra,
        given.get("group", 1),
        given.get("dilations", [1, 1]),
    )
    return result[:, :, top : result.shape[2] - bottom, left : result.shape[3] - right]


def _batch_norm(inputs: Inputs, given: Attributes) -> Tensor:
    image, scale, shift, mean, variance = inputs
    epsilon = given.get("epsilon", 1e-5)
    return functional.batch_norm(image, mean, variance, scale, shift, eps=epsilon)


def _average_pool(inputs: Inputs, given: Attributes) -> Tensor:
    inside = bool(given.get("count_include_pad", 0))
    image, padding = _padded(inputs[0], given.get("pads", [0, 0, 0, 0]))
    strides = given.get("strides", [1, 1])
    return functional.avg_pool2d(
        image, given["kernel_shape"], strides, padding, count_include_pad=inside
    )


def _max_pool(inputs: Inputs, given: Attributes) -> Tensor:
    image, padding = _padded(inputs[0], given.get("pads", [0, 0, 0, 0]), -math.inf)
    strides = given.get("strides", [1, 1])
    return functional.max_pool2d(image, given["kernel_shape"], strides, padding)


def _clip(inputs: Inputs, given: Attributes) -> Tensor:
    low, high = ((float(x) if x.numel() else None) for x in (*inputs[1:], EMPTY, EMPTY)[:2])
    return inputs[0].clamp(low, high)


def _max(inputs: Inputs, given: Attributes) -> Tensor:
    result = inputs[0]
    for other in inputs[1:]:
        result = torch.maximum(result, other)
    return result


def _slice(inputs: Inputs, given: Attributes) -> Tensor:
    """Starts, ends, axes and steps; steps are positive."""
    result = inputs[0]
    starts, ends = (part.tolist() for part in inputs[1:3])
    axes = inputs[3].tolist() if len(inputs) > 3 else list(range(len(starts)))
    steps = inputs[4].tolist() if len(inputs) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = [slice(None)] * result.ndim
        index[axis] = slice(start, min(end, result.shape[axis]), step)
        result = result[tuple(index)]
    return result


def _pad(inputs: Inputs, given: Attributes) -> Tensor:
    pads = inputs[1].tolist()
    n = len(pads) // 2
    pairs = [side for axis in reversed(range(n)) for side in (pads[axis], pads[axis + n])]
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2].numel() else 0.0
    return functional.pad(inputs[0], pairs, value=value)


def _resize(inputs: Inputs, given: Attributes) -> Tensor:
    image = inputs[0]
    if len(inputs) > 3:
        size = inputs[3].tolist()[2:]
    else:
        scales = inputs[2].tolist()[2:]
        size = [int(n * s) for n, s in zip(image.shape[2:], scales, strict=True)]
    aligned = given.get("coordinate_transformation_mode") == b"align_corners"
    return functional.interpolate(image, size, mode="bilinear", align_corners=aligned)


def _reshape(inputs: Inputs, given: Attributes) -> Tensor:
    """The first axis is that of the frames, however many there are."""
    image, shape = inputs[0], inputs[1].tolist()
    return image.reshape([len(image), *shape[1:]])


def _gemm(inputs: Inputs, given: Attributes) -> Tensor:
    weight = inputs[1] if given.get("transB", 0) else inputs[1].T
    return functional.linear(inputs[0], weight, inputs[2] if len(inputs) > 2 else None)


def _reduce_mean(inputs: Inputs, given: Attributes) -> Tensor:
    return inputs[0].mean(inputs[1].tolist(), keepdim=bool(given.get("keepdims", 1)))


def _unsqueeze(inputs: Inputs, given: Attributes) -> Tensor:
    result = inputs[0]
    for axis in sorted(inputs[1].tolist()):
        result = result.unsqueeze(axis)
    return result


OPERATORS: dict[str, Callable[[Inputs, Attributes], Tensor]] = {
    "Add":                lambda inputs, given: inputs[0] + inputs[1],
    "AveragePool":        _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast":               lambda inputs, given: inputs[0].float(),
    "Clip":               _clip,
    "Concat":             lambda inputs, given: torch.cat(list(inputs), given["axis"]),
    "Conv":               _conv,
    "ConvTranspose":      _conv_transpose,
    "Div":                lambda inputs, given: inputs[0] / inputs[1],
    "Gather":             lambda inputs, given: inputs[0].index_select(given["axis"], inputs[1]),
    "Gemm":               _gemm,
    "GreaterOrEqual":     lambda inputs, given: inputs[0] >= inputs[1],
    "MatMul":             lambda inputs, given: inputs[0] @ inputs[1],
    "Max":                _max,
    "MaxPool":            _max_pool,
    "Mul":                lambda inputs, given: inputs[0] * inputs[1],
    "PRelu":              lambda inputs, given: functional.prelu(inputs[0], inputs[1]),
    "Pad":                _pad,
    "ReduceMean":         _reduce_mean,
    "Relu":               lambda inputs, given: inputs[0].relu(),
    "Reshape":            _reshape,
    "Resize":             _resize,
    "Sigmoid":            lambda inputs, given: inputs[0].sigmoid(),
    "Slice":              _slice,
    "Sub":                lambda inputs, given: inputs[0] - inputs[1],
    "Transpose":          lambda inputs, given: inputs[0].permute(given["perm"]),
    "Unsqueeze":          _unsqueeze,
}  # fmt: skip
"""Gather and Reshape as our exports use them: a list of indices, and frames on the first axis."""
