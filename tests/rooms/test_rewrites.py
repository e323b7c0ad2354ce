"""Every pass of the export: the same results, and the graph that it promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import Graph, assert_same, run
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgeseg.errors import GraphError
from edgeseg.export.editing import Editor
from edgeseg.export.fold_linear import fold_linear
from edgeseg.export.fold_swap import fold_swap
from edgeseg.export.pools_as_convolutions import pools_as_convolutions
from edgeseg.export.rewrite import PASSES, rewrite
from edgeseg.export.upsampled import depthwise_before_concat, pointwise_first
from edgeseg.graph import initializers

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]


def changed(model: onnx.ModelProto, change: Callable[[Editor], None]) -> onnx.ModelProto:
    copy = onnx.shape_inference.infer_shapes(model)
    editor = Editor(copy)
    change(editor)
    return editor.finish()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def shapes(model: onnx.ModelProto, kind: str) -> dict[str, tuple[int, ...]]:
    """Weights of each node of a kind."""
    sizes = initializers(model)
    return {n.name: sizes[n.input[1]].shape for n in model.graph.node if n.op_type == kind}


def pooled(**given: object) -> Graph:
    """Two averagings of the image one after the other, as ESPNet has them."""
    g = Graph()
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], **given}
    g.add("AveragePool", "half", "image", **attributes)
    g.add("AveragePool", "quarter", "half", **attributes)
    g.conv("y", "quarter", 5, 3)
    return g


def test_poolings_of_the_image_are_convolutions():
    model = pooled(count_include_pad=1).model("y")
    found = changed(model, pools_as_convolutions)
    assert kinds(found) == ["Conv", "Conv", "Conv"]
    weight = initializers(found)[found.graph.node[0].input[1]]
    np.testing.assert_array_equal(weight[1, 1], np.full((3, 3), 1 / 9, np.float32))
    assert np.count_nonzero(weight) == 3 * 9
    assert_same(run(found), run(model))


def test_a_pooling_in_float16_is_a_convolution_in_float16():
    model = convert_float_to_float16(pooled(count_include_pad=1).model("y"))
    found = changed(model, pools_as_convolutions)
    assert initializers(found)[found.graph.node[0].input[1]].dtype == np.float16
    onnx.checker.check_model(found, full_check=True)


@pytest.mark.parametrize(
    "given", [{"count_include_pad": 0}, {"count_include_pad": 1, "ceil_mode": 1}]
)
def test_a_pooling_that_divides_by_different_numbers_stays(given):
    model = pooled(**given).model("y")
    assert kinds(changed(model, pools_as_convolutions)) == ["AveragePool", "AveragePool", "Conv"]


def test_a_pooling_of_many_channels_stays():
    g = Graph()
    g.conv("a", "image", 5, 3)
    g.add("AveragePool", "y", "a", kernel_shape=[2, 2])
    model = g.model("y")
    assert changed(model, pools_as_convolutions) == onnx.shape_inference.infer_shapes(model)


def attention(between: int = 40) -> Graph:
    """DFANet's: the mean of each channel, two linear layers, the channels times what they say."""
    g = Graph()
    g.add("ReduceMean", "mean", "image", g.constant("axes", np.array([2, 3])), keepdims=0)
    weight, bias = g.random("fc.w", between, 3), g.random("fc.b", between)
    g.add("Gemm", "fc", "mean", weight, bias, transB=1)
    g.add("Unsqueeze", "map", "fc", "axes")
    g.add("Conv", "weigh", "map", g.random("w.w", 3, between, 1, 1), g.random("w.b", 3))
    g.add("Mul", "y", "image", "weigh")
    return g


def test_two_linear_layers_are_one():
    model = attention().model("y")
    found = changed(model, fold_linear)
    assert kinds(found) == ["ReduceMean", "Unsqueeze", "Conv", "Mul"]
    assert shapes(found, "Conv") == {"weigh": (3, 3, 1, 1)}
    assert_same(run(found), run(model))


def test_linear_layers_stay_where_the_product_is_larger_or_the_middle_is_read():
    narrow = attention(1).model("y")
    assert "Gemm" in kinds(changed(narrow, fold_linear))
    g = attention()
    g.add("ReduceSum", "sum", "fc")
    g.add("Add", "z", "y", "sum")
    assert "Gemm" in kinds(changed(g.model("z"), fold_linear))


