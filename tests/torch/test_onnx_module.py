"""An ONNX graph in torch: what it computes, what is trained, what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeseg.errors import GraphError
from edgeseg.training.onnx_module import OnnxModule, untied

pytestmark = pytest.mark.torch


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 6, 8, 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    arrays = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    made = helper.make_graph(nodes, "tiny", [image], [output], arrays)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


RANDOM = np.random.default_rng(3)


def array(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values)


# fmt: off
CASES = {
    "pads of all sides":
        ("Conv", {"w": array(2, 4, 3, 2), "b": array(2)},
         {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "strided 1x1":
        ("Conv", {"w": array(2, 4, 1, 1)}, {"strides": [2, 2]}),
    "groups and dilation":
        ("Conv", {"w": array(4, 1, 3, 3)}, {"group": 4, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    "pads of a deconvolution":
        ("ConvTranspose", {"w": array(4, 2, 3, 3), "b": array(2)},
         {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    "running statistics":
        ("BatchNormalization", {"scale": array(4), "shift": array(4), "mean": array(4),
                                "var": np.abs(array(4)) + 0.5}, {"epsilon": 0.01}),
    "slopes":
        ("PRelu", {"slope": array(4, 1, 1)}, {}),
    "padding counts":
        ("AveragePool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1],
                             "count_include_pad": 1}),
    "padding does not count":
        ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "a grey border":
        ("Pad", {"sides": ints(0, 0, 1, 2, 0, 0, 3, 0), "grey": np.array(-5, np.float32)}, {}),
    "a border of zeros":
        ("Pad", {"sides": ints(0, 0, 1, 0, 0, 0, 0, 1)}, {}),
    "corners on corners":
        ("Resize", {"": None, " ": None, "sizes": ints(1, 4, 9, 5)},
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    "by scales":
        ("Resize", {"": None, "scales": np.array([1, 1, 2, 3], np.float32)}, {"mode": "linear"}),
    "an axis gone":
        ("ReduceMean", {"axes": ints(2, 3)}, {"keepdims": 0}),
    "new axes":
        ("Unsqueeze", {"axes": ints(1, 5)}, {}),
    "picked rows":
        ("Gather", {"rows": ints(3, 0, 3)}, {"axis": 2}),
    "shuffled":
        ("Reshape", {"shape": ints(1, 2, 2, 6, 8)}, {}),
    "quotient":
        ("Div", {"by": array(4, 1, 1)}, {}),
}
# fmt: on


@pytest.mark.parametrize("case", CASES)
def test_operators_are_those_of_the_standard(case):
    """Against ONNX's own reference."""
    kind, constants, attributes = CASES[case]
    names = [name.strip() for name in constants]
    model = graph(
        [
            helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
            helper.make_node(kind, ["x", *names], ["y"], "it", **attributes),
        ],
        {n: v for n, v in constants.items() if v is not None},
    )
    image = array(1, 6, 8, 4)
    wanted = ReferenceEvaluator(model).run(None, {"image": image})[0]
    with torch.no_grad():
        found = OnnxModule(model, "y")(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_full_product():
    model = graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["x"], keepdims=0),
            helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1),
        ],
        {"axes": ints(1, 2), "w": array(3, 4), "b": array(3)},
    )
    image = array(1, 6, 8, 4)
    wanted = ReferenceEvaluator(model).run(None, {"image": image})[0]
    found = OnnxModule(model, "y")(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# What is learned


KERNEL = array(4, 4, 1, 1)


def two_layers() -> onnx.ModelProto:
    """Two convolutions whose biases were equal, so that there is one; and a normalisation."""
    return graph(
        [
            helper.make_node("Transpose", ["image"], ["x"], "planes", perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["x", "a.weight", "zeros"], ["p"], "a"),
            helper.make_node("PRelu", ["p", "slope"], ["q"], "act"),
            helper.make_node("Conv", ["q", "b.weight", "zeros"], ["r"], "b"),
            helper.make_node(
                "BatchNormalization", ["r", "ones", "zeros", "zeros", "ones"], ["y"], "norm"
            ),
        ],
        {
            "a.weight": KERNEL / 58,
            "b.weight": KERNEL[::-1] * 9,
            "slope": np.full((4, 1, 1), 0.25, np.float32),
            "zeros": np.zeros(4, np.float32),
            "ones": np.ones(4, np.float32),
        },
    )


def test_what_was_merged_is_trained_apart_and_statistics_are_not():
    merged = OnnxModule(two_layers(), "y")
    assert sorted(merged.arrays()) == ["a.weight", "b.weight", "slope"]
    apart = untied(two_layers())
    module = OnnxModule(apart, "y")
    assert sorted(module.arrays()) == [
        "a.weight", "b.weight", "ones", "slope", "zeros", "zeros/b.2", "zeros/norm.2",
    ]  # fmt: skip
    buffers = {name for name, _ in module.named_buffers()}
    assert buffers == {"constant|zeros/norm|3", "constant|ones/norm|4"}
    image = array(1, 6, 8, 4)
    same = [OnnxModule(m, "y")(torch.from_numpy(image)) for m in (two_layers(), apart)]
    assert torch.equal(*same)


def test_arrays_come_back_exactly_in_their_own_shapes():
    model = untied(two_layers())
    module = OnnxModule(model, "y")
    given = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in module.arrays().items():
        np.testing.assert_array_equal(value, given[name])


def test_a_step_is_the_same_share_of_every_weight():
    """Parameters are about 1 in size, whatever their constants are; slopes are no matrices."""
    module = OnnxModule(untied(two_layers()), "y")
    sizes = {n: float(p.detach().square().mean().sqrt()) for n, p in module.named_parameters()}
    assert 0.7 < sizes["constant|a|weight"] < 1.42
    assert 0.7 < sizes["constant|b|weight"] < 1.42
    assert dict(module.named_parameters())["constant|slope"].ndim == 1


# What is refused


def refused(node: onnx.NodeProto, output: str = "y") -> str:
    with pytest.raises(GraphError) as error:
        OnnxModule(graph([node], {"sizes": ints(1, 2, 3, 4), "w": array(1)}), output)
    return str(error.value)


def test_an_unknown_operator_is_named():
    said = refused(helper.make_node("LpNormalization", ["image"], ["y"], "norm"))
    assert said.startswith(
        "operator LpNormalization (node 'norm') can't be trained; known: Add, AveragePool, "
    )


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            helper.make_node(
                "AveragePool", ["image"], ["y"], "p", kernel_shape=[2, 2], ceil_mode=1
            ),
            "AveragePool (node 'p') has ceil_mode 1, which can't be trained; known: 0",
        ),
        (
            helper.make_node("Conv", ["image", "w"], ["y"], "c", auto_pad="SAME_UPPER"),
            "Conv (node 'c') has auto_pad SAME_UPPER, which can't be trained; known: NOTSET",
        ),
        (
            helper.make_node("Resize", ["image", "", "", "sizes"], ["y"], "r"),
            "Resize (node 'r') has mode nearest, which can't be trained; known: linear",
        ),
        (
            helper.make_node(
                "AveragePool", ["image"], ["y"], "p", kernel_shape=[2, 2], pads=[0, 0, 1, 1]
            ),
            "AveragePool (node 'p') has pads [0, 0, 1, 1] that it does not count, which can't be "
            "trained",
        ),
    ],
)
def test_an_attribute_that_changes_the_meaning_is_named(node, said):
    assert refused(node) == said


def test_a_tensor_that_nobody_makes():
    node = helper.make_node("Relu", ["image"], ["y"])
    assert refused(node, "scores") == "the graph makes no tensor 'scores'"
