"""Small float graphs, node after node, and what ONNX Runtime says of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(3)
IMAGE = RANDOM.normal(size=(1, 3, 6, 8)).astype(np.float32)


class Graph:
    """Nodes one after another; each call names its output after the node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def random(self, name: str, *shape: int) -> str:
        return self.constant(name, RANDOM.normal(size=shape).astype(np.float32))

    def conv(self, name: str, tensor: str, to: int, of: int, group: int = 1) -> str:
        weight = self.random(f"{name}.w", to, of // group, 3, 3)
        return self.add(
            "Conv", name, tensor, weight, self.random(f"{name}.b", to), group=group,
            pads=[1, 1, 1, 1],
        )  # fmt: skip

    def model(self, output: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(IMAGE.shape))
        last = helper.make_tensor_value_info(output, kind, None)
        stored = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "g", [image], [last], stored)
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        inferred = onnx.shape_inference.infer_shapes(model)
        del model.graph.output[:]
        model.graph.output.extend(inferred.graph.output)
        return model


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"image": IMAGE})[0])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the order of sums."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