def test_linear_layers_stay_where_one_bias_is_for_all_or_a_border_is_padded():
    one = attention()
    one.constants["fc.b"] = one.constants["fc.b"][:1]
    assert "Gemm" in kinds(changed(one.model("y"), fold_linear))
    padded = attention()
    padded.nodes.pop()
    padded.nodes[-1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    assert "Gemm" in kinds(changed(padded.model("weigh"), fold_linear))


def swapped(*order: int) -> Graph:
    """The frame in another channel order, normalised, then read by two convolutions."""
    g = Graph()
    g.add("Transpose", "planes", "image", perm=[0, 1, 2, 3])
    g.add("Gather", "other", "planes", g.constant("order", np.array(order)), axis=1)
    g.add("Sub", "centred", "other", g.random("mean", 1, 3, 1, 1))
    g.add("Mul", "normal", "centred", g.random("scale", 3, 1, 1))
    g.conv("a", "normal", 4, 3)
    g.conv("b", "normal", 4, 3)
    g.add("Add", "y", "a", "b")
    return g


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_the_order_of_channels_goes_into_the_weights(order):
    model = swapped(*order).model("y")
    found = changed(model, fold_swap)
    assert kinds(found) == ["Transpose", "Sub", "Mul", "Conv", "Conv", "Add"]
    assert_same(run(found), run(model))


def test_the_swap_stays_where_something_else_reads_the_frame():
    g = swapped(2, 1, 0)
    g.add("ReduceMean", "mean_of", "normal")
    g.add("Add", "z", "y", "mean_of")
    assert "Gather" in kinds(changed(g.model("z"), fold_swap))


def test_three_of_four_channels_are_no_swap():
    g = Graph()
    g.add("Transpose", "planes", g.conv("four", "image", 4, 3), perm=[0, 1, 2, 3])
    g.add("Gather", "three", "planes", g.constant("order", np.array([2, 1, 0])), axis=1)
    g.conv("y", "three", 4, 3)
    assert "Gather" in kinds(changed(g.model("y"), fold_swap))


def resized(g: Graph, name: str, tensor: str, channels: int, **given: object) -> str:
    sizes = g.constant(f"{name}.sizes", np.array([1, channels, 12, 16]))
    return g.add("Resize", name, tensor, "", "", sizes, mode="linear", **given)


def joined(mode: str = "half_pixel") -> Graph:
    """What DFANet's second backbone begins with: upsampled features beside others, strided."""
    g = Graph()
    large = {"coordinate_transformation_mode": mode}
    g.conv("low", "image", 6, 3)
    resized(g, "up", "low", 6, **large)
    resized(g, "other", "image", 3, **large)
    g.add("Relu", "side", "other")
    g.add("Concat", "both", "up", "side", axis=1)
    weight = g.random("short.w", 4, 9, 1, 1)
    g.add("Conv", "short", "both", weight, g.random("short.b", 4), strides=[2, 2])
    depth = {"group": 9, "strides": [2, 2], "pads": [1, 1, 1, 1]}
    g.add("Conv", "depth", "both", g.random("d.w", 9, 1, 3, 3), g.random("d.b", 9), **depth)
    g.add("Conv", "point", "depth", g.random("p.w", 4, 9, 1, 1))
    g.add("Add", "y", "short", "point")
    return g


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
def test_what_is_upsampled_is_convolved_before(mode):
    model = joined(mode).model("y")
    found = changed(model, pointwise_first)
    makers = {n.output[0]: n for n in found.graph.node}
    assert makers["short"].op_type == "Add"
    (pick,) = (n for n in found.graph.node if n.op_type == "MaxPool")
    upsampling = makers[pick.input[0]]
    assert upsampling.op_type == "Resize"
    assert makers[upsampling.input[0]].input[0] == "low"
    assert_same(run(found), run(model))


def test_sums_of_upsampled_maps_are_convolved_one_by_one():
    """DFANet's decoder: the bias is added once, and each map is upsampled with fewer channels."""
    g = Graph()
    names = [g.conv(f"m{i}", "image", 6, 3) for i in range(2)]
    first, second = (resized(g, f"up{i}", name, 6) for i, name in enumerate(names))
    g.add("Add", "sum", first, second)
    g.add("Relu", "fine", resized(g, "up2", g.conv("m2", "image", 6, 3), 6))
    g.add("Add", "total", "fine", "sum")
    g.add("Conv", "y", "total", g.random("c.w", 4, 6, 1, 1), g.random("c.b", 4))
    model = g.model("y")
    found = changed(model, pointwise_first)
    values = onnx.shape_inference.infer_shapes(found).graph.value_info
    sizes = {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in values}
    resizes = [n.output[0] for n in found.graph.node if n.op_type == "Resize"]
    assert sorted(sizes[name] for name in resizes) == [4, 4, 6]
    assert_same(run(found), run(model))


@pytest.mark.parametrize("stride", [1, 2])
def test_one_upsampled_map_alone_is_convolved_before(stride):
    g = Graph()
    resized(g, "up", g.conv("low", "image", 6, 3), 6)
    weight, bias = g.random("c.w", 4, 6, 1, 1), g.random("c.b", 4)
    g.add("Conv", "y", "up", weight, bias, strides=[stride] * 2)
    model = g.model("y")
    found = changed(model, pointwise_first)
    assert kinds(found)[:3] == ["Conv", "Conv", "Resize"]
    assert_same(run(found), run(model))


def test_a_constant_beside_what_is_upsampled_has_its_channels():
    g = Graph()
    resized(g, "up", g.conv("low", "image", 6, 3), 6)
    g.add("Concat", "both", g.random("grid", 1, 2, 12, 16), "up", axis=1)
    g.add("Conv", "y", "both", g.random("c.w", 4, 8, 1, 1))
    model = g.model("y")
    found = changed(model, pointwise_first)
    assert "Concat" not in kinds(found)
    assert_same(run(found), run(model))


def test_channels_that_are_not_known_are_not_taken_apart():
    model = onnx.shape_inference.infer_shapes(joined().model("y"))
    for value in model.graph.value_info:
        if value.name == "side":
            value.type.tensor_type.shape.dim[1].Clear()
    editor = Editor(model)
    pointwise_first(editor)
    depthwise_before_concat(editor)
    assert [n.name for n in editor.nodes] == [n.name for n in model.graph.node]


def test_a_convolution_with_as_many_outputs_stays_behind_the_upsampling():
    g = Graph()
    resized(g, "up", "image", 3)
    g.add("Conv", "y", "up", g.random("w", 3, 3, 1, 1))
    model = g.model("y")
    assert kinds(changed(model, pointwise_first)) == ["Resize", "Conv"]


@pytest.mark.parametrize(
    "given", [{"mode": "nearest"}, {"coordinate_transformation_mode": "tf_crop_and_resize"}]
)
def test_an_upsampling_that_is_not_linear_keeps_its_place(given):
    g = Graph()
    sizes = g.constant("sizes", np.array([1, 3, 12, 16]))
    roi = g.constant("roi", np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32))
    g.add("Resize", "up", "image", roi, "", sizes, **{"mode": "linear", **given})
    g.add("Conv", "y", "up", g.random("w", 2, 3, 1, 1))
    assert kinds(changed(g.model("y"), pointwise_first)) == ["Resize", "Conv"]


