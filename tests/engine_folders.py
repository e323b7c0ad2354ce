"""Tiny engine folders made by hand: rooms and engines are tested without torch or export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgeseg.bundle import (
    Bundle,
    Gate,
    InputSpec,
    Manifest,
    OutputSpec,
    Target,
    write_bundle,
)
from edgeseg.disk import writing_folder
from edgeseg.export.gate import GateFrames, write_frames
from edgeseg.labels import MASK, ClassTable

SIZE = (8, 16)
TABLE = ClassTable("rgb3", ("red", "green", "blue"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
MANIFEST = Manifest(
    "network",
    "brightest",
    TABLE.to_dict(),
    InputSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size=SIZE),
    gate=Gate("passed", frames=1, agreement=100.0),
)


def expected(images: np.ndarray) -> np.ndarray:
    """What the tiny network says: the brightest of the three channels, the first of equal ones."""
    return images.argmax(-1).astype(np.uint8)


def tiny_onnx(path: Path, size: tuple[int, int] = SIZE, batch: int = 1) -> None:
    """uint8 NHWC image -> Cast -> Transpose -> 1x1 Conv (identity) -> ArgMax -> uint8 labels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "kernel")
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0),
        helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, *size, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [batch, *size])
    graph = helper.make_graph(nodes, "brightest", [image], [labels], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def tiny_refiner(path: Path) -> None:
    """uint8 NHWC frame and mask -> scores: the inside is where the mask says, whatever is seen."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((2, 4, 1, 1), np.float32)
    weight[:, 3, 0, 0] = -1 / 127.5, 1 / 127.5
    kernel = numpy_helper.from_array(weight, "kernel")
    bias = numpy_helper.from_array(np.array([1.0, -1.0], np.float32), "bias")
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, *SIZE])
    graph = helper.make_graph(nodes, "refiner", [image], [scores], [kernel, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


REFINER = {
    "name": "cascadepsp_r18",
    "classes": MASK.to_dict(),
    "input": dataclasses.replace(MANIFEST.input, mask=True),
    "output": OutputSpec("scores", 1, "bilinear", 1),
}
"""What differs in the manifest of a refiner."""


def refiner_folder(folder: Path) -> Bundle:
    """A refiner's engine folder for ONNX Runtime."""
    with writing_folder(folder) as aside:
        tiny_refiner(aside / "network.onnx")
        target = Target("onnxruntime", "1", "CPU")
        return _finish(folder, aside, "network.onnx", target, dict(REFINER))


def onnxruntime_folder(folder: Path, **changes: object) -> Bundle:
    """An engine folder for ONNX Runtime; `changes` replace fields of the manifest."""
    size = getattr(changes.get("input"), "size", SIZE)
    with writing_folder(folder) as aside:
        tiny_onnx(aside / "network.onnx", size)
        return _finish(folder, aside, "network.onnx", Target("onnxruntime", "1", "CPU"), changes)


def openvino_folder(folder: Path, **changes: object) -> Bundle:
    """An engine folder for OpenVINO."""
    import openvino

    size = getattr(changes.get("input"), "size", SIZE)
    with writing_folder(folder) as aside:
        tiny_onnx(folder.parent / f"{folder.name}.onnx", size)
        model = openvino.convert_model(str(folder.parent / f"{folder.name}.onnx"))
        openvino.save_model(model, str(aside / "network.xml"))
        return _finish(folder, aside, "network.xml", Target("openvino", "1", "CPU"), changes)


def fake_folder(folder: Path, **changes: object) -> Bundle:
    """A folder for the FakeEngine, which reads no file."""
    with writing_folder(folder) as aside:
        (aside / "network.fake").write_bytes(b"nothing")
        return _finish(folder, aside, "network.fake", Target("fake", "fake", "none"), changes)


def gate_frames(count: int = 20) -> GateFrames:
    """Frames for the gate of these folders: noise, and what the tiny network says of it."""
    images = np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)
    return GateFrames(images, expected(images), None, "noise")


def _finish(
    folder: Path, aside: Path, network: str, target: Target, changes: dict[str, object]
) -> Bundle:
    if changes.pop("with_frames", False):
        write_frames(aside, gate_frames())
    fields: dict[str, object] = {"network_file": network, "target": target, **changes}
    bundle = write_bundle(aside, dataclasses.replace(MANIFEST, **fields))
    return Bundle(folder, bundle.manifest)
