"""An ONNX graph while a pass rewrites it: who makes and reads a tensor, constants as arrays."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.errors import GraphError


class Editor:
    """`model` itself, with its shapes inferred, to be changed; `finish` writes the changes into it.

    `shapes`, of constants too, holds 0 for a size that is not known; neither it nor `types` has
    what passes added.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        } | {name: value.shape for name, value in self.constants.items()}
        self.types: dict[str, np.dtype[Any]] = {
            value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type
        }
        self._outputs = {o.name for o in graph.output}
        self._made: dict[str, np.ndarray] = {}
        self._at = len(self.nodes)
        self._makers: dict[str, onnx.NodeProto] | None = None
        self._readers: dict[str, list[onnx.NodeProto]] | None = None

    def maker(self, tensor: str, *kinds: str) -> onnx.NodeProto | None:
        """The node that makes `tensor`, if it is one of `kinds` (any, when none is named)."""
        if self._makers is None:
            self._makers = {output: n for n in self.nodes for output in n.output}
        node = self._makers.get(tensor)
        return node if node is not None and (not kinds or node.op_type in kinds) else None

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read `tensor`."""
        if self._readers is None:
            self._readers = {}
            for node in self.nodes:
                for name in dict.fromkeys(node.input):
                    self._readers.setdefault(name, []).append(node)
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str, *kinds: str) -> onnx.NodeProto | None:
        """The node of `kinds` that alone reads `tensor`; None too for an output of the graph."""
        found = self.readers(tensor)
        if tensor in self._outputs or len(found) != 1 or found[0].op_type not in kinds:
            return None
        return found[0]

    def channels(self, tensor: str) -> int:
        """Size of the second axis; 0 where it is not known."""
        shape = self.shapes.get(tensor, ())
        return shape[1] if len(shape) > 1 else 0

    def constant(self, name: str, value: np.ndarray) -> str:
        """Store a new constant under `name`, or a like one where that is taken; its name."""
        taken, new = {*self.constants, *self.shapes}, name
        count = 1
        while new in taken:
            count += 1
            new = f"{name}.{count}"
        self.constants[new] = self._made[new] = np.ascontiguousarray(value)
        return new

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A new node with one output, both called `name`, where nodes were removed; the output."""
        if self.maker(name) is not None:
            raise GraphError(f"a pass would make the tensor '{name}' twice")
        node = helper.make_node(kind, list(inputs), [name], name, **attributes)
        self.nodes.insert(self._at, node)
        self._at += 1
        self._makers = self._readers = None
        return name

    def rename(self, tensor: str, name: str) -> None:
        """Let the node that makes `tensor`, which nothing reads, make `name` and be called so."""
        node = self.maker(tensor)
        assert node is not None
        node.output[0] = node.name = name
        self._makers = None

    def remove(self, *nodes: onnx.NodeProto) -> None:
        """Take nodes out; what is added next takes the place of the last of them."""
        gone = {id(node) for node in nodes}
        self._at = max(i for i, n in enumerate(self.nodes) if id(n) in gone) + 1 - len(gone)
        self.nodes = [n for n in self.nodes if id(n) not in gone]
        self._makers = self._readers = None

    def rewire(self, node: onnx.NodeProto, *inputs: str) -> None:
        """Let `node` read other tensors."""
        node.input[:] = inputs
        self._readers = None

    def finish(self) -> onnx.ModelProto:
        """The model: nodes in order, without what nothing reads, with the shapes of all tensors."""
        if not self._made:
            return self.model
        graph = self.model.graph
        nodes = _in_order(_alive(self.nodes, self._outputs))
        read = {name for node in nodes for name in node.input}
        kept = [t for t in graph.initializer if t.name in read]
        made = [numpy_helper.from_array(v, k) for k, v in self._made.items() if k in read]
        copies = [onnx.NodeProto() for _ in nodes]
        for copy, node in zip(copies, nodes, strict=True):
            copy.CopyFrom(node)
        kept = [_copy(t) for t in kept]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(copies)
        graph.initializer.extend([*kept, *made])
        return onnx.shape_inference.infer_shapes(self.model)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute; lists as lists of Python numbers."""
    found = next((a for a in node.attribute if a.name == name), None)
    if found is None:
        return default
    value = helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


def _copy(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    while True:
        read = {name for node in nodes for name in node.input} | outputs
        kept = [n for n in nodes if any(o in read for o in n.output)]
        if len(kept) == len(nodes):
            return kept
        nodes = kept


def _in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The same nodes, none before what it reads; else in their order."""
    makers = {output: i for i, n in enumerate(nodes) for output in n.output}
    missing = [{makers[name] for name in n.input if name in makers} for n in nodes]
    waiting: dict[int, list[int]] = {}
    for i, found in enumerate(missing):
        for maker in found:
            waiting.setdefault(maker, []).append(i)
    ready = [i for i, found in enumerate(missing) if not found]  # sorted, so a heap
    ordered = []
    while ready:
        i = heapq.heappop(ready)
        ordered.append(nodes[i])
        for reader in waiting.get(i, ()):
            missing[reader].discard(i)
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        raise GraphError("a pass has made a graph with a cycle")
    return ordered