def test_a_strided_depthwise_convolution_comes_before_the_concat():
    model = joined().model("y")
    found = changed(model, depthwise_before_concat)
    assert shapes(found, "Conv")["depth/0"] == (6, 1, 3, 3)
    assert shapes(found, "Conv")["depth/1"] == (3, 1, 3, 3)
    assert next(n for n in found.graph.node if n.output[0] == "depth").op_type == "Concat"
    assert_same(run(found), run(model))


def test_all_passes_together_give_the_same_and_drop_what_is_not_read():
    model = joined().model("y")
    found = rewrite(onnx.shape_inference.infer_shapes(model))
    onnx.checker.check_model(found, full_check=True)
    assert "Concat" in kinds(found)  # of depthwise results, at the small size
    assert "both" not in {o for n in found.graph.node for o in n.output}
    read = {name for node in found.graph.node for name in node.input}
    assert {t.name for t in found.graph.initializer} <= read
    assert_same(run(found), run(model))
    assert list(PASSES) == [
        "pools as convolutions", "swap in the weights", "linear layers folded",
        "pointwise first", "depthwise before concat",
    ]  # fmt: skip


def test_an_editor_keeps_names_apart_and_refuses_a_tensor_made_twice_or_a_cycle():
    model = onnx.shape_inference.infer_shapes(pooled(count_include_pad=1).model("y"))
    editor = Editor(model)
    assert editor.constant("y.w", np.zeros(2, np.float32)) == "y.w.2"
    with pytest.raises(GraphError, match="a pass would make the tensor 'half' twice"):
        editor.add("Relu", "half", "image")
    editor.add("Relu", "a", "b")
    editor.add("Relu", "b", "a")
    reader = next(n for n in editor.nodes if n.name == "y")
    editor.rewire(reader, "a", *reader.input[1:])
    with pytest.raises(GraphError, match="a pass has made a graph with a cycle"):
        editor.finish()
