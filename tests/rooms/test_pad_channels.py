"""Channels padded to a block: the same scores, and left alone where that is not possible."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_graphs import RANDOM, Graph, assert_same, run

from edgeseg.export.pad_channels import pad_channels
from edgeseg.graph import initializers

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]


def outputs(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of each convolution."""
    sizes = initializers(model)
    return {n.name: sizes[n.input[1]].shape[0] for n in model.graph.node if n.op_type == "Conv"}


def hierarchy() -> Graph:
    """An ESP module in small: two branches, their sum, a concat, everything that follows one."""
    g = Graph()
    g.conv("a", "image", 12, 3)
    g.conv("b", "image", 12, 3)
    g.add("Add", "sum", "a", "b")
    g.add("Concat", "both", "a", "sum", axis=1)
    statistics = [g.random(f"n{i}", 24) for i in range(3)]
    g.constant("variance", RANDOM.uniform(0.5, 2, 24).astype(np.float32))
    g.add("BatchNormalization", "normal", "both", *statistics, "variance")
    g.add("PRelu", "active", "normal", g.random("slopes", 24, 1, 1))
    g.add("Mul", "scaled", "active", g.random("factors", 1, 24, 1, 1))
    g.conv("depthwise", "scaled", 24, 24, group=24)
    g.add("Add", "residual", "depthwise", "both")
    g.add("AveragePool", "half", "residual", kernel_shape=[2, 2], strides=[2, 2])
    g.constant("sizes", np.array([1, 24, 6, 8], np.int64))
    g.add("Resize", "large", "half", "", "", "sizes", mode="linear")
    weight = g.random("up.w", 24, 5, 2, 2)
    g.add("ConvTranspose", "up", "large", weight, strides=[2, 2])
    return g


def test_what_an_esp_module_holds_is_padded_and_the_scores_are_the_same():
    model = hierarchy().model("up")
    padded = pad_channels(model, 16)
    assert outputs(padded) == {"a": 16, "b": 16, "depthwise": 32}
    assert_same(run(padded), run(model))
    assert outputs(model)["a"] == 12


def test_a_block_that_fits_already_changes_nothing():
    model = hierarchy().model("up")
    assert pad_channels(model, 4) == model


def test_too_much_growth_is_not_taken():
    g = Graph()
    g.conv("a", "image", 11, 3)
    g.conv("b", "a", 25, 11)
    g.conv("c", "b", 16, 25)
    model = g.model("c")
    assert outputs(pad_channels(model, 16)) == {"a": 11, "b": 32, "c": 16}
    assert outputs(pad_channels(model, 16, growth=1.5)) == {"a": 16, "b": 32, "c": 16}
    assert outputs(pad_channels(model, 16, growth=1.2)) == {"a": 11, "b": 25, "c": 16}
    assert_same(run(pad_channels(model, 16, 9)), run(model))


def test_the_network_s_output_keeps_its_channels():
    g = Graph()
    g.conv("a", "image", 12, 3)
    g.conv("b", "a", 12, 12)
    model = g.model("b")
    assert outputs(pad_channels(model, 16)) == {"a": 16, "b": 12}


def test_an_operator_that_is_not_known_gets_what_it_had():
    g = Graph()
    g.conv("a", "image", 12, 3)
    g.conv("b", "image", 12, 3)
    g.add("Softmax", "soft", "a", axis=1)
    g.add("Add", "sum", "soft", "b")
    g.conv("c", "sum", 8, 12)
    model = g.model("c")
    assert outputs(pad_channels(model, 16)) == {"a": 12, "b": 12, "c": 8}
    assert pad_channels(model, 16) == model


def test_summands_of_different_layout_stay_as_they_were():
    """12 + 12 channels side by side are padded in two places, 24 in one."""
    g = Graph()
    g.conv("a", "image", 12, 3)
    g.conv("b", "image", 12, 3)
    g.add("Concat", "both", "a", "b", axis=1)
    g.conv("c", "image", 24, 3)
    g.add("Add", "sum", "both", "c")
    g.conv("d", "sum", 12, 24)
    g.conv("e", "d", 16, 12)
    model = g.model("e")
    padded = pad_channels(model, 16)
    assert outputs(padded) == {"a": 12, "b": 12, "c": 24, "d": 16, "e": 16}
    assert_same(run(padded), run(model))
