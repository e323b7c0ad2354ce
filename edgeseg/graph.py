"""ONNX graphs: read, check, name, count. What the export and calibration rooms share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from edgeseg.errors import GraphError

CONVOLUTIONS = ("Conv", "ConvTranspose")


def read_graph(path: Path) -> ModelProto:
    """Read and check an ONNX file."""
    if not path.is_file():
        raise GraphError(f"{path}: no such ONNX file")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphError(f"{path}: truncated or no valid ONNX file ({first})") from error
    return model


def name_nodes(model: ModelProto) -> None:
    """Name each node after its weights ("encoder.stem.0") or its operator, and its outputs so too.

    Graph inputs and outputs keep their names.
    """
    graph = model.graph
    kept = {v.name for v in [*graph.input, *graph.output]}
    weights = {t.name for t in graph.initializer}
    taken: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in graph.node:
        name = _node_name(node, weights)
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name]}"
        for i, output in enumerate(node.output):
            if output and output not in kept:
                renamed[output] = node.name if i == 0 else f"{node.name}:{i}"
    for node in graph.node:
        node.input[:] = [renamed.get(n, n) for n in node.input]
        node.output[:] = [renamed.get(n, n) for n in node.output]
    del graph.value_info[:]


def _node_name(node: onnx.NodeProto, weights: set[str]) -> str:
    owner = next((n for n in node.input[1:] if n in weights and "." in n), None)
    if owner is None:
        return node.op_type.lower()
    stem = owner.rpartition(".")[0].removeprefix("network.")
    return stem or node.op_type.lower()


def initializers(model: ModelProto) -> dict[str, np.ndarray]:
    """Name -> array of every constant of the graph."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def convolutions(model: ModelProto) -> list[onnx.NodeProto]:
    """The convolutions with constant weights, in the order of the graph."""
    weights = {t.name for t in model.graph.initializer}
    return [n for n in model.graph.node if n.op_type in CONVOLUTIONS and n.input[1] in weights]


def check_interface(model: ModelProto, where: str) -> None:
    """GraphError unless the graph has our input (uint8 NHWC `image`) and one output."""
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    names = [i.name for i in inputs]
    if names != ["image"] or inputs[0].type.tensor_type.elem_type != TensorProto.UINT8:
        raise GraphError(f"{where}: expected one input 'image' of uint8, found {names}")
    outputs = [o.name for o in graph.output]
    if outputs not in (["labels"], ["scores"]):
        raise GraphError(f"{where}: expected one output, labels or scores; found {outputs}")


def count_macs(model: ModelProto) -> tuple[int, dict[str, int]]:
    """Multiply-adds of one frame, counted from shapes; operators without a rule are listed."""
    shapes = _shapes(model)
    batch = max(1, shapes["image"][0]) if "image" in shapes else 1
    total = 0
    uncounted: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            total += _convolution_macs(node, shapes) // batch
        elif node.op_type in ("MatMul", "Gemm"):
            a, b = shapes[node.input[0]], shapes[node.input[1]]
            total += int(np.prod(a)) * b[-1] // batch
        else:
            uncounted[node.op_type] += 1
    return total, dict(sorted(uncounted.items()))


def macs_by_layer(model: ModelProto) -> dict[str, int]:
    """Node name -> multiply-adds of each convolution, of one frame."""
    shapes = _shapes(model)
    batch = max(1, shapes["image"][0])
    return {n.name: _convolution_macs(n, shapes) // batch for n in convolutions(model)}


def numbers_moved(model: ModelProto) -> int:
    """Numbers that the convolutions of one frame read and write: inputs, weights and outputs."""
    shapes = _shapes(model)
    batch = max(1, shapes["image"][0])
    moved = 0
    for node in convolutions(model):
        maps = int(np.prod(shapes[node.input[0]])) + int(np.prod(shapes[node.output[0]]))
        moved += maps // batch + int(np.prod(shapes[node.input[1]]))
    return moved


def _convolution_macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    weight = shapes[node.input[1]]
    pixels = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
    return int(np.prod(weight)) * int(np.prod(pixels[2:])) * pixels[0]


def count_params(model: ModelProto) -> int:
    """Numbers in the constants of convolutions, matrix products, normalisations and slopes.

    Of a batch normalisation scale and shift count; its running mean and variance are no parameters.
    """
    sizes = {k: v.size for k, v in initializers(model).items()}
    kinds = (*CONVOLUTIONS, "MatMul", "Gemm", "BatchNormalization", "PRelu")
    names = {n for node in model.graph.node if node.op_type in kinds for n in node.input[:3]}
    return sum(size for name, size in sizes.items() if name in names)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes
