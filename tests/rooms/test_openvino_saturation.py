"""INT8 on x86 without VNNI, where OpenVINO adds the products of two channels in 16 bits.

Activations are shifted to 0 ... 255 there, and 2 x 255 x 127 does not fit. The writer keeps the
weights of each pair small enough; on other CPUs these tests can't fail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.calibration.placement import placement
from edgeseg.calibration.qdq import write_qdq
from edgeseg.export.to_openvino import to_openvino
from edgeseg.pipeline.parity import distance
from edgeseg.pipeline.probe_onnxruntime import OnnxRuntimeProbe
from edgeseg.pipeline.probe_openvino import OpenVinoProbe

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

FRAMES = [{"image": np.full((1, 16, 16, 3), 255, np.uint8)}]
RANGES = {"planes": 255.0, "activated": 255.0}


def network(path: Path, activation: str, kernel: int, up: bool) -> Path:
    """image -> grey in 16 channels -> activation -> a layer of equal weights, all quantised."""
    node = helper.make_node
    weights = {
        "grey.weight": np.full((16, 3, 1, 1), 1 / 3),
        "slope": np.full((16, 1, 1), 0.25),
        "head.weight": np.ones((16, 8, kernel, kernel) if up else (8, 16, kernel, kernel)),
    }
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    head = ["activated", "head.weight"], ["head"], "head"
    nodes = [
        node("Cast", ["image"], ["float"], "float", to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "grey.weight"], ["grey"], "grey"),
        node(activation, ["grey", "slope"][: 1 + (activation == "PRelu")], ["activated"], "activ"),
        node("ConvTranspose", *head, strides=[kernel] * 2) if up else node("Conv", *head),
        node("ArgMax", ["head"], ["ids"], "ids", axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], "labels", to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 16, 3])
    side = 16 * kernel if up else 17 - kernel
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, side, side])
    graph = helper.make_graph(nodes, "equal", [image], [labels], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(write_qdq(model, placement(model), RANGES), path)
    return path


@pytest.mark.parametrize("activation", ["Relu", "PRelu"])
@pytest.mark.parametrize(("kernel", "up"), [(1, False), (3, False), (2, True)])
def test_the_largest_weights_and_activations_do_not_saturate(tmp_path, activation, kernel, up):
    path = network(tmp_path / "network.onnx", activation, kernel, up)
    (tmp_path / "openvino").mkdir()
    to_openvino(path, tmp_path / "openvino")
    probes = (
        OnnxRuntimeProbe(path, threads=1),
        OpenVinoProbe(tmp_path / "openvino" / "network.xml", threads=1),
    )
    wanted, found = ([r["head"] for r in probe.run(FRAMES, ["head"])] for probe in probes)
    assert distance(wanted, found).snr_db > 60
