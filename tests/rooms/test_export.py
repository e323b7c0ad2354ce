"""What must hold for every export target. A new target is one more class with two methods."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import CLASSES, SIZE, SPEC, blobs, labels_of, silent
from onnx import TensorProto

import edgeseg
from edgeseg.bundle import read_bundle, read_manifest, sha256
from edgeseg.errors import BundleError, EngineError, GateError, UsageError
from edgeseg.export.gate import Budget, read_frames
from edgeseg.export.half import to_half
from edgeseg.export.targets import EXPORTERS, find_exporter
from edgeseg.graph import convolutions, count_macs, count_params, initializers
from edgeseg.metrics import agreement
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.floats import FloatNetwork
from edgeseg.pipeline.plan import Plan
from edgeseg.pipeline.quantise import Quantiser
from edgeseg.runtime.engine_openvino import shared_core

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

WIDE = Budget(miou=100.0, per_class=100.0)
logging.getLogger("torch.__trace").setLevel(logging.ERROR)


def images(count: int, seed: int = 500) -> np.ndarray:
    return np.stack([blobs(seed + i)[0] for i in range(count)])


def torch_labels(folder: Path, inputs: np.ndarray, outputs: int = len(CLASSES)) -> np.ndarray:
    """What torch says of RGB inputs, from the first `outputs` logits."""
    model, bundle = load_checkpoint(folder)
    spec = bundle.manifest.input
    normal = (inputs.astype(np.float64) - np.array(spec.mean)) / np.array(spec.std)
    with torch.inference_mode():
        logits = model(torch.from_numpy(normal.transpose(0, 3, 1, 2)).float())
    return logits[:, :outputs].argmax(1).numpy().astype(np.uint8)


def written(
    network: FloatNetwork,
    target: str,
    precision: str,
    out: Path,
    quantiser: Quantiser | None = None,
    budget: Budget = WIDE,
) -> Path:
    plan = Plan(target, precision, budget=budget)
    bundle = export_network(network, quantiser, plan, out, silent)
    assert bundle.folder == out
    return out


class ExporterContract:
    """Tests that each target inherits."""

    target: str

    @staticmethod
    def interface(folder: Path) -> tuple[str, list[int], str, list[int]]:
        """Type and shape of the file's one input and one output."""
        raise NotImplementedError

    @staticmethod
    def constants(folder: Path) -> set[str]:
        """Element types of the constants that convolutions read."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def folders(cls, networks, quantiser, tmp_path_factory):
        """A function precision -> engine folder."""
        root = tmp_path_factory.mktemp(cls.target)
        made = {
            p: written(networks.get(), cls.target, p, root / p, quantiser if p == "int8" else None)
            for p in ("fp32", "fp16", "int8")
        }
        assert sorted(p.name for p in root.iterdir()) == ["fp16", "fp32", "int8"]
        return made

    def test_float_labels_are_torchs(self, networks, folders):
        """On frames that neither gate nor calibration saw."""
        inputs = images(6)
        ours = labels_of(folders["fp32"], inputs)
        torchs = torch_labels(networks.checkpoint("espnetc_q3"), inputs)
        assert ours.shape == torchs.shape == (6, *SIZE)
        assert ours.dtype == np.uint8
        assert len(np.unique(torchs)) >= 4
        assert agreement(ours, torchs) >= 99.9

    def test_half_and_int8_labels_are_near(self, folders):
        inputs = images(6)
        floats = labels_of(folders["fp32"], inputs)
        assert agreement(labels_of(folders["fp16"], inputs), floats) >= 97
        assert agreement(labels_of(folders["int8"], inputs), floats) >= 85

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_the_manifest_is_complete(self, folders, precision, networks):
        folder = folders[precision]
        manifest = read_manifest(folder)
        origin = read_manifest(networks.checkpoint("espnetc_q3"))
        assert (manifest.kind, manifest.precision) == ("network", precision)
        assert manifest.name == origin.name
        assert manifest.table == CLASSES
        assert manifest.input == dataclasses.replace(SPEC, size=SIZE, batch=1)
        assert (manifest.output.kind, manifest.output.stride) == ("labels", 1)
        assert manifest.target is not None
        assert manifest.target.name == self.target
        assert manifest.target.version
        assert manifest.target.device
        assert manifest.weights == origin.weights
        assert manifest.params == networks.get().manifest.params > 100_000
        assert manifest.macs == networks.get().manifest.macs > 10_000_000
        assert manifest.history[-1] == f"export --target {self.target} --precision {precision}"
        gate = manifest.gate
        assert gate is not None
        assert (gate.state, gate.frames, gate.against) == ("passed", 20, "ground truth")
        assert gate.source == "blobs train"
        assert (manifest.quantisation is not None) == (precision == "int8")

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_every_file_is_listed_with_its_hash(self, folders, precision):
        folder = folders[precision]
        manifest = read_manifest(folder)
        on_disk = {
            str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()
        } | {"manifest.json": ""}  # fmt: skip
        assert on_disk == manifest.files | {"manifest.json": ""}
        assert manifest.network_file in manifest.files
        assert "gate/frames.npz" in manifest.files

    def test_quantisation_says_what_was_done(self, folders, quantiser):
        found = read_manifest(folders["int8"]).quantisation
        assert found is not None
        assert (found.method, found.frames, found.source) == ("mse", 8, "blobs train")
        assert found.frames_sha256 == quantiser.table.frames_sha256
        assert found.network_sha256 == quantiser.table.network_sha256
        assert found.convolutions == len(quantiser.places()) > 20
        assert found.float_layers == ()

    def test_gate_frames_are_in_the_folder(self, folders, networks):
        kept = read_frames(read_bundle(folders["int8"]))
        gate = networks.get().gate
        assert np.array_equal(kept.images, gate.images)
        assert np.array_equal(kept.labels, gate.labels)
        assert kept.truth is not None
        assert np.array_equal(kept.truth, gate.truth)
        found = read_manifest(folders["int8"]).gate
        ours = labels_of(folders["int8"], kept.images)
        assert found.agreement == pytest.approx(agreement(ours, kept.labels), abs=0.01)

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_input_is_uint8_nhwc_and_output_uint8_labels(self, folders, precision):
        kind_in, shape_in, kind_out, shape_out = self.interface(folders[precision])
        assert (kind_in, shape_in) == ("uint8", [1, *SIZE, 3])
        assert (kind_out, shape_out) == ("uint8", [1, *SIZE])

    def test_the_file_holds_the_precision_that_it_names(self, folders):
        assert self.constants(folders["fp32"]) == {"float32"}
        assert self.constants(folders["fp16"]) == {"float16"}
        assert self.constants(folders["int8"]) == {"int8"}

    def test_the_runtime_opens_it(self, folders):
        (frame,) = images(1)
        with edgeseg.load(folders["int8"], frames="rgb", threads=1) as segmenter:
            labels = segmenter.segment(frame)
            assert np.array_equal(labels, labels_of(folders["int8"], frame[None])[0])
        with edgeseg.load(folders["int8"], frames="bgr", threads=1) as segmenter:
            assert np.array_equal(segmenter.segment(frame[..., ::-1]), labels)

    @pytest.fixture(scope="class")
    @classmethod
    def two_bgr(cls, networks, tmp_path_factory):
        """The same network for batches of two BGR frames."""
        root = tmp_path_factory.mktemp(cls.target)
        return written(networks.get(batch=2, order="bgr"), cls.target, "fp32", root / "two")

    def test_batches_of_swapped_frames_give_the_same_labels(self, two_bgr, folders):
        spec = read_manifest(two_bgr).input
        assert (spec.order, spec.mean, spec.std) == ("bgr", SPEC.mean[::-1], SPEC.std[::-1])
        assert (spec.fill, spec.batch) == (SPEC.fill[::-1], 2)
        assert self.interface(two_bgr)[1] == [2, *SIZE, 3]
        inputs = images(4)
        ours = labels_of(two_bgr, inputs[..., ::-1], batch=2)
        assert agreement(ours, labels_of(folders["fp32"], inputs)) >= 99.99
        assert agreement(labels_of(two_bgr, inputs, batch=2), ours) < 99  # the order does matter

    def test_batches_in_int8(self, networks, folders, quantiser, tmp_path):
        """Ranges are those of the RGB network: its tensors hold the same values.

        Engines choose other kernels for other batches, and INT8 turns a last bit into a level.
        """
        both = dataclasses.replace(quantiser, network=networks.get(batch=2, order="bgr"))
        folder = written(both.network, self.target, "int8", tmp_path / "two", both)
        inputs = images(4)
        ours = labels_of(folder, inputs[..., ::-1], batch=2)
        assert agreement(ours, labels_of(folders["int8"], inputs)) >= 95

    @pytest.mark.parametrize(
        ("name", "decode", "factor"),
        [("espnetc_q3", "bilinear", 8), ("espnet_q3", "deconvolution", 2)],
    )
    def test_scores_decode_to_the_labels_of_the_graph(
        self, networks, name, decode, factor, tmp_path
    ):
        network = networks.get(name, scores=True)
        folder = written(network, self.target, "fp32", tmp_path / "scores")
        output = read_manifest(folder).output
        assert (output.kind, output.decode) == ("scores", decode)
        assert output.stride == output.factor == factor
        assert ("decode.npz" in read_manifest(folder).files) == (decode == "deconvolution")
        channels = 11 if decode == "bilinear" else 12  # the deconvolution itself cuts void off
        low = [1, channels, SIZE[0] // factor, SIZE[1] // factor]
        assert self.interface(folder)[2:] == ("float32", low)
        inputs = images(4)
        expected = torch_labels(networks.checkpoint(name), inputs)
        ours = labels_of(folder, inputs)
        assert ours.shape == expected.shape
        assert agreement(ours, expected) >= 99.99

    def test_labels_never_hold_void(self, networks, folders):
        """Void's own scores are the largest nearly everywhere; labels are the best class's."""
        inputs = images(4)
        with_void = torch_labels(networks.checkpoint("espnetc_q3"), inputs, outputs=12)
        assert (with_void == 11).mean() > 0.6
        for folder in folders.values():
            assert labels_of(folder, inputs).max() <= 10

    def test_a_gate_that_fails_writes_nothing(self, networks, quantiser, tmp_path):
        """All ranges a thousandth of what they are: everything is clipped away."""
        tiny = {name: top / 1000 for name, top in quantiser.table.ranges.items()}
        broken = Quantiser(networks.get(), dataclasses.replace(quantiser.table, ranges=tiny))
        plan = Plan(self.target, "int8", budget=Budget(0, 0), max_float_share=0)
        with pytest.raises(GateError) as refused:
            export_network(networks.get(), broken, plan, tmp_path / "out", silent)
        said = str(refused.value)
        assert said.startswith("gate failed: mIoU ")
        assert f"with 0 of {len(quantiser.places())} convolutions in float; " in said
        first = convolutions(networks.get().single)[0].output[0]
        assert f"first to depart: tensor '{first}' (relative error " in said
        assert said.endswith("raise --max-miou-drop, or train with QAT")
        assert list(tmp_path.iterdir()) == []


class TestOnnxRuntime(ExporterContract):
    target = "onnxruntime"

    @staticmethod
    def interface(folder):
        graph = onnx.load(folder / "network.onnx").graph
        (given,), (made,) = graph.input, graph.output
        return (*describe(given), *describe(made))

    @staticmethod
    def constants(folder):
        model = onnx.load(folder / "network.onnx")
        arrays = initializers(model)
        producers = {o: n for n in model.graph.node for o in n.output}
        names = [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
        sources = [producers[n].input[0] if n in producers else n for n in names]
        return {str(arrays[n].dtype) for n in sources}


AFTERWARDS = """
import gc, os, signal, sys, threading, time
from pathlib import Path
from edgeseg.bundle import read_bundle
from edgeseg.pipeline.probe import probe_file
from edgeseg.runtime.engine import EngineOptions, open_engine

