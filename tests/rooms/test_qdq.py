"""Placement, observation and the one Q/DQ writer, on a tiny graph made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calibration.observe import Observer, observe
from edgeseg.calibration.placement import Place, placement, tensors
from edgeseg.calibration.qdq import LEVELS, round_weight, weight_scales, write_qdq
from edgeseg.errors import DataError, GraphError, UsageError
from edgeseg.graph import initializers

pytestmark = pytest.mark.rooms

SIZE = (8, 12)
RANDOM = np.random.default_rng(5)
# fmt: off
WEIGHTS = {
    "stem.weight":  RANDOM.normal(size=(6, 3, 3, 3)).astype(np.float32) / 255,
    "left.weight":  RANDOM.normal(size=(4, 6, 1, 1)).astype(np.float32),
    "right.weight": RANDOM.normal(size=(4, 6, 1, 1)).astype(np.float32) * 3,
    "up.weight":    RANDOM.normal(size=(4, 5, 2, 2)).astype(np.float32),
}
# fmt: on
WEIGHTS["stem.weight"][2] = 0  # a channel that never fires
WEIGHTS["left.weight"][1] *= 1e-4  # channels of very different size
RANGES = {"planes": 255.0, "relu": 2.0, "sum": 6.0}


def tiny(opset: int = 18) -> onnx.ModelProto:
    """image -> planes -> stem 3x3 -> relu, which left and right share -> sum -> up 2x2/2."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "stem.weight"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["relu"], "relu"),
        helper.make_node("Conv", ["relu", "left.weight"], ["left"], "left"),
        helper.make_node("Conv", ["relu", "right.weight"], ["right"], "right"),
        helper.make_node("Add", ["left", "right"], ["sum"], "sum"),
        helper.make_node("ConvTranspose", ["sum", "up.weight"], ["scores"], "up", strides=[2, 2]),
    ]
    constants = [numpy_helper.from_array(w, n) for n, w in WEIGHTS.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5, 16, 24])
    graph = helper.make_graph(nodes, "tiny", [image], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3)).astype(np.uint8)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """By ONNX Runtime with nothing fused: each node as the standard defines it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(None, {"image": images})
    return scores


# What the graph computes, in numpy


def conv(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))
    return np.einsum("nchwyx,ocyx->nohw", windows, weight)


def deconv(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    n, _, h, w = x.shape
    return np.einsum("nchw,coyx->nohywx", x, weight).reshape(n, weight.shape[1], 2 * h, 2 * w)


def fake(x: np.ndarray, top: float) -> np.ndarray:
    """Symmetric int8: round to the nearest multiple of top / 127 (halves to even), clip."""
    scale = np.float32(top / 127)
    return np.clip(np.rint(x.astype(np.float32) / scale), -128, 127) * np.float64(scale)


def largest_pair(channel: np.ndarray) -> float:
    """(inputs, h, w): the largest |a| or, of one sign, |a + b| of inputs 0 and 1, 2 and 3, ..."""
    tops = [np.abs(channel).max()]
    for a, b in zip(channel[0::2], channel[1::2], strict=False):
        tops.append(np.abs(np.where(a * b > 0, a + b, 0)).max())
    return max(tops)


def fake_weight(weight: np.ndarray, axis: int) -> np.ndarray:
    rounded = np.zeros(weight.shape)
    for channel in range(weight.shape[axis]):
        at = (slice(None),) * axis + (channel,)
        top = largest_pair(weight[at])
        if top > 0:
            scale = np.float32(top) / np.float32(127)
            rounded[at] = np.rint(weight[at] / scale) * np.float64(scale)
    return rounded


def simulate(images: np.ndarray, quantised: bool = True) -> np.ndarray:
    def act(x, name):
        return fake(x, RANGES[name]) if quantised else x

    w = {n: v.astype(np.float64) for n, v in WEIGHTS.items()}
    if quantised:
        w = {n: fake_weight(v, 1 if n == "up.weight" else 0) for n, v in WEIGHTS.items()}
    planes = act(images.astype(np.float64).transpose(0, 3, 1, 2), "planes")
    relu = act(np.maximum(conv(planes, w["stem.weight"]), 0), "relu")
    total = act(conv(relu, w["left.weight"]) + conv(relu, w["right.weight"]), "sum")
    return deconv(total, w["up.weight"])


# Placement

PLACES = """
stem   planes stem.weight  0
left   relu   left.weight  0
right  relu   right.weight 0
up     sum    up.weight    1
"""


def as_text(places: tuple[Place, ...]) -> list[list[str]]:
    return [[p.layer, p.activation, p.weight, str(p.axis)] for p in places]


def test_convolutions_are_quantised_and_nothing_else():
    assert as_text(placement(tiny())) == [line.split() for line in PLACES.split("\n")[1:-1]]


def test_a_shared_tensor_needs_one_range():
    assert tensors(placement(tiny())) == ("planes", "relu", "sum")


def test_layers_can_stay_in_float():
    kept = placement(tiny(), ("left", "up"))
    assert [p.layer for p in kept] == ["stem", "right"]
    assert tensors(kept) == ("planes", "relu")


def test_a_convolution_without_constant_weights_stays():
    model = tiny()
    moved = next(t for t in model.graph.initializer if t.name == "left.weight")
    model.graph.initializer.remove(moved)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["left.weight"], value=moved))
    assert [p.layer for p in placement(model)] == ["stem", "right", "up"]


def test_an_unknown_layer_is_refused():
    with pytest.raises(UsageError) as refused:
        placement(tiny(), ("steam",))
    assert str(refused.value) == "no convolution is named 'steam'. Did you mean 'stem'?"
    with pytest.raises(UsageError, match="no convolution is named 'relu'"):
        placement(tiny(), ("relu",))


# The writer


@pytest.fixture(scope="module")
def written() -> onnx.ModelProto:
    return write_qdq(tiny(), placement(tiny()), RANGES)


def test_the_hand_made_simulation_is_the_float_graph():
    assert np.abs(run(tiny(), image()) - simulate(image(), quantised=False)).max() < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_the_written_graph_is_fake_quantisation(written, seed):
    """Within float rounding, but for values that lie on the edge between two levels."""
    graph, numpy = run(written, image(seed)), simulate(image(seed))
    assert np.abs(numpy).max() > 10
    close = np.abs(graph - numpy) < 1e-3
    assert close.mean() > 0.99
    assert np.abs(graph - simulate(image(seed), quantised=False)).max() > 0.05  # it does round


def test_weights_are_int8_per_output_channel_with_zero_points_0(written):
    constants = initializers(written)
    for place in placement(tiny()):
        weight, scale, zero = (
            constants[f"{place.weight}/{part}"] for part in ("int8", "scale", "zero")
        )
        original = WEIGHTS[place.weight]
        assert weight.dtype == zero.dtype == np.int8
        assert weight.shape == original.shape
        assert scale.shape == zero.shape == (original.shape[place.axis],)
        assert not zero.any()
        assert weight.min() >= -LEVELS
        shape = [1] * 4
        shape[place.axis] = -1
        error = np.abs(weight * scale.reshape(shape).astype(np.float64) - original)
        assert (error <= scale.reshape(shape) * (0.5 + 1e-5)).all()
        channels = np.moveaxis(weight.astype(np.int32), place.axis, 0)
        peaks = np.array([largest_pair(levels) for levels in channels])
        fires = np.moveaxis(original, place.axis, 0).reshape(len(channels), -1).any(1)
        assert (np.abs(peaks - LEVELS)[fires] <= 1).all()
        assert not peaks[~fires].any()


def test_activations_are_int8_per_tensor_with_zero_point_0(written):
    constants = initializers(written)
    for name, top in RANGES.items():
        assert constants[f"{name}/scale"] == np.float32(top / 127)
        assert constants[f"{name}/scale"].shape == ()
        assert constants[f"{name}/zero"].dtype == np.int8
        assert constants[f"{name}/zero"] == 0


def test_nodes_as_text(written):
    """Each tensor has one pair; its quantised readers share it; float readers see the float."""
    text = [
        f"{n.op_type} {' '.join(i for i in n.input if '/scale' not in i and '/zero' not in i)} "
        f"-> {n.output[0]}"
        for n in written.graph.node
    ]
    assert text == [
        "Cast image -> float",
        "Transpose float -> planes",
        "QuantizeLinear planes -> planes/q",
        "DequantizeLinear planes/q -> planes/dq",
        "DequantizeLinear stem.weight/int8 -> stem.weight/dq",
        "Conv planes/dq stem.weight/dq -> stem",
        "Relu stem -> relu",
        "QuantizeLinear relu -> relu/q",
        "DequantizeLinear relu/q -> relu/dq",
        "DequantizeLinear left.weight/int8 -> left.weight/dq",
        "Conv relu/dq left.weight/dq -> left",
        "DequantizeLinear right.weight/int8 -> right.weight/dq",
        "Conv relu/dq right.weight/dq -> right",
        "Add left right -> sum",
        "QuantizeLinear sum -> sum/q",
        "DequantizeLinear sum/q -> sum/dq",
        "DequantizeLinear up.weight/int8 -> up.weight/dq",
        "ConvTranspose sum/dq up.weight/dq -> scores",
    ]


def test_the_float_weights_are_gone(written):
    assert not set(WEIGHTS) & set(initializers(written))


def test_axis_is_that_of_the_output_channels(written):
    axes = {
        n.input[0]: n.attribute[0].i for n in written.graph.node if n.attribute and
        n.attribute[0].name == "axis"
    }  # fmt: skip
    assert axes == {
        "stem.weight/int8": 0, "left.weight/int8": 0, "right.weight/int8": 0, "up.weight/int8": 1
    }  # fmt: skip


def test_the_graph_is_valid_and_of_an_opset_that_all_read(written):
    onnx.checker.check_model(written, full_check=True)
    assert [o.version for o in written.opset_import] == [18]


def test_the_float_graph_is_not_touched():
    model = tiny()
    before = model.SerializeToString()
    write_qdq(model, placement(model), RANGES)
    assert model.SerializeToString() == before


def test_a_layer_kept_in_float_reads_the_float_tensor():
    written = write_qdq(tiny(), placement(tiny(), ("left",)), RANGES)
    left, right = (next(n for n in written.graph.node if n.name == s) for s in ("left", "right"))
    assert list(left.input) == ["relu", "left.weight"]
    assert list(right.input) == ["relu/dq", "right.weight/dq"]
    assert "left.weight" in initializers(written)


def test_nothing_placed_is_the_float_graph():
    written = write_qdq(tiny(), (), RANGES)
    assert np.array_equal(run(written, image()), run(tiny(), image()))


def test_two_convolutions_of_one_weight():
    model = tiny()
    right = next(n for n in model.graph.node if n.name == "right")
    right.input[1] = "left.weight"
    written = write_qdq(model, placement(model), RANGES)
    names = [n.name for n in written.graph.node]
    assert len(set(names)) == len(names) == 17
    assert np.isfinite(run(written, image())).all()


def test_a_tensor_that_is_always_zero_has_a_scale():
    written = write_qdq(tiny(), placement(tiny()), RANGES | {"sum": 0.0})
    assert initializers(written)["sum/scale"] > 0
    assert np.isfinite(run(written, image())).all()


def test_an_opset_without_scales_per_channel_is_refused():
    """DequantizeLinear takes an axis from opset 13 on."""
    model = tiny()
    model.opset_import[0].version = 12
    with pytest.raises(GraphError, match=r"the graph can't be quantised: .*axis"):
        write_qdq(model, placement(model), RANGES)


def test_a_missing_range_is_refused():
    with pytest.raises(GraphError) as refused:
        write_qdq(tiny(), placement(tiny()), {"planes": 255.0, "sum": 6.0})
    assert str(refused.value) == (
        "the range table has no tensor 'relu'; calibrate this network again"
    )


def test_weight_arithmetic_by_pencil():
    """Largest sum 127/32 -> scale 1/32; 40.5 and 41.5 of them go to the even level."""
    weight = np.array([[127, -40.5, 41.5], [0.0, 0.0, 0.0]], np.float32) / 32
    scales = weight_scales(weight, 0)
    assert scales.tolist() == [1 / 32, np.float32(1e-9)]
    assert round_weight(weight, scales, 0).tolist() == [[127, -40, 42], [0, 0, 0]]
    assert weight_scales(weight, 1) * 32 == pytest.approx([1, 40.5 / 127, 41.5 / 127])


def test_neighbouring_weights_of_one_sign_share_the_levels():
    """Pairs are (0, 1), (2, 3) and the last alone: 90 + 37, -60 - 67, 127 alone give 1/32."""
    weight = np.array([[90, 37, -60, -67, 127], [90, -37, 60, -67, 0]], np.float32) / 32
    assert (weight_scales(weight, 0) * 32).tolist() == pytest.approx([1, 90 / 127])
    turned = np.ascontiguousarray(weight.T)[:, :, None, None]
    assert weight_scales(turned, 1).tolist() == weight_scales(weight, 0).tolist()


def sixteen_bit_sums(levels):
    """What `vpmaddubsw` makes of (out, in) int8 weights at worst: int16, saturated, and exact."""
    exact = []
    for wanted in (levels > 0, levels < 0):
        activations = np.where(wanted, 255, 0)
        products = np.pad(levels.astype(np.int32) * activations, [(0, 0), (0, levels.shape[1] % 2)])
        exact.append(products[:, 0::2] + products[:, 1::2])
    return np.clip(exact, -32768, 32767), np.array(exact)


@given(seed=st.integers(0, 10**6), inputs=st.integers(1, 9), power=st.sampled_from([0, 1, 4]))
@settings(max_examples=60, deadline=None)
def test_no_pair_of_products_saturates_16_bits(seed, inputs, power):
    """Whatever the activations are; by the largest magnitude alone it would."""
    weight = np.random.default_rng(seed).uniform(-1, 1, (6, inputs)) ** (2 * power + 1)
    saturated, exact = sixteen_bit_sums(round_weight(weight, weight_scales(weight, 0), 0))
    assert (saturated == exact).all()


def test_without_the_pairs_it_would_saturate():
    levels = round_weight(np.ones((1, 2)), np.array([1 / 127]), 0)
    saturated, exact = sixteen_bit_sums(levels)
    assert saturated.max() == 32767 < exact.max() == 255 * 254


# Observation


def test_tensors_from_the_middle_are_seen():
    values = Observer(tiny(), ["planes", "relu", "scores"]).run(image())
    assert np.array_equal(values["planes"], image().transpose(0, 3, 1, 2))
    expected = np.maximum(conv(values["planes"], WEIGHTS["stem.weight"]), 0)
    assert np.abs(values["relu"] - expected).max() < 1e-4
    assert values["scores"].shape == (1, 5, 16, 24)


def test_histograms_are_of_all_frames():
    frames = [image(s)[0] for s in range(3)]
    steps = []
    found = observe(tiny(), ["planes", "sum"], iter(frames), steps.append)
    assert steps == [1, 2, 3]
    assert found["planes"].counts.sum() == 3 * SIZE[0] * SIZE[1] * 3
    assert found["planes"].high == max(f.max() for f in frames)
    again = observe(tiny(), ["planes", "sum"], frames[::-1])
    assert np.array_equal(found["sum"].counts, again["sum"].counts)


def test_no_frames_are_refused():
    with pytest.raises(DataError) as refused:
        observe(tiny(), ["planes"], [])
    assert str(refused.value) == "no calibration frames; give --calib a data set with images"


def test_a_tensor_with_nan_is_named():
    model = tiny()
    bad = WEIGHTS["left.weight"].copy()
    bad[0, 0] = np.nan
    index = [t.name for t in model.graph.initializer].index("left.weight")
    model.graph.initializer[index].CopyFrom(numpy_helper.from_array(bad, "left.weight"))
    frames = [image(0)[0], image(1)[0]]
    with pytest.raises(GraphError) as refused:
        observe(model, ["relu", "sum"], frames)
    assert str(refused.value) == "calibration frame 0: tensor 'sum' holds nan or infinity"


def test_a_graph_that_can_not_be_opened():
    model = tiny()
    model.graph.node[3].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match="onnxruntime can't open the graph: "):
        Observer(model, ["relu"])
