"""Equal constants are stored once, as a network that runs several times over has its weights."""

from __future__ import annotations

import hashlib

import onnx
from onnx import numpy_helper

LEAST = 1024
"""Bytes; less is not worth another name in the graph."""


def share_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or where constants of `LEAST` bytes or more are equal, a copy that has each once.

    It is the last step before a file is written: what changes weights layer by layer comes before.
    Constants that the model returns, or that a subgraph may read, stay as they are.
    """
    graph = model.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return model
    outputs = {output.name for output in graph.output}
    first: dict[tuple[object, ...], str] = {}
    instead: dict[str, str] = {}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.nbytes < LEAST or tensor.name in outputs:
            continue
        key = (tensor.data_type, value.shape, hashlib.sha256(value.tobytes()).digest())
        kept = first.setdefault(key, tensor.name)
        if kept != tensor.name:
            instead[tensor.name] = kept
    if not instead:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept_tensors = [tensor for tensor in graph.initializer if tensor.name not in instead]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept_tensors)
    for node in copy.graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    return copy
