"""Which layers are worth keeping in float: arithmetic by pencil."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calibration.sensitivity import Layer, by_worth, frontier, reason, shares

pytestmark = pytest.mark.unit


def layer(name: str, changed: float, macs: float) -> Layer:
    return Layer(name, changed, 20.0, 0.0, macs)


def test_labels_are_weighed_against_time():
    """Of four layers each costs 1/8 and half its MACs: 0.15, 0.45, 0.175 and 0.225."""
    layers = [layer("a", 3.0, 0.05), layer("b", 4.0, 0.65), layer("c", 1.0, 0.1)]
    layers.append(layer("d", 5.0, 0.2))
    worth = {"a": 3 / 0.15, "b": 4 / 0.45, "c": 1 / 0.175, "d": 5 / 0.225}
    assert [x.layer for x in by_worth(layers)] == sorted(worth, key=lambda n: -worth[n])
    assert [x.layer for x in by_worth(layers)] == ["d", "a", "b", "c"]


def test_of_equal_cost_the_worst_comes_first():
    layers = [layer(n, c, 0.25) for n, c in (("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 0.0))]
    assert [x.layer for x in by_worth(layers)] == ["b", "c", "a", "d"]


def test_shares_of_the_macs():
    assert shares({"a": 1, "b": 3, "c": 100}, ["a", "b"]) == {"a": 0.25, "b": 0.75}


def test_the_reason_as_the_manifest_has_it():
    assert reason(layer("a", 1.234, 0.0567)) == (
        "alone in INT8 it changes 1.23 % of the labels, for 5.7 % of the MACs"
    )


def test_the_frontier_of_a_layer():
    """image -> a -> b -> c + a, and d of it: what was made before a node and is read from it on."""
    ones = [numpy_helper.from_array(np.ones(1, np.float32), "w")]
    nodes = [
        helper.make_node("Mul", ["image", "w"], ["x"], "a"),
        helper.make_node("Mul", ["x", "w"], ["y"], "b"),
        helper.make_node("Add", ["y", "x"], ["z"], "c"),
        helper.make_node("Mul", ["z", "w"], ["out"], "d"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("image", "out")]
    model = helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], ones))
    assert frontier(model, "a") == ("image",)
    assert frontier(model, "b") == ("x",)
    assert frontier(model, "c") == ("y", "x")
    assert frontier(model, "d") == ("z",)
