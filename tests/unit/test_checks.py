"""Bad calibration input by pencil: every sentence is read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calibration.checks import (
    FramesCheck,
    check_dead_channels,
    check_dead_weights,
    check_ranges,
    check_weights,
    share_lost,
)
from edgeseg.calibration.histogram import Histogram
from edgeseg.calibration.placement import Place, placement
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import DataError, GraphError
from edgeseg.labels import IGNORE, ClassTable

pytestmark = pytest.mark.unit

TABLE = ClassTable("three", ("road", "car", "sky"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)


def found(*images: np.ndarray, labels: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    """What the check says of frames whose labels hold these ids."""
    ids = np.resize(np.array(labels, np.uint8), (4, 6))
    samples = [Sample(f"frame-{i}", image, ids) for i, image in enumerate(images)]
    names = tuple(s.name for s in samples)
    dataset = Dataset("few:path", "train", TABLE, names, samples.__getitem__)
    check = FramesCheck(dataset.classes)
    assert [s.name for s in check.watch(dataset)] == list(names)
    return check.finish(dataset)


TEN = tuple(noise(i) for i in range(10))


# Frames


def test_ten_different_frames_with_all_classes_are_fine():
    assert found(*TEN) == []


def test_frames_of_one_colour_are_refused():
    with pytest.raises(DataError) as error:
        found(*(np.full((4, 6, 3), (i, 7, 200), np.uint8) for i in range(7)))
    assert str(error.value) == (
        "few:path (train): all 7 calibration frames are of one colour, and ranges measured on them "
        "fit no picture (frame-0, frame-1, frame-2, frame-3, frame-4 and 2 more); give real frames"
    )


def test_one_colour_is_every_channel_of_its_own():
    """(10, 20, 30) everywhere is one colour; a single pixel that differs by one is a picture."""
    image = np.full((4, 6, 3), (10, 20, 30), np.uint8)
    image[3, 5, 2] += 1
    with pytest.raises(DataError):
        found(np.full((4, 6, 3), (10, 20, 30), np.uint8))
    assert "1 frame only" in found(image)[0]


def test_some_frames_of_one_colour_are_named():
    black = np.zeros((4, 6, 3), np.uint8)
    assert found(*TEN, black) == [
        "few:path (train): 1 of 11 calibration frames are of one colour and add nothing "
        "(frame-10); leave them out"
    ]


def test_a_single_frame_is_warned_of():
    assert found(noise(0)) == [
        "few:path (train): ranges come from 1 frame only; what another scene holds beyond them is "
        "clipped. Give at least 10 different ones, better 100"
    ]


def test_a_repeated_frame_is_one_frame():
    (said,) = found(*[noise(0)] * 12, noise(1))
    assert said.startswith(
        "few:path (train): ranges come from 2 frames only, 13 with repetitions; what"
    )


def test_no_frame_is_refused():
    with pytest.raises(DataError, match=r"few:path \(train\): no calibration frames; give a data"):
        found()


def test_absent_classes_are_named():
    assert found(*TEN, labels=(0, 2, IGNORE)) == [
        "few:path (train): 'car' of 'three' is in none of the 10 calibration frames, and what only "
        "they excite is clipped; add frames with them"
    ]
    assert "'car', 'sky' of 'three' are in none" in found(*TEN, labels=(0,))[0]


def test_frames_without_labels_say_nothing_of_classes():
    assert found(*TEN, labels=(IGNORE,)) == []


# Weights


def network(weight: np.ndarray, kind: str = "Conv") -> onnx.ModelProto:
    node = helper.make_node(kind, ["image", "w"], ["labels"], name="stem")
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, 4, 4))],
        [helper.make_tensor_value_info("labels", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph)


def test_weights_that_are_no_numbers_are_refused():
    weight = np.ones((3, 2, 1, 1))
    check_weights(network(weight))
    weight[1, 0], weight[2] = np.nan, np.inf
    with pytest.raises(GraphError) as error:
        check_weights(network(weight))
    assert str(error.value) == (
        "weights 'w' of 'stem' hold 3 values that are nan or infinite, of which no INT8 network "
        "can be made; train again from a checkpoint without them, or convert the weights again"
    )


def test_dead_output_channels_are_counted():
    weight = np.ones((4, 2, 1, 1))
    weight[1], weight[3], weight[0, 1] = 0, 0, 0
    model = network(weight)
    assert check_dead_weights(model, placement(model)) == [
        "layer 'stem': the weights of 2 of 4 output channels are all 0 (1, 3); they are dead, and "
        "INT8 keeps them so"
    ]
    assert check_dead_weights(network(np.ones((4, 2, 1, 1))), placement(model)) == []


def test_a_deconvolution_has_its_outputs_on_the_second_axis():
    weight = np.ones((2, 3, 1, 1))
    weight[:, 2] = 0
    model = network(weight, "ConvTranspose")
    (said,) = check_dead_weights(model, placement(model))
    assert "1 of 3 output channels are all 0 (2)" in said


def test_dead_channels_are_named_by_tensor():
    magnitudes = {"a": np.array([0.5, 0, 2, 0]), "b": np.array([0, 1.0]), "c": np.ones(3)}
    assert check_dead_channels(magnitudes) == [
        "3 channels are 0 in every calibration frame (2 of 4 in 'a', 1 of 2 in 'b'); they are "
        "dead, or the frames show too little: what they hold later may be clipped"
    ]
    assert check_dead_channels({"c": np.ones(3), "all of it": np.zeros(3)}) == []


# Ranges


def counted(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.add(np.array(values, np.float32))
    return histogram


PLACES = (Place("conv1", "x", "w", 0), Place("conv2", "x", "v", 0), Place("conv3", "y", "u", 0))


def test_a_tensor_that_is_always_zero_is_named():
    histograms = {"x": counted(0.0, 0.0, -0.0), "y": counted(0.0, 1.0)}
    assert check_ranges(histograms, {"x": 0.0, "y": 1.0}, PLACES) == [
        "tensor 'x' (read by conv1, conv2) is 0 in every calibration frame, so it has no range and "
        "INT8 makes 0 of whatever it holds later; its channels are dead, or the frames are too few"
    ]
    never_above = {"x": counted(-1.0, 0.0)}
    assert check_ranges(never_above, {"x": 1.0}, PLACES) == []


def test_what_falls_to_zero():
    """Range 127: levels at whole numbers, so 0.4 becomes 0 and 0.6 does not (bins of 1/16)."""
    values = counted(*[0.4] * 3, 0.6, 127.0)
    assert share_lost(values, 127.0) == pytest.approx(60.0)
    assert share_lost(values, 12.7) == 0
    assert share_lost(counted(-0.4, 100.0), 127.0) == pytest.approx(50.0)


def test_an_outlier_that_sets_the_range_is_warned_of():
    histograms = {"y": counted(*[0.01] * 199, 1000.0)}
    (said,) = check_ranges(histograms, {"y": 1000.0}, PLACES)
    assert said == (
        "tensor 'y' (read by conv3): at its range of 1000, 99.50 % of its values become 0; a few "
        "outliers set it. Take '--method percentile' or 'mse', or give other frames"
    )
    assert check_ranges({"y": counted(*[0.01] * 98, 1000.0)}, {"y": 1000.0}, PLACES) == []
