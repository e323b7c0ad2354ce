"""ONNX Runtime computes a Q/DQ graph as it is written: nothing of it is fused away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_folders import MANIFEST, SIZE
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle import Bundle, Target, write_bundle
from edgeseg.runtime.engine import EngineOptions, open_engine

pytestmark = pytest.mark.rooms


def red_in_quarters(path: Path) -> None:
    """labels = 4 * round to 1/4 (red - 128 + 0.3), by two INT8 convolutions one after the other.

    Fused into one that gives INT8, the first has its bias rounded to whole levels of 1: to 0.
    """
    red = np.array([1, 0, 0], np.int8).reshape(1, 3, 1, 1)
    arrays = {
        "middle": np.float32(128), "one": np.float32(1), "zero": np.int8(0), "red": red,
        "ones": np.ones(1, np.float32), "zeros": np.zeros(1, np.int8),
        "bias": np.array([0.3], np.float32), "quarter": np.float32(0.25),
        "four": np.full((1, 1, 1, 1), 4, np.int8), "channel": np.array([1]),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["planes", "middle"], ["pixels"]),
        node("QuantizeLinear", ["pixels", "one", "zero"], ["pixels/q"]),
        node("DequantizeLinear", ["pixels/q", "one", "zero"], ["pixels/dq"]),
        node("DequantizeLinear", ["red", "ones", "zeros"], ["red/dq"], axis=0),
        node("Conv", ["pixels/dq", "red/dq", "bias"], ["a"]),
        node("QuantizeLinear", ["a", "quarter", "zero"], ["a/q"]),
        node("DequantizeLinear", ["a/q", "quarter", "zero"], ["a/dq"]),
        node("DequantizeLinear", ["four", "ones", "zeros"], ["four/dq"], axis=0),
        node("Conv", ["a/dq", "four/dq"], ["b"]),
        node("Squeeze", ["b", "channel"], ["c"]),
        node("Cast", ["c"], ["labels"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *SIZE])
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()]
    graph = helper.make_graph(nodes, "quarters", [image], [labels], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def test_a_bias_keeps_what_is_less_than_a_level(tmp_path):
    """Red of 128 to 134 is 0.3, 1.3, ... 6.3, to the quarter 0.25, 1.25, ...: 1, 5, ... 25."""
    red_in_quarters(tmp_path / "network.onnx")
    manifest = dataclasses.replace(
        MANIFEST, network_file="network.onnx", target=Target("onnxruntime", "1", "CPU")
    )
    bundle = Bundle(tmp_path, write_bundle(tmp_path, manifest).manifest)
    image = np.zeros((1, *SIZE, 3), np.uint8)
    image[..., 0] = 128 + np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 7
    found = open_engine("onnxruntime", bundle, EngineOptions(threads=1)).infer(image)
    assert np.array_equal(found, 4 * (image[..., 0] - 128) + 1)
