"""Graphs of whole families for TensorRT-RTX. None is calibrated: a build takes any ranges."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgeseg.calibration.pixels import read_pixels
from edgeseg.calibration.placement import placement
from edgeseg.calibration.prepare import prepare
from edgeseg.calibration.qdq import write_qdq
from edgeseg.calibration.rescale import find_sources
from edgeseg.export.half import to_half as half
from edgeseg.frame import Size
from edgeseg.pipeline.placement_lists import family_graph

__all__ = ["at_size", "half", "int8", "io_of", "shared_graph"]


def shared_graph(family: str) -> onnx.ModelProto:
    """A copy of the family's float graph, which the process exports once."""
    copy = onnx.ModelProto()
    copy.CopyFrom(family_graph(family))
    return copy


def int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution in INT8, every channel rescaled: the form that calibration writes."""
    sources = find_sources(read_pixels(graph))
    prepared = prepare(graph, {s.tensor: (1.0,) * s.channels for s in sources})
    places = placement(prepared)
    return write_qdq(prepared, places, {p.activation: 127.0 for p in places})


def at_size(graph: onnx.ModelProto, size: Size) -> onnx.ModelProto:
    """A copy at another input size: for graphs that name no size inside, as ESPNet's."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    assert "Resize" not in {n.op_type for n in copy.graph.node}
    for value in [*copy.graph.input, *copy.graph.output]:
        dims = value.type.tensor_type.shape.dim
        dims[1].dim_value, dims[2].dim_value = size
    del copy.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True)


def io_of(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of a file's input and output."""
    graph = onnx.load(path).graph
    return [
        (
            value.name,
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            tuple(d.dim_value for d in value.type.tensor_type.shape.dim),
        )
        for value in [*graph.input, *graph.output]
    ]
