"""Equal constants of a graph are written once, and the graph says the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeseg.export.share_constants import LEAST, share_constants

pytestmark = pytest.mark.unit

SIDE = 16


def chain(weights: dict[str, np.ndarray], outputs: tuple[str, ...] = ()) -> onnx.ModelProto:
    """x @ w1 @ w2 ..., with some of the weights returned beside it."""
    names = list(weights)
    steps = ["x", *(f"y{i}" for i in range(len(names)))]
    nodes = [
        helper.make_node("MatMul", [steps[i], name], [steps[i + 1]]) for i, name in enumerate(names)
    ]
    shape = [SIDE, SIDE]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info(n, 1, shape) for n in (steps[-1], *outputs)],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(None, {"x": x}))


def square(generator: np.random.Generator) -> np.ndarray:
    return generator.normal(0, 0.3, (SIDE, SIDE)).astype(np.float32)


def test_equal_weights_are_stored_once_and_say_the_same():
    generator = np.random.default_rng(1)
    a, b = square(generator), square(generator)
    assert a.nbytes >= LEAST
    model = chain({"first": a, "other": b, "second": a.copy(), "third": a.copy()})
    before = model.SerializeToString()
    shared = share_constants(model)
    assert [t.name for t in shared.graph.initializer] == ["first", "other"]
    assert [n.input[1] for n in shared.graph.node] == ["first", "other", "first", "first"]
    assert model.SerializeToString() == before, "the caller's graph was changed"
    x = square(generator)
    np.testing.assert_array_equal(run(shared, x)[0], run(model, x)[0])


def test_what_differs_in_type_or_shape_or_is_small_or_returned_stays():
    zeros = np.zeros((SIDE, SIDE), np.float32)
    returned = chain({"first": zeros, "second": zeros}, outputs=("second",))
    assert share_constants(returned) is returned
    small = chain({"first": zeros, "second": zeros + 1})
    for name, value in (
        ("a", np.zeros(4, np.float32)), ("b", np.zeros(4, np.float32)),
        ("int", np.zeros((SIDE, SIDE), np.int32)), ("row", np.zeros((1, SIDE * SIDE), np.float32)),
    ):  # fmt: skip
        small.graph.initializer.append(numpy_helper.from_array(value, name))
    assert share_constants(small) is small


def test_a_graph_with_subgraphs_stays():
    model = chain({"first": np.zeros((SIDE, SIDE), np.float32)})
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((SIDE, SIDE), np.float32), "b"))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["inner"])], "inner", [],
        [helper.make_tensor_value_info("inner", 1, [SIDE, SIDE])],
    )  # fmt: skip
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    )
    assert share_constants(model) is model
