"""The argmax before the shuffle: the same labels, in float and INT8, or the graph as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import Graph, run

from edgeseg.calibration.placement import placement
from edgeseg.calibration.qdq import write_qdq
from edgeseg.export.argmax_first import argmax_first

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]


def labels(bias: bool = True, kernel: int = 2, stride: int = 2, **given: object) -> Graph:
    g = Graph()
    g.conv("a", "image", 6, 3)
    names = [g.random("up.w", 6, 5, kernel, kernel), *([g.random("up.b", 5)] if bias else [])]
    g.add("ConvTranspose", "up", "a", *names, strides=[stride] * 2, **given)
    g.add("ArgMax", "ids", "up", axis=1, keepdims=0)
    g.add("Cast", "labels", "ids", to=TensorProto.UINT8)
    return g


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("bias", [True, False])
def test_labels_are_the_same_and_no_scores_are_upsampled(bias):
    model = labels(bias).model("labels", TensorProto.UINT8)
    found = argmax_first(model)
    assert kinds(found) == {"Conv", "ArgMax", "Cast", "Concat", "DepthToSpace", "Squeeze"}
    expected = run(model)
    assert expected.shape == (1, 12, 16)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(run(found), expected)
    assert "ConvTranspose" in kinds(model)


def test_the_first_of_equal_scores_wins_still():
    g = labels()
    g.constants["up.w"][:] = 0
    g.constants["up.b"][:] = [1, 3, 2, 3, 0]
    assert np.unique(run(argmax_first(g.model("labels", TensorProto.UINT8)))).tolist() == [1]


def test_int8_weights_stay_int8_with_their_scales():
    model = labels().model("labels", TensorProto.UINT8)
    places = placement(model)
    int8 = write_qdq(model, places, {place.activation: 4.0 for place in places})
    found = argmax_first(int8)
    assert "ConvTranspose" not in kinds(found)
    stored = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    assert stored["up.w/dq/01"].dtype == np.int8
    assert stored["up.w/dq/01"].shape == (5, 6, 1, 1)
    np.testing.assert_array_equal(run(found), run(int8))


def test_a_cast_of_half_scores_is_passed():
    g = labels()
    g.nodes[-2].input[0] = "wide"
    g.nodes.insert(-2, helper.make_node("Cast", ["up"], ["wide"], "wide", to=TensorProto.FLOAT))
    model = g.model("labels", TensorProto.UINT8)
    found = argmax_first(model)
    assert "ConvTranspose" not in kinds(found)
    np.testing.assert_array_equal(run(found), run(model))


@pytest.mark.parametrize(
    "given",
    [
        {"kernel": 3, "stride": 2},  # cells overlap
        {"kernel": 2, "stride": 2, "pads": [1, 1, 0, 0]},
        {"kernel": 3, "stride": 3},  # nine places
    ],
)
def test_other_deconvolutions_stay(given):
    model = labels(**given).model("labels", TensorProto.UINT8)
    assert argmax_first(model) == model


def test_scores_that_are_read_elsewhere_stay():
    g = labels()
    g.add("ReduceMax", "top", "up", keepdims=0)
    g.add("Cast", "byte", "top", to=TensorProto.UINT8)
    g.add("Add", "y", "labels", "byte")
    model = g.model("y", TensorProto.UINT8)
    assert argmax_first(model) == model
