"""Float graph -> half-precision graph, by ONNX Runtime's converter."""

from __future__ import annotations

import onnx
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from edgeseg.errors import GraphError
from edgeseg.graph import convolutions


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in fp16. The uint8 input, the output and the normalisation in front stay as they are.

    The normalisation stays in fp32 because its factors may be subnormal in fp16 (ESPNet's are
    1 / 18,000).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        half: onnx.ModelProto = convert_float_to_float16(
            copy,
            keep_io_types=True,
            disable_shape_infer=True,
            node_block_list=normalisation(model),
        )
        _join_casts(half)
        sorter = OnnxModel(half)
        sorter.topological_sort()
        onnx.checker.check_model(half)
    except (ValueError, TypeError, RuntimeError, onnx.checker.ValidationError) as error:
        raise GraphError(f"the graph can't be converted to fp16: {error}") from error
    return half


def _join_casts(model: onnx.ModelProto) -> None:
    """Let readers of fp32 -> fp16 -> fp32 read the first tensor: the converter casts each edge."""
    halves = {
        n.output[0]: n.input[0] for n in model.graph.node if _casts_to(n, TensorProto.FLOAT16)
    }
    origin = {
        n.output[0]: halves[n.input[0]]
        for n in model.graph.node
        if _casts_to(n, TensorProto.FLOAT) and n.input[0] in halves
    }
    for node in model.graph.node:
        node.input[:] = [origin.get(name, name) for name in node.input]
    while True:
        read = {n for node in model.graph.node for n in node.input}
        read |= {o.name for o in model.graph.output}
        kept = [n for n in model.graph.node if read & set(n.output)]
        if len(kept) == len(model.graph.node):
            return
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


def normalisation(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes from the input to the first convolution or pooling, excluded."""
    heavy = {n.name for n in convolutions(model)}
    reached, names = {i.name for i in model.graph.input}, []
    for node in model.graph.node:
        if node.name in heavy or node.op_type not in _INPUT_OPERATORS:
            continue
        if reached & set(node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


_INPUT_OPERATORS = ("Cast", "Transpose", "Sub", "Mul", "Add", "Div", "Gather")
