"""OpenVINO's probe: the engine folder's own IR, cut and compiled anew for every question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13

from edgeseg.errors import EngineError
from edgeseg.pipeline.probe import Node, Probe, Tensors
from edgeseg.runtime.engine_openvino import shared_core

SILENT = ("Constant", "Result")
QUANTISES = ("/q", "/dq")
"""How our writer names what a Q/DQ pair makes."""


class OpenVinoProbe(Probe):
    """`network.xml`, by the settings of the engine `openvino`."""

    engine = "openvino"

    def __init__(self, network: Path, *, threads: int, precision: str = "f32") -> None:
        self._core = shared_core()
        self._network = network
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        self.version = openvino.__version__.partition("-")[0]
        model = self._read()
        self.nodes = nodes_of(model)
        self.output = _name(model.outputs[0])

    def run(self, frames: Sequence[Tensors], tensors: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """As `Probe.run`."""
        model, fed = cut(self._read(), frames[0], tensors)
        try:
            compiled = self._core.compile_model(model, "CPU", self._settings)
            request = compiled.create_infer_request()
            found = []
            for frame in frames:
                request.infer([np.ascontiguousarray(frame[name]) for name in fed])
                values = [np.array(request.get_output_tensor(i).data) for i in range(len(tensors))]
                found.append(dict(zip(tensors, values, strict=True)))
        except Exception as error:
            raise EngineError(f"openvino can't run the cut graph: {error}") from error
        return found

    def _read(self) -> openvino.Model:
        try:
            return self._core.read_model(self._network)
        except Exception as error:
            raise EngineError(f"openvino can't open {self._network}: {error}") from error


def cut(
    model: openvino.Model, feeds: Tensors, tensors: Sequence[str]
) -> tuple[openvino.Model, list[str]]:
    """The part of `model` that computes `tensors` from `feeds`, and the order of its inputs."""
    made = {n: o for op in model.get_ordered_ops() for o in op.outputs() for n in o.get_names()}
    own = {_name(r.input_value(0)): r for r in model.get_results()}
    results = [own.get(t) or opset13.result(made[t]) for t in tensors]
    parameters = []
    for name, array in feeds.items():
        parameter = opset13.parameter(array.shape, array.dtype, name=name)
        for reader in made[name].get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        parameters.append(parameter)
    return openvino.Model(results, parameters, "cut"), list(feeds)


def nodes_of(model: openvino.Model) -> tuple[Node, ...]:
    """The operations that make a tensor of the ONNX graph; unnamed ones between are passed over."""
    named: dict[str, tuple[str, ...]] = {}  # operation -> the named tensors it stands for
    nodes = []
    for op in model.get_ordered_ops():
        kind, key = op.get_type_name(), op.get_friendly_name()
        if kind in SILENT:
            continue
        above = [
            named.get(i.get_source_output().get_node().get_friendly_name(), ()) for i in op.inputs()
        ]
        inputs = tuple(dict.fromkeys(name for names in above for name in names))
        tensor = _name(op.output(0))
        named[key] = (tensor,) if tensor else inputs
        if kind != "Parameter" and tensor:
            attributes = {k: str(v)[:60] for k, v in op.get_attributes().items()}
            nodes.append(Node(key, kind, tensor, inputs, attributes, tensor.endswith(QUANTISES)))
    return tuple(nodes)


def _name(output: openvino.Output) -> str:
    """A tensor may have several names: the shortest is the one it had in the ONNX graph."""
    return min(output.get_names(), key=lambda n: (len(n), n), default="")