folder = Path(sys.argv[1])
opened = [open_engine("openvino", read_bundle(folder), EngineOptions())]
opened.append(probe_file("openvino", folder / "network.xml"))
other = threading.Thread(target=lambda: (opened.clear(), gc.collect()))
other.start()
other.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_openvino_went_in_another_thread(networks, tmp_path):
    """It goes in another thread, as the garbage collector may have it."""
    folder = written(networks.get(), "openvino", "fp32", tmp_path / "out")
    command = [sys.executable, "-c", AFTERWARDS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


class TestOpenVino(ExporterContract):
    target = "openvino"

    @staticmethod
    def interface(folder):
        model = shared_core().read_model(folder / "network.xml")
        (given,), (made,) = model.inputs, model.outputs
        return (
            np.dtype(given.element_type.to_dtype()).name, list(given.shape),
            np.dtype(made.element_type.to_dtype()).name, list(made.shape),
        )  # fmt: skip

    @staticmethod
    def constants(folder):
        model = shared_core().read_model(folder / "network.xml")
        kinds = set()
        for node in model.get_ops():
            if node.get_type_name() in ("Convolution", "ConvolutionBackpropData"):
                weight = node.input_value(1).get_node()
                while weight.get_type_name() != "Constant":
                    weight = weight.input_value(0).get_node()
                kinds.add(np.dtype(weight.output(0).element_type.to_dtype()).name)
        return kinds


def describe(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return np.dtype(dtype).name, [d.dim_value for d in tensor.shape.dim]


def test_every_target_keeps_the_contract():
    assert {k.target for k in ExporterContract.__subclasses__()} == set(EXPORTERS)


# The graph


@pytest.mark.parametrize("name", ["espnetc_q3", "espnet_q3"])
def test_no_node_belongs_to_training(networks, name):
    scores = name == "espnet_q3"
    graph = networks.get(name, **({"scores": True} if scores else {})).graph
    kinds = [n.op_type for n in graph.graph.node]
    assert not {"Dropout", "Identity", "If", "Loop", "RandomNormal", "Shape"} & set(kinds)
    for node in graph.graph.node:
        if node.op_type == "BatchNormalization":
            assert not any(a.name == "training_mode" and a.i for a in node.attribute)
            assert len(node.output) == 1
    assert [o.version for o in graph.opset_import if o.domain == ""] == [18]
    assert {o.domain for o in graph.opset_import} <= {""}
    onnx.checker.check_model(graph, full_check=True)


AVERAGES = 3 * 3 * 3 * 3
"""Weights of an average pooling of the image that has become a convolution; there are two."""
AVERAGED = AVERAGES * SIZE[0] * SIZE[1] * 5 // 16
"""Their multiplications, at 1/2 and at 1/4."""


def test_the_graph_has_the_macs_that_fvcore_counted(networks):
    network = networks.get()
    macs, uncounted = count_macs(network.graph)
    assert macs == network.manifest.macs + AVERAGED
    assert {"PRelu", "Concat", "Resize"} <= set(uncounted)
    assert "Conv" not in uncounted
    # A folded normalisation leaves a bias where scale and shift were: that of the stem.
    assert count_params(network.graph) == network.manifest.params - 16 + 2 * AVERAGES
    double = networks.get(batch=2, order="bgr")
    assert count_macs(double.graph)[0] == macs  # of one frame


def test_scores_are_without_the_last_deconvolution(networks):
    network = networks.get("espnet_q3", scores=True)
    last = 4 * 12 * 11 * (SIZE[0] // 2) * (SIZE[1] // 2)
    assert count_macs(network.graph)[0] == network.manifest.macs - last + AVERAGED
    folded = 16 + 12 + 12 + 12 - 2 * AVERAGES  # stem, norm3, up2, last
    assert count_params(network.graph) == network.manifest.params - 4 * 12 * 11 - folded


def test_cast_comes_first_then_transpose(networks):
    graph = networks.get().graph.graph
    readers = [n for n in graph.node if "image" in n.input]
    assert [n.op_type for n in readers] == ["Cast"]
    assert readers[0].attribute[0].i == TensorProto.FLOAT
    assert [n.op_type for n in graph.node if readers[0].output[0] in n.input] == ["Transpose"]


def test_normalisation_is_folded_where_it_can_be(networks):
    """Behind the stem's convolution stands no BatchNormalization."""
    nodes = networks.get().graph.graph.node
    (stem,) = (n for n in nodes if n.name == "encoder.stem.0")
    (after,) = (n for n in nodes if stem.output[0] in n.input)
    assert after.op_type == "PRelu"


def test_the_resize_is_pinned(networks):
    (resize,) = (n for n in networks.get().graph.graph.node if n.op_type == "Resize")
    found = {a.name: a for a in resize.attribute}
    assert found["coordinate_transformation_mode"].s == b"half_pixel"
    assert found["mode"].s == b"linear"


def test_names_come_from_the_weights(networks):
    names = [n.name for n in networks.get().graph.graph.node]
    assert len(set(names)) == len(names)
    assert {"encoder.stem.0", "encoder.stage3.2.branches.4", "classifier"} <= set(names)


# Half precision


def test_half_keeps_the_normalisation_in_fp32(networks):
    """1 / std may be subnormal in fp16: ESPNet's are 1 / 18,000."""
    network = networks.get()
    half = to_half(network.graph)
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    nodes = list(half.graph.node)
    front = []
    reached = {"image"}
    for node in nodes:
        if reached & set(node.input) and node.op_type in ("Cast", "Transpose", "Sub", "Mul"):
            if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
                break
            front.append(node)
            reached.update(node.output)
    assert [n.op_type for n in front] == ["Cast", "Transpose", "Sub", "Mul"]
    for node in front[2:]:
        (constant,) = (i for i in node.input if i in kinds)
        assert kinds[constant] == TensorProto.FLOAT
    for node in convolutions(half):
        assert kinds[node.input[1]] == TensorProto.FLOAT16
    assert describe(half.graph.input[0]) == describe(network.graph.graph.input[0])
    assert describe(half.graph.output[0]) == describe(network.graph.graph.output[0])


def test_half_casts_once_each_way(networks):
    half = to_half(networks.get().graph)
    casts = [n for n in half.graph.node if n.op_type == "Cast"]
    down = [n for n in casts if n.attribute[0].i == TensorProto.FLOAT16]
    assert len(down) <= 2
    producers = {o: n for n in half.graph.node for o in n.output}
    for cast in casts:
        before = producers.get(cast.input[0])
        assert before is None or before.op_type != "Cast"


def test_half_does_not_touch_the_float_graph(networks):
    before = networks.get().graph.SerializeToString()
    to_half(networks.get().graph)
    assert networks.get().graph.SerializeToString() == before


# What is left behind


def test_a_gate_that_fails_keeps_the_old_folder(networks, quantiser, tmp_path):
    out = written(networks.get(), "onnxruntime", "fp32", tmp_path / "out")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    tiny = {name: top / 1000 for name, top in quantiser.table.ranges.items()}
    broken = Quantiser(networks.get(), dataclasses.replace(quantiser.table, ranges=tiny))
    plan = Plan("onnxruntime", "int8", budget=Budget(0, 0), max_float_share=0)
    with pytest.raises(GateError):
        export_network(networks.get(), broken, plan, out, silent)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_old_engine_folder_is_replaced(networks, quantiser, tmp_path):
    out = written(networks.get(), "onnxruntime", "fp32", tmp_path / "out")
    written(networks.get(), "onnxruntime", "int8", out, quantiser)
    assert read_bundle(out).manifest.precision == "int8"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", EXPORTERS)
def test_interrupted_at_the_gate(networks, target, tmp_path, monkeypatch):
    """Ctrl-C after the engine was written and before its gate: nothing is left."""

    def interrupt(*_: object) -> None:
        assert any(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeseg.pipeline.gating.judge", interrupt)
    monkeypatch.setattr("edgeseg.pipeline.gating.label", lambda *_: np.empty(0, np.uint8))
    with pytest.raises(KeyboardInterrupt):
        written(networks.get(), target, "fp32", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Doors


def test_an_unknown_target():
    with pytest.raises(UsageError) as refused:
        find_exporter("openvivo")
    assert str(refused.value) == "unknown target 'openvivo'. Did you mean 'openvino'?"


def test_a_target_without_its_library(monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr("edgeseg.export.targets.importlib.import_module", missing)
    with pytest.raises(EngineError) as refused:
        find_exporter("openvino")
    assert str(refused.value) == (
        "target 'openvino' needs 'openvino'. Install it: pip install 'edgeseg[openvino]'"
    )


def test_a_graph_that_openvino_can_not_convert(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"openvino can't convert network\.onnx: "):
        find_exporter("openvino")(tmp_path / "network.onnx", tmp_path)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'. Did you mean 'int8'?"),
        ({"target": "onnxruntim"}, "unknown target 'onnxruntim'. Did you mean 'onnxruntime'?"),
        ({"max_float_share": 1.5}, "--max-float-share is 1.5; expected 0 to 1"),
    ],
)
def test_a_plan_is_checked(plan, said):
    with pytest.raises(UsageError) as refused:
        Plan(**({"target": "openvino", "precision": "int8"} | plan))
    assert str(refused.value).startswith(said)


def test_a_folder_with_other_things_is_not_replaced(networks, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(BundleError, match="is a folder with other things in it"):
        written(networks.get(), "onnxruntime", "fp32", tmp_path / "notes")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
