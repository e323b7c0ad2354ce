"""The graph that INT8 is written on says what the float graph says; means come back by bias."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calibration.bias import find_offsets
from edgeseg.calibration.calibrators import METHODS
from edgeseg.calibration.choose import find_ranges, measured
from edgeseg.calibration.observe import Observer, observe
from edgeseg.calibration.pixels import INSIDE, PIXELS, RANGE, is_pixels, read_pixels
from edgeseg.calibration.placement import placement
from edgeseg.calibration.prepare import prepare
from edgeseg.calibration.qdq import write_qdq
from edgeseg.calibration.rescale import SCALED, find_factors, find_sources, measure, rescale
from edgeseg.errors import DataError, GraphError
from edgeseg.graph import initializers

pytestmark = pytest.mark.unit

H, W = 12, 16
GREY = ((100.0,) * 3, (50.0,) * 3)
COLOURED = ((120.0, 100.0, 104.0), (58.0, 57.0, 50.0))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 1, shape).astype(np.float32)


def frames(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (H, W, 3), dtype=np.uint8) for _ in range(count)]


def built(nodes, constants, normal=GREY, outputs=("y",), swap=False) -> onnx.ModelProto:
    """image -> Cast -> Transpose -> (Gather) -> Sub -> Mul -> `x`, and `nodes` behind it."""
    node = helper.make_node
    before = [
        node("Cast", ["image"], ["c"], to=TensorProto.FLOAT),
        node("Transpose", ["c"], ["p"], perm=[0, 3, 1, 2]),
        *([node("Gather", ["p", "reverse"], ["g"], axis=1)] if swap else []),
        node("Sub", ["g" if swap else "p", "mean"], ["s"]),
        node("Mul", ["s", "scale"], ["x"]),
    ]
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in normal)
    constants = {"mean": mean, "scale": 1 / std, "reverse": np.array([2, 1, 0])} | constants
    graph = helper.make_graph(
        [*before, *nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, H, W, 3])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )  # fmt: skip
    return onnx.shape_inference.infer_shapes(model)


def conv(name: str, read: str, *more: str, **attributes: object) -> onnx.NodeProto:
    """A convolution NAME: `read` -> NAME with weights NAME.w."""
    inputs = [read, f"{name}.w", *more]
    return helper.make_node("Conv", inputs, [name], name=name, **attributes)


def results(model: onnx.ModelProto, output: str = "y") -> np.ndarray:
    observer = Observer(model, [output])
    return np.concatenate([observer.run(image[None])[output] for image in frames()])


def ranged(model, places, method: str, images=None) -> dict[str, float]:
    """Ranges by `method`, measured and chosen on the same images."""
    images = frames() if images is None else images
    histograms = observe(model, measured(places), images)
    return find_ranges(model, places, method, histograms, images)


def first(swap: bool = False, normal=GREY, **attributes: object) -> onnx.ModelProto:
    """One 3x3 convolution with bias of the normalised frame, beside a pooling of it."""
    nodes = [
        conv("a", "x", "a.b", **({"pads": [1, 1, 1, 1], "strides": [2, 2]} | attributes)),
        helper.make_node("AveragePool", ["x"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Identity", ["a"], ["y"]),
    ]
    constants = {"a.w": random(4, 3, 3, 3), "a.b": random(4)}
    return built(nodes, constants, normal, ("y", "z"), swap)


# Pixels


@pytest.mark.parametrize("normal", [GREY, COLOURED])
@pytest.mark.parametrize("swap", [False, True])
def test_the_frame_is_read_as_integers_with_the_same_results(swap, normal):
    model = first(swap, normal)
    read = read_pixels(model)
    [place] = placement(read)
    assert place.activation == INSIDE
    assert is_pixels(place.activation)
    values = Observer(read, [INSIDE]).run(frames()[0][None])[INSIDE]
    pixels = values[0, :3].transpose(1, 2, 0)[..., :: -1 if swap else 1]
    np.testing.assert_array_equal(pixels, frames()[0].astype(np.float32) - 128)
    for output in "yz":
        np.testing.assert_allclose(results(read, output), results(model, output), atol=1e-4)


@pytest.mark.parametrize(
    ("mean", "channels"),
    [((127.5, 127.5, 127.5), 1), ((110.0, 112.0, 90.0), 1), ((0.0, 0.0, 0.0), 2)],
)
def test_constant_channels_have_the_least_value_that_leaves_pixels_their_levels(mean, channels):
    read = read_pixels(first(normal=(mean, (50.0, 60.0, 70.0))))
    weight = initializers(read)["a.w/pixels"]
    assert weight.shape == (4, 3 + channels, 3, 3)
    pixels, constant = (np.abs(w).max((1, 2, 3)) for w in (weight[:, :3], weight[:, 3:]))
    assert (constant <= pixels * 1.0001).all()
    value = Observer(read, [INSIDE]).run(frames()[0][None])[INSIDE][0, 3:]
    assert value.min() == value.max() == np.rint(value.max())
    assert 1 <= value.max() <= 127
    if value.max() > 1:
        assert (constant * value.max() / (value.max() - 1) > pixels).any()


def test_int8_of_pixels_rounds_nothing_but_weights():
    """Weights that are whole levels: the largest is 127, no pair of channels comes to more."""
    model = read_pixels(first(pads=[0, 0, 0, 0]))
    places = placement(model)
    assert places[0].activation == PIXELS
    levels = np.rint(60 * np.tanh(random(4, 3, 3, 3)))
    levels[:, 2, 1, 1] = 127
    model.graph.initializer.append(numpy_helper.from_array(levels.astype(np.float32), "levels"))
    next(n for n in model.graph.node if n.name == "a").input[1] = "levels"
    ranges = ranged(model, placement(model), "minmax")
    assert ranges == {PIXELS: RANGE}
    quantised = write_qdq(model, placement(model), ranges)
    np.testing.assert_allclose(results(quantised), results(model), rtol=1e-6, atol=1e-2)


def test_a_graph_that_normalises_otherwise_stays_as_it_is():
    model = first()
    for node in model.graph.node:
        if node.op_type == "Sub":
            node.op_type = "Add"
    assert read_pixels(model) == model
    grouped = built([conv("a", "x", group=3), helper.make_node("Relu", ["a"], ["y"])],
                    {"a.w": random(3, 1, 3, 3)})  # fmt: skip
    assert read_pixels(grouped) == grouped


# Rescaling


def branches() -> onnx.ModelProto:
    """conv -> PReLU and conv -> BN, of very different size, joined, pooled, and read four ways."""
    node = helper.make_node
    nodes = [
        conv("a", "x", "a.b", pads=[1, 1, 1, 1]),
        node("PRelu", ["a", "slope"], ["a.act"]),
        conv("b", "x"),
        node("BatchNormalization", ["b", "gamma", "beta", "mu", "var"], ["b.norm"]),
        node("Concat", ["a.act", "b.norm"], ["join"], axis=1),
        node("AveragePool", ["join"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("wide", "join", "wide.b", strides=[2, 2]),
        conv("deep", "pool", group=2),
        node("ConvTranspose", ["pool", "up.w"], ["up"], name="up", group=2, strides=[1, 1]),
        node("Add", ["wide", "deep"], ["sum"]),
        node("Add", ["sum", "up"], ["y"]),
    ]
    constants = {
        "a.w": random(4, 3, 3, 3) * np.array([1, 30, 0.01, 1], np.float32).reshape(-1, 1, 1, 1),
        "a.b": random(4), "slope": np.abs(random(4, 1, 1)) / 4,
        "b.w": random(2, 3, 1, 1), "gamma": np.array([0.05, 4], np.float32), "beta": random(2),
        "mu": random(2), "var": np.abs(random(2)) + 1,
        "wide.w": random(8, 6, 1, 1), "wide.b": random(8), "deep.w": random(8, 3, 1, 1),
        "up.w": random(6, 4, 1, 1),
    }  # fmt: skip
    return built(nodes, constants)


def test_rescaling_is_exact():
    model = branches()
    sources = find_sources(model)
    assert {s.tensor: s.channels for s in sources} == {"a.act": 4, "b.norm": 2}
    assert {r.node.name: r.first for r in sources[1].readers} == {"wide": 4, "deep": 4, "up": 4}
    factors = {"a.act": (3.0, 0.2, 7.0, 0.5), "b.norm": (0.1, 11.0)}
    other = rescale(model, factors)
    np.testing.assert_allclose(results(other), results(model), rtol=1e-4, atol=1e-4)
    own, before = (Observer(m, [n]).run(frames()[0][None])[n]
                   for m, n in ((other, "join" + SCALED), (model, "join")))  # fmt: skip
    every = np.array([*factors["a.act"], *factors["b.norm"]], np.float32).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(own * every, before, rtol=1e-4, atol=1e-5)


def test_channels_come_closer_and_the_largest_stays():
    model = branches()
    magnitudes = measure(model, find_sources(model), frames())
    factors = find_factors(model, find_sources(model), magnitudes)
    after = magnitudes["a.act"] / factors["a.act"]
    assert after.max() == pytest.approx(magnitudes["a.act"].max())
    spread, before = after.max() / after.min(), np.ptp(np.log(magnitudes["a.act"]))
    assert np.log(spread) < 0.75 * before


def test_a_dead_tensor_gets_no_factors_and_a_dead_channel_small_ones():
    model = branches()
    sources = find_sources(model)
    dead = {"a.act": np.zeros(4), "b.norm": np.array([0.0, 1.0])}
    factors = find_factors(model, sources, dead)
    assert set(factors) == {"b.norm"}
    assert 1e-3 < factors["b.norm"][0] < 1


@pytest.mark.parametrize("reader", ["Sigmoid", "output"])
def test_what_others_read_is_left_alone(reader):
    """A reader that is no convolution, and an output of the graph."""
    nodes = [conv("a", "x"), helper.make_node("Relu", ["a"], ["r"]), conv("y", "r")]
    outputs = ["y", "r"] if reader == "output" else ["y", "other"]
    if reader != "output":
        nodes.append(helper.make_node(reader, ["r"], ["other"]))
    model = built(nodes, {"a.w": random(4, 3, 1, 1), "y.w": random(2, 4, 1, 1)}, outputs=outputs)
    assert find_sources(model) == ()


def test_two_readers_of_one_weight_are_changed_apart():
    nodes = [
        conv("a", "x"),
        conv("b", "a"),
        conv("e", "x"),
        helper.make_node("Conv", ["e", "b.w"], ["d"], name="d"),
        helper.make_node("Add", ["b", "d"], ["y"]),
    ]
    shapes = {"a.w": (4, 3, 1, 1), "b.w": (2, 4, 1, 1), "e.w": (4, 3, 1, 1)}
    model = built(nodes, {name: random(*shape) for name, shape in shapes.items()})
    other = rescale(model, {"a": (1.0, 2.0, 3.0, 4.0)})
    np.testing.assert_allclose(results(other), results(model), rtol=1e-4, atol=1e-5)


def test_no_frames_and_nan_are_refused_by_name():
    model = branches()
    with pytest.raises(DataError, match="no calibration frames; give --calib"):
        measure(model, find_sources(model), [])
    nan = built([conv("a", "x"), conv("y", "a")], {"a.w": random(4, 3, 1, 1) * np.nan,
                                                   "y.w": random(2, 4, 1, 1)})  # fmt: skip
    with pytest.raises(GraphError, match="calibration frame 0: tensor 'a' holds nan or infinity"):
        measure(nan, find_sources(nan), frames())


# Bias correction


def means(model: onnx.ModelProto, tensor: str) -> np.ndarray:
    return results(model, tensor).mean((0, 2, 3), dtype=np.float64)


def test_means_come_back_layer_after_layer():
    model = prepare(branches(), {})
    places = placement(model)
    ranges = ranged(model, places, "minmax")
    coarse = {name: top if is_pixels(name) else top * 6 for name, top in ranges.items()}
    offsets = find_offsets(model, places, coarse, frames())
    assert set(offsets) == {"a", "b", "wide", "deep", "up"}
    plain, corrected = write_qdq(model, places, coarse), write_qdq(model, places, coarse, offsets)
    for layer in offsets:
        wanted = means(model, layer)
        np.testing.assert_allclose(means(corrected, layer), wanted, atol=2e-3)
    assert np.abs(means(plain, "wide") - means(model, "wide")).max() > 0.02


def test_offsets_of_a_layer_in_float_are_not_used():
    model = prepare(branches(), {})
    offsets = {"wide": (9.0,) * 8}
    assert len(write_qdq(model, (), {}, offsets).graph.initializer) == len(model.graph.initializer)
    np.testing.assert_array_equal(results(write_qdq(model, (), {}, offsets)), results(model))


# Choosing a range


def test_auto_takes_the_range_that_loses_least():
    """One value of a frame is huge and meets a weight of 0: to clip it costs nothing."""
    weights = {"a.w": np.eye(2, 3).reshape(2, 3, 1, 1), "y.w": np.array([[[[1]], [[0]]]])}
    model = built(
        [conv("a", "x"), conv("y", "a")],
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        normal=((0.0,) * 3, (1.0,) * 3),
    )
    images = [np.full((H, W, 3), 2, np.uint8) for _ in range(3)]
    for image in images:
        image[..., 0] = np.arange(H * W).reshape(H, W) % 5
        image[0, 0, 1] = 255
    places = placement(model)[1:]
    auto = ranged(model, places, "auto", images)["a"]
    each = [ranged(model, places, m, images)["a"] for m in METHODS]
    assert max(each) == 255
    errors = [np.square(np.arange(5) - np.rint(np.arange(5) * 127 / top) * top / 127).sum()
              if top >= 4 else np.inf for top in each]  # fmt: skip
    assert auto == each[int(np.argmin(errors))] < 255
