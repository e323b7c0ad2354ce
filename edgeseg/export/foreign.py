"""A foreign ONNX file -> our interface: uint8 `image` in, uint8 `labels` out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, inliner, numpy_helper, version_converter

from edgeseg.bundle import InputSpec
from edgeseg.errors import GraphError
from edgeseg.export.simplify import MAX_OPSET
from edgeseg.graph import read_graph

MIN_OPSET = 13
"""DequantizeLinear takes a scale per channel from here on."""
FLOATS = (TensorProto.FLOAT,)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8)


def adopt(path: Path, spec: InputSpec, classes: int) -> onnx.ModelProto:
    """Put our input before and our output behind a foreign segmentation graph.

    It must take one float input (N, 3, H, W), normalised as `spec` says, and give logits
    (N, C, h, w) with C >= classes, or integer labels (N, h, w) or (N, 1, h, w). Outputs behind the
    classes are cut off. A graph with our own interface passes as it is.
    """
    if spec.size is None:
        raise GraphError(f"{path}: give --size HEIGHTxWIDTH")
    model = _settle(read_graph(path), path)
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1 or len(graph.output) < 1:
        raise GraphError(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs; "
            "a segmentation network has one image input"
        )
    if inputs[0].type.tensor_type.elem_type == TensorProto.UINT8:
        return _own(model, spec, path)
    _fix_input(inputs[0], spec, path)
    inner = compose.add_prefix(model, "network.")
    del inner.graph.value_info[:]  # shapes of the middle, perhaps of other sizes
    front = _front(spec, f"network.{inputs[0].name}")
    nodes = [*front, *inner.graph.node]
    tail, arrays = _tail(inner, classes, path)
    wrapped = helper.make_graph(
        [*nodes, *tail],
        graph.name or "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [spec.batch, *spec.size, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, None)],
        [*inner.graph.initializer, *_front_constants(spec), *arrays],
    )
    result = helper.make_model(
        wrapped, opset_imports=list(model.opset_import), ir_version=min(model.ir_version, 10)
    )
    try:
        result = onnx.shape_inference.infer_shapes(result, strict_mode=True)
        onnx.checker.check_model(result)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"{path}: the graph can't run at that size ({first})") from error
    return result


def _settle(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Local functions are written out; an opset below MIN_OPSET is brought up to it."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset > MAX_OPSET:
        raise GraphError(f"{path}: has opset {opset}; export it with opset {MAX_OPSET} or lower")
    if model.functions:
        model = inliner.inline_local_functions(model)
    if opset >= MIN_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(
            f"{path}: has opset {opset}, which can't be brought to {MIN_OPSET} ({first}); export "
            f"it with opset {MIN_OPSET} to {MAX_OPSET}"
        ) from error


def _own(model: onnx.ModelProto, spec: InputSpec, path: Path) -> onnx.ModelProto:
    value = next(i for i in model.graph.input)
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    expected = [spec.batch, *(spec.size or ()), 3]
    names = [value.name, *(o.name for o in model.graph.output)]
    if dims != expected or names != ["image", "labels"]:
        raise GraphError(
            f"{path}: uint8 graph with {names} and input {dims}; "
            f"expected 'image' of {expected} and one output 'labels'"
        )
    return model


def _fix_input(value: onnx.ValueInfoProto, spec: InputSpec, path: Path) -> None:
    tensor = value.type.tensor_type
    dims = [d.dim_value for d in tensor.shape.dim]
    assert spec.size is not None
    wanted = [spec.batch, 3, *spec.size]
    if tensor.elem_type not in FLOATS or len(dims) != 4 or dims[1] not in (0, 3):
        raise GraphError(
            f"{path}: input '{value.name}' has shape {dims}; expected float32 (N, 3, H, W)"
        )
    if any(have not in (0, want) for have, want in zip(dims, wanted, strict=True)):
        raise GraphError(
            f"{path}: input '{value.name}' is fixed at {dims}; export at "
            f"--size {dims[2] or wanted[2]}x{dims[3] or wanted[3]} --batch {dims[0] or wanted[0]}"
        )
    for dim, want in zip(tensor.shape.dim, wanted, strict=True):
        dim.ClearField("dim_param")
        dim.dim_value = want


def _front(spec: InputSpec, to: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["image"], ["edgeseg.float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["edgeseg.float"], ["edgeseg.nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["edgeseg.nchw", "edgeseg.mean"], ["edgeseg.centred"]),
        helper.make_node("Mul", ["edgeseg.centred", "edgeseg.scale"], [to]),
    ]


def _front_constants(spec: InputSpec) -> list[onnx.TensorProto]:
    mean = np.array(spec.mean, np.float32).reshape(1, 3, 1, 1)
    scale = (1.0 / np.array(spec.std)).astype(np.float32).reshape(1, 3, 1, 1)
    return [
        numpy_helper.from_array(mean, "edgeseg.mean"),
        numpy_helper.from_array(scale, "edgeseg.scale"),
    ]


def _tail(
    inner: onnx.ModelProto, classes: int, path: Path
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    inferred = onnx.shape_inference.infer_shapes(inner).graph.output[0]
    name, kind = inferred.name, inferred.type.tensor_type.elem_type
    dims = [d.dim_value for d in inferred.type.tensor_type.shape.dim]
    if kind in INTEGERS and len(dims) == 3:
        return [helper.make_node("Cast", [name], ["labels"], to=TensorProto.UINT8)], []
    if kind in INTEGERS and len(dims) == 4 and dims[1] == 1:
        axes = numpy_helper.from_array(np.array([1]), "edgeseg.axes")
        return [
            helper.make_node("Squeeze", [name, axes.name], ["edgeseg.ids"]),
            helper.make_node("Cast", ["edgeseg.ids"], ["labels"], to=TensorProto.UINT8),
        ], [axes]
    if kind in FLOATS and len(dims) == 4 and dims[1] >= classes:
        return _argmax(name, dims[1], classes)
    raise GraphError(
        f"{path}: output '{name}' has shape {dims}; expected logits (N, C, h, w) with C of at "
        f"least {classes} (the class table), or integer labels (N, h, w)"
    )


def _argmax(
    name: str, channels: int, classes: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes, arrays = [], []
    if channels > classes:
        bounds = {"start": [0], "end": [classes], "axis": [1]}
        arrays = [numpy_helper.from_array(np.array(v), f"edgeseg.{k}") for k, v in bounds.items()]
        nodes.append(helper.make_node("Slice", [name, *(a.name for a in arrays)], ["edgeseg.cut"]))
        name = "edgeseg.cut"
    nodes.append(helper.make_node("ArgMax", [name], ["edgeseg.ids"], axis=1, keepdims=0))
    nodes.append(helper.make_node("Cast", ["edgeseg.ids"], ["labels"], to=TensorProto.UINT8))
    return nodes, arrays
