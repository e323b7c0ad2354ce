"""`debug-parity`: faults are planted in an engine's double, and must be found by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_folders import TABLE, onnxruntime_folder
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeseg.bundle import read_bundle, write_bundle
from edgeseg.calibration.placement import placement, tensors
from edgeseg.calibration.qdq import write_qdq
from edgeseg.cli import main
from edgeseg.errors import UsageError
from edgeseg.export.gate import GateFrames, write_frames
from edgeseg.picture import DIFFERENT
from edgeseg.pipeline.parity import CEILING, Limits, Search, compare_labels, distance
from edgeseg.pipeline.parity_report import EDGE, _parted
from edgeseg.pipeline.parity_sides import find_like, split_engine
from edgeseg.pipeline.probe import between, comparable, open_probe, sources
from edgeseg.pipeline.probe_onnxruntime import OnnxRuntimeProbe

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

SIZE = (8, 16)
LAYERS = 8
RANDOM = np.random.default_rng(3)


def chain() -> onnx.ModelProto:
    """image -> planes -> conv1 relu1 ... conv8 relu8 -> sum with relu2 -> head -> labels."""
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], "float", to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
    ]
    weights = {}
    reads, channels = "planes", 3
    for i in range(1, LAYERS + 1):
        weight = RANDOM.normal(size=(6, channels, 3, 3)).astype(np.float32)
        weights[f"conv{i}.weight"] = weight / np.float32(np.sqrt(weight[0].size / 2))
        nodes += [
            node("Conv", [reads, f"conv{i}.weight"], [f"conv{i}"], f"conv{i}", pads=[1] * 4),
            node("Relu", [f"conv{i}"], [f"relu{i}"], f"relu{i}"),
        ]
        reads, channels = f"relu{i}", 6
    weights["head.weight"] = RANDOM.normal(size=(3, 6, 1, 1)).astype(np.float32)
    nodes += [
        node("Add", [reads, "relu2"], ["sum"], "sum"),
        node("Conv", ["sum", "head.weight"], ["head"], "head"),
        node("ArgMax", ["head"], ["ids"], "ids", axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], "labels", to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *SIZE])
    constants = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "chain", [image], [labels], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


CHAIN = chain()
IMAGES = np.kron(RANDOM.integers(0, 256, (3, 2, 2, 3)), np.ones((1, 4, 8, 1), int)).astype(np.uint8)
FRAMES = [{"image": image[None]} for image in IMAGES]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "network.onnx"
    onnx.save(CHAIN, path)
    return path


class Wrong(OnnxRuntimeProbe):
    """An engine that computes conv5 wrongly, if `context` are all in the graph and nobody looks."""

    def __init__(self, network: Path, context: tuple[str, ...] = ("conv5",)) -> None:
        super().__init__(network, threads=1)
        self.context = context

    def _session(self, model):
        together = {n.name for n in model.graph.node}.issuperset(self.context)
        looked_at = {o.name for o in model.graph.output} & set(self.context[:-1])
        if together and not looked_at:
            for index, constant in enumerate(model.graph.initializer):
                if constant.name == "conv5.weight":
                    weight = -numpy_helper.to_array(constant)
                    model.graph.initializer[index].CopyFrom(
                        numpy_helper.from_array(weight, constant.name)
                    )
        return super()._session(model)


def labels_of(probe) -> np.ndarray:
    return np.concatenate([r["labels"] for r in probe.run(FRAMES, ["labels"])])


def search(a, b, snr_db: float = 40.0) -> Search:
    left, right = labels_of(a), labels_of(b)
    padding = np.zeros(left.shape, bool)
    return Search(a, b, FRAMES, FRAMES, left, right, padding, lambda x: x, Limits(snr_db))


# Distances


def test_distance_by_pencil():
    """Signal 100, noise 1: 20 dB."""
    a, b = [np.array([6.0]), np.array([8.0])], [np.array([6.0]), np.array([7.0])]
    assert distance(a, b) == distance(a, [*b[:1], np.array([9.0])])
    assert distance(a, b).snr_db == pytest.approx(20.0)
    assert distance(a, b).max_abs == 1.0
    assert distance(a, a).snr_db == CEILING
    assert distance(a, [np.array([6.0]), np.array([np.nan])]).snr_db == -CEILING
    assert distance(a, [np.array([6.0]), np.zeros(2)]).snr_db == -CEILING


def test_labels_away_from_boundaries():
    """Ten columns, the classes meet in the middle: two on each side are boundary."""
    a = np.repeat([[0] * 5 + [1] * 5], 10, 0)[None].astype(np.uint8)
    b = a.copy()
    b[0, :, 4] = 1
    padding = np.zeros(a.shape, bool)
    assert compare_labels(a, b, padding).agreement == 90.0
    assert compare_labels(a, b, padding).agreement_inside == 100.0
    b[0, :, 9] = 2
    assert compare_labels(a, b, padding).agreement_inside == pytest.approx(100 * 5 / 6)
    padding[0, :, 9] = True
    assert compare_labels(a, b, padding).agreement_inside == 100.0


# The graph


def test_what_a_tensor_is_computed_from(file):
    probe = OnnxRuntimeProbe(file, threads=1)
    assert sources(probe.nodes, "sum", {"relu2", "conv8", "relu8"}) == ("relu8", "relu2")
    assert sources(probe.nodes, "sum", {"conv7"}) == ("conv7", "image")
    names = [n.tensor for n in between(probe.nodes, ("conv7", "relu2"), "head")]
    assert names == ["relu7", "conv8", "relu8", "sum", "head"]


def test_a_cut_graph_holds_no_more_than_it_needs(file):
    probe = OnnxRuntimeProbe(file, threads=1)
    (whole,) = probe.run(FRAMES[:1], ["relu3", "relu4"])
    (part,) = probe.run([{"relu3": whole["relu3"]}], ["relu4"])
    assert np.allclose(part["relu4"], whole["relu4"], atol=1e-4)
    assert np.abs(whole["relu4"]).max() > 1


def test_q_dq_belongs_to_its_reader(file, tmp_path):
    places = placement(CHAIN)
    onnx.save(write_qdq(CHAIN, places, dict.fromkeys(tensors(places), 500.0)), tmp_path / "q.onnx")
    a, b = (OnnxRuntimeProbe(p, threads=1) for p in (file, tmp_path / "q.onnx"))
    order = [n.tensor for n in comparable(a, b)]
    assert order[:4] == ["float", "planes", "conv1", "relu1"]
    assert not [t for t in order if t.endswith(("/q", "/dq"))]
    assert "labels" not in order
    assert sources(b.nodes, "conv2", set(order)) == ("relu1",)


# Planted faults


def test_the_wrong_node_is_found_by_name(file):
    a, b = OnnxRuntimeProbe(file, threads=1), Wrong(file)
    found = search(a, b).find()
    assert found.first == "conv5"
    assert found.part is not None
    assert [n.name for n in found.part.nodes] == ["conv5"]
    assert found.part.feeds == ("relu4",)
    assert found.part.distance.snr_db < 0
    states = {r.tensor: r.state for r in found.readings}
    assert states["relu4"] == "same"
    assert states["conv5"] == "parted"
    assert len(states) < len(a.nodes) - 4, "bisection does not ask for every tensor"


@pytest.mark.parametrize(
    "context", [("conv5", "relu5"), ("conv5", "relu5", "conv6"), ("relu4", "conv5", "relu5")]
)
def test_a_fault_of_context_is_found_by_replay(file, context):
    a, b = OnnxRuntimeProbe(file, threads=1), Wrong(file, context)
    found = search(a, b).find()
    assert {r.tensor: r.state for r in found.readings}[found.first] in ("healed", "parted")
    assert found.part is not None
    assert tuple(n.name for n in found.part.nodes) == context
    inner = search(a, b).read("conv5")
    assert inner.state == "healed"
    assert inner.labels_moved > 0.5


def test_rounding_that_adds_up_is_no_fault_of_one_node(file, tmp_path):
    """INT8 against float: below 40 dB somewhere, and no part is below -1000 dB by itself."""
    places = placement(CHAIN)
    values = OnnxRuntimeProbe(file, threads=1).run(FRAMES, list(tensors(places)))
    ranges = {t: max(float(np.abs(v[t]).max()) for v in values) for t in tensors(places)}
    onnx.save(write_qdq(CHAIN, places, ranges), tmp_path / "q.onnx")
    a, b = (OnnxRuntimeProbe(p, threads=1) for p in (file, tmp_path / "q.onnx"))
    looking = search(a, b)
    each = [looking.replay(looking._sources(f"conv{i}"), f"conv{i}").snr_db for i in (1, 4, 8)]
    limit = min(looking.read("conv8").distance.snr_db + 0.1, min(each) - 0.1)
    whole = looking.read("conv8").distance.snr_db
    assert whole < min(each), "rounding adds up"
    found = search(a, b, (whole + min(each)) / 2).find()
    assert limit <= min(each)
    assert found.first.startswith(("conv", "relu", "sum", "head"))
    if found.part is None:
        assert len(found.worst) == 3


def test_the_same_engine_has_nothing_to_find(file):
    a = OnnxRuntimeProbe(file, threads=1)
    same = search(a, a)
    assert all(same.read(n.tensor).state == "same" for n in same.order)
    assert same.last_scores().tensor == "head"


# What is typed


def test_an_engine_behind_the_model(tmp_path):
    assert split_engine("runs/x@openvino") == ("runs/x", "openvino")
    assert split_engine("runs/x") == ("runs/x", None)
    (tmp_path / "x@y").mkdir()
    assert split_engine(str(tmp_path / "x@y")) == (str(tmp_path / "x@y"), None)
    with pytest.raises(UsageError) as refused:
        split_engine("x@openvin")
    assert str(refused.value) == "'x@openvin': unknown engine 'openvin'. Did you mean 'openvino'?"


def test_files_alone_do_not_say_their_classes(file):
    with pytest.raises(
        UsageError, match=r"an \.onnx file does not say classes and preprocessing; gi"
    ):
        find_like((str(file), str(file)), None)


def test_an_engine_without_a_probe(tmp_path):
    bundle = onnxruntime_folder(tmp_path / "f")
    with pytest.raises(UsageError, match="engine 'fake' can't be probed"):
        open_probe("fake", bundle, threads=1, precision="f32")


@pytest.fixture
def folder(tmp_path, file) -> Path:
    """An engine folder of the chain with gate frames."""
    path = tmp_path / "folder"
    onnxruntime_folder(path)
    (path / "network.onnx").write_bytes(file.read_bytes())
    labels = labels_of(OnnxRuntimeProbe(file, threads=1))
    write_frames(path, GateFrames(IMAGES, labels, None, "made"))
    write_bundle(path, read_manifest_of(path))
    return path


def read_manifest_of(path: Path):
    from edgeseg.bundle import read_manifest

    return dataclasses.replace(read_manifest(path), files={})


def test_one_folder_on_two_engines(folder, tmp_path, capsys):
    pytest.importorskip("openvino", reason="the second engine")
    out = tmp_path / "out"
    typed = [f"{folder}@onnxruntime", f"{folder}@openvino", "--out", str(out), "--threads", "1"]
    assert main(["debug-parity", *typed, "--frames", "2", "--json", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "100.00 % away from boundaries (2 frames of gate: made)" in said
    assert "they agree: no tensor was searched for" in said
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["parted"] is False
    assert result["b"]["engine"] == "openvino"
    assert result["scores"]["tensor"] == "head"
    with Image.open(out / "parity.png") as picture:
        assert picture.size[0] > 2 * SIZE[1]


def test_a_parted_file_is_exit_1_and_names_the_node(folder, tmp_path, capsys):
    model = chain_with(-1.0)
    onnx.save(model, tmp_path / "wrong.onnx")
    typed = ["debug-parity", str(folder), f"{tmp_path / 'wrong.onnx'}@openvino", "--threads", "1"]
    assert main([*typed, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "first to part: Conv 'conv5', SNR" in said
    assert "This node alone departs when B is fed with A's relu4" in said
    assert "Conv 'conv5' (pads=[1, 1, 1, 1]) of relu4" in said
    assert "> conv5" in said


def chain_with(factor: float) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(CHAIN)
    for constant in model.graph.initializer:
        if constant.name == "conv5.weight":
            weight = factor * numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(weight, constant.name))
    return model


def test_what_can_not_be_compared(folder, tmp_path, capsys):
    other = tmp_path / "other"
    onnxruntime_folder(
        other, classes=dataclasses.replace(TABLE, names=("red", "green", "violet")).to_dict()
    )
    assert main(["debug-parity", str(folder), str(other)]) == 2
    assert "can't be compared: their classes differs" in capsys.readouterr().err
    assert read_bundle(folder)


def test_the_picture_tells_boundary_from_inside():
    frame = np.full((2, 4, 3), 100, np.uint8)
    edge, inside = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    edge[0, 1], inside[1, 2] = True, True
    shown = _parted(frame, edge, inside)
    assert tuple(shown[0, 1]) == EDGE
    assert tuple(shown[1, 2]) == DIFFERENT
    assert tuple(shown[0, 0]) == (75, 75, 75)
