"""The known fault of OpenVINO: a concat, Q/DQ and a convolution, in a file that is read as it is.

`Core.read_model` keeps QuantizeLinear as FakeQuantize and Convert; its CPU plugin then moves it in
front of the concat and loses the scale: values are rounded to whole numbers. `convert_model`, which
`to_openvino` calls, joins the pair first and is right. The part was found by `debug-parity` in the
published ESPNet: its last concat heals when it is looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.export.to_openvino import to_openvino
from edgeseg.pipeline.parity import Limits, Search, distance
from edgeseg.pipeline.probe_onnxruntime import OnnxRuntimeProbe
from edgeseg.pipeline.probe_openvino import OpenVinoProbe

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

SCALE = 0.125
HEALED = "OpenVINO loses the scale of QuantizeLinear behind a concat (seen in 2026.4.1)"
RANDOM = np.random.default_rng(8)


def network(path: Path, concat: bool = True) -> Path:
    """image -> planes / 64 -> left, right (1x1) -> concat or sum -> Q/DQ -> 1x1 -> labels."""
    node = helper.make_node
    weights = {
        "left.weight": RANDOM.normal(size=(4, 3, 1, 1)),
        "right.weight": RANDOM.normal(size=(4, 3, 1, 1)),
        "unit": np.float32(1 / 256),
        "scale": np.float32(SCALE),
        "weight_scale": np.full(3, 0.01),
    }
    constants = {n: np.asarray(w, np.float32) for n, w in weights.items()}
    constants["zero"] = np.array(0, np.int8)
    constants["zeros"] = np.zeros(3, np.int8)
    shape = (3, 8 if concat else 4, 1, 1)
    constants["head.weight"] = RANDOM.integers(-127, 128, shape).astype(np.int8)
    join = node("Concat", ["left", "right"], ["joined"], "joined", axis=1)
    nodes = [
        node("Cast", ["image"], ["float"], "float", to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        node("Mul", ["planes", "unit"], ["small"], "small"),
        node("Conv", ["small", "left.weight"], ["left"], "left"),
        node("Conv", ["small", "right.weight"], ["right"], "right"),
        join if concat else node("Add", ["left", "right"], ["joined"], "joined"),
        node("QuantizeLinear", ["joined", "scale", "zero"], ["joined/q"], "joined/q"),
        node("DequantizeLinear", ["joined/q", "scale", "zero"], ["joined/dq"], "joined/dq"),
        node(
            "DequantizeLinear", ["head.weight", "weight_scale", "zeros"], ["w/dq"], "w/dq", axis=0
        ),
        node("Conv", ["joined/dq", "w/dq"], ["head"], "head"),
        node("ArgMax", ["head"], ["ids"], "ids", axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], "labels", to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 32, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 16, 32])
    stored = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "concat", [image], [labels], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


FRAMES = [{"image": RANDOM.integers(0, 256, (1, 16, 32, 3)).astype(np.uint8)}]


def scores(probe, tensor: str = "head") -> list[np.ndarray]:
    return [r[tensor] for r in probe.run(FRAMES, [tensor])]


def off(path: Path, opened: Path) -> float:
    """SNR in dB of the scores of OpenVINO against ONNX Runtime's."""
    reference = OnnxRuntimeProbe(path, threads=1)
    return distance(scores(reference), scores(OpenVinoProbe(opened, threads=1))).snr_db


@pytest.mark.xfail(reason=HEALED, strict=True)
def test_a_file_read_as_it_is_is_right(tmp_path):
    """When this passes, OpenVINO is healed: drop the mark, and the paragraph in docs/int8.md."""
    path = network(tmp_path / "n.onnx")
    assert off(path, path) > 60


def test_without_a_concat_it_is_right(tmp_path):
    path = network(tmp_path / "n.onnx", concat=False)
    assert off(path, path) > 60


def test_our_exporter_is_right(tmp_path):
    path = network(tmp_path / "n.onnx")
    to_openvino(path, tmp_path)
    assert off(path, tmp_path / "network.xml") > 60


def test_debug_parity_finds_it_although_it_heals_when_looked_at(tmp_path):
    path = network(tmp_path / "n.onnx")
    a, b = OnnxRuntimeProbe(path, threads=1), OpenVinoProbe(path, threads=1)
    if off(path, path) > 60:
        pytest.skip(f"this OpenVINO ({b.version}) has no such fault any more")
    left, right = (np.concatenate(scores(p, "labels")) for p in (a, b))
    padding = np.zeros(left.shape, bool)
    search = Search(a, b, FRAMES, FRAMES, left, right, padding, lambda x: x, Limits(40.0))
    assert search.read("joined").state == "healed"
    found = search.find()
    assert found.first == "joined"
    assert found.part is not None
    assert found.part.tensor == "head"
    assert set(found.part.feeds) == {"left", "right"}
