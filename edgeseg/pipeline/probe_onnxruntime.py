"""ONNX Runtime's probe: the ONNX graph, cut and opened anew for every question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from edgeseg.errors import EngineError
from edgeseg.graph import read_graph
from edgeseg.pipeline.probe import Node, Probe, Tensors
from edgeseg.runtime.engine_onnxruntime import AS_WRITTEN

QUANTISES = ("QuantizeLinear", "DequantizeLinear")


class OnnxRuntimeProbe(Probe):
    """`network.onnx`, by the settings of the engine `onnxruntime`."""

    engine = "onnxruntime"

    def __init__(self, network: Path, *, threads: int, precision: str = "f32") -> None:
        del precision  # its CPU computes in f32; the engine refuses anything else
        self._model = read_graph(network)
        self._threads = threads
        self.version = onnxruntime.__version__
        self.output = self._model.graph.output[0].name
        self.nodes = nodes_of(self._model)

    def run(self, frames: Sequence[Tensors], tensors: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """As `Probe.run`."""
        session = self._session(cut(self._model, frames[0], tensors))
        asked = list(tensors)
        read = [i.name for i in session.get_inputs()]
        try:
            results = [session.run(asked, {n: frame[n] for n in read}) for frame in frames]
        except Exception as error:
            raise EngineError(f"onnxruntime: inference failed: {error}") from error
        return [dict(zip(asked, values, strict=True)) for values in results]

    def _session(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*AS_WRITTEN)
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"onnxruntime can't open the cut graph: {error}") from error


def nodes_of(model: onnx.ModelProto) -> tuple[Node, ...]:
    """The nodes of an ONNX graph; of several outputs the first counts."""
    constants = {t.name for t in model.graph.initializer}
    return tuple(
        Node(
            n.name,
            n.op_type,
            n.output[0],
            tuple(i for i in n.input if i and i not in constants),
            {a.name: _short(helper.get_attribute_value(a)) for a in n.attribute},
            n.op_type in QUANTISES,
        )
        for n in model.graph.node
    )


def cut(model: onnx.ModelProto, feeds: Tensors, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that computes `tensors` when `feeds` (shapes, types) are given."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    makers = {o: n for n in model.graph.node for o in n.output}
    needed: set[str] = set()
    waiting = [t for t in tensors if t not in feeds]
    while waiting:
        name = waiting.pop()
        if name in feeds or name not in makers or makers[name].output[0] in needed:
            continue
        needed.add(makers[name].output[0])
        waiting.extend(makers[name].input)
    kept = [n for n in model.graph.node if n.output[0] in needed]
    read = {i for n in kept for i in n.input}
    constants = [t for t in model.graph.initializer if t.name in read]
    own = {o.name: o for o in model.graph.output}
    for part in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    for name, array in feeds.items():
        if name in read or name in tensors:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    graph.output.extend(own.get(t, onnx.ValueInfoProto(name=t)) for t in tensors)
    return small


def _short(value: object) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
