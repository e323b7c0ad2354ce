"""TensorRT for RTX parses and builds our graphs here, without a GPU; what it can't do is said.

The fixed subset of each run comes first; tests/chain/test_every_plan.py has the rest.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx
from engine_folders import onnxruntime_folder
from networks import camvid, silent
from onnx import TensorProto, helper, numpy_helper
from rtx_graphs import at_size, half, int8, io_of, shared_graph

import edgeseg
from edgeseg.bundle import read_bundle, read_manifest
from edgeseg.cli import main
from edgeseg.errors import BundleError, EngineError, GateError, GraphError, UsageError
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.gate import Budget
from edgeseg.export.targets import _check_board, find_builder, find_exporter, find_target
from edgeseg.export.tensorrt_build import Plan as Built
from edgeseg.export.tensorrt_build import build_plan
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.placement_lists import FAMILIES
from edgeseg.pipeline.plan import Building, Plan
from edgeseg.pipeline.quantise import Quantiser
from edgeseg.runtime import preflight

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread", "no_gpu")]

PLAIN = BuildOptions()
RTX = f"TensorRT-RTX {tensorrt_rtx.__version__}"
NO_GPU = "it runs on an NVIDIA GPU, and this machine has none"


@pytest.fixture
def no_gpu(monkeypatch):
    """As on a machine without one, wherever the tests run."""
    monkeypatch.setattr("edgeseg.export.targets.has_gpu", lambda: False)


def built(model: onnx.ModelProto, folder: Path, precision: str = "fp32", say=silent) -> Built:
    onnx.save(model, folder / "network.onnx")
    graph = folder / "network.onnx"
    return build_plan(tensorrt_rtx, "tensorrt-rtx", graph, precision, PLAIN, say)


# The subset


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_builds_in_int8(family, tmp_path):
    said: list[str] = []
    plan = built(int8(shared_graph(family)), tmp_path, "int8", said.append)
    assert len(plan.data) > 500_000
    assert plan.layers > 300
    assert (plan.warnings, said) == (0, [])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floats_build(precision, tmp_path):
    graph = shared_graph("espnet")
    plan = built(graph if precision == "fp32" else half(graph), tmp_path, precision)
    assert len(plan.data) > 500_000
    assert plan.warnings == 0


@pytest.mark.parametrize("size", [(256, 512), (512, 1024)])
def test_both_sizes_build(size, tmp_path):
    graph = at_size(int8(shared_graph("espnet")), size)
    plan = built(graph, tmp_path, "int8")
    assert len(plan.data) > 500_000
    assert io_of(tmp_path / "network.onnx") == [
        ("image", "UINT8", (1, *size, 3)),
        ("labels", "UINT8", (1, *size)),
    ]


# Bad graphs


def graph_of(nodes, constants=(), domains=(), shape=None) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 16, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "bad", [image], [y], list(constants))
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    return model


CAST = helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT)


def quantised(zero: np.ndarray) -> onnx.ModelProto:
    constants = (numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(zero, "z"))
    nodes = [
        CAST,
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"], name="my/q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="my/dq"),
    ]
    return graph_of(nodes, constants)


BAD = {
    "a foreign operator": (
        graph_of([CAST, helper.make_node("Fancy", ["f"], ["y"], "my/fancy", domain="mine")],
                 domains=("mine",)),
        "operator Fancy of node 'my/fancy': ",
    ),
    "an operator that it does not have": (
        graph_of([CAST, helper.make_node("Det", ["f"], ["y"], "my/det")]),
        "operator Det of node 'my/det'. Leave that operator out of the model, or take another",
    ),
    "uint8 before anything but a Cast": (
        graph_of([helper.make_node("Transpose", ["image"], ["t"], "first", perm=[0, 3, 1, 2]),
                  helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT)]),
        "operator Transpose of node 'first': Invalid Node - first",
    ),
    "a zero point": (
        quantised(np.array(3, np.int8)),
        "operator QuantizeLinear of node 'my/q': ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_operator_is_refused_by_name(bad, tmp_path):
    model, said = BAD[bad]
    with pytest.raises(GraphError) as refused:
        built(model, tmp_path)
    assert str(refused.value).startswith(f"{RTX} refuses network.onnx: {said}")


def test_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"no graph")
    with pytest.raises(GraphError, match=r"refuses network\.onnx: "):
        find_builder("tensorrt-rtx")(tmp_path / "network.onnx", tmp_path, "fp32", PLAIN, silent)
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]


def test_its_warnings_are_shown_and_counted(tmp_path):
    said: list[str] = []
    plan = built(quantised(np.array(0, np.uint8)), tmp_path, say=said.append)
    assert plan.warnings == 2
    (line,) = said
    assert line.startswith(f"{RTX}: warning: ")
    assert "UINT8" in line
    assert line.endswith("(2 times)")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"dla": 0}, "--dla"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"timing_cache": Path("x")}, "--timing-cache"),
        ({"hardware_compatible": "ampere+"}, "--hardware-compatible"),
        ({"memory_mib": 1}, "--build-memory"),
    ],
)
def test_what_it_does_not_take(options, flag, tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"")
    asked = BuildOptions(**options)
    with pytest.raises(EngineError) as refused:
        find_builder("tensorrt-rtx")(tmp_path / "network.onnx", tmp_path, "fp32", asked, silent)
    assert str(refused.value) == f"{RTX} takes no {flag}; leave it away"


# Folders


@pytest.fixture(scope="module")
def folders(networks, quantiser, tmp_path_factory):
    """Engine folders of the tiny network, by precision; what was said of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeseg.export.targets.has_gpu", lambda: False)
        root = tmp_path_factory.mktemp("rtx")
        made = {}
        for precision in ("fp16", "int8"):
            said: list[str] = []
            plan = Plan(
                "tensorrt-rtx", precision, budget=Budget(100, 100), options=BuildOptions(64)
            )
            ranges = quantiser if precision == "int8" else None
            export_network(networks.get(), ranges, plan, root / precision, said.append)
            made[precision] = root / precision, said
        assert sorted(p.name for p in root.iterdir()) == ["fp16", "int8"]
        return made


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_manifest_says_that_the_gate_was_not_run_and_why(folders, precision):
    folder, said = folders[precision]
    manifest = read_bundle(folder).manifest
    assert (manifest.precision, manifest.network_file) == (precision, "network.plan")
    assert {"network.plan", "network.onnx", "gate/frames.npz"} == set(manifest.files)
    target = manifest.target
    assert target is not None
    assert (target.name, target.version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert target.device == "any RTX GPU from Ampere on (compute capability 8.0 or later)"
    assert target.build is not None
    assert target.build.layers > 50
    assert target.build.warnings == 0
    assert target.build.options == {"workspace_mib": 64}
    assert (target.build.cuda, target.build.jetpack, target.build.gpu_layers) == (None,) * 3
    gate = manifest.gate
    assert gate is not None
    assert (gate.state, gate.frames, gate.source) == ("not run", 20, "blobs train")
    assert gate.miou_engine is None
    assert gate.why.startswith(f"{NO_GPU}; its graph passed in onnxruntime ")
    assert manifest.history[-2:] == (
        f"export --target onnxruntime --precision {precision}",
        "build --target tensorrt-rtx",
    )
    assert (manifest.quantisation is not None) == (precision == "int8")
    assert said[0] == f"tensorrt-rtx: {NO_GPU}; its graph is gated in onnxruntime instead"
    assert said[-1] == f"gate not run: {gate.why}"


def test_such_a_folder_is_refused(folders, capsys, tmp_path):
    folder = folders["int8"][0]
    with pytest.raises(BundleError) as refused:
        edgeseg.load(folder, frames="rgb")
    assert f"{folder}: gate: not run ({NO_GPU}; its graph passed" in str(refused.value)
    assert str(refused.value).endswith("or load with allow_ungated=True (--allow-ungated)")
    data = f"camvid:{camvid(tmp_path / 'camvid', train=1, val=1)}"
    for line in (
        ["eval", folder, "--data", data],
        ["run", folder, "--source", tmp_path / "camvid/val"],
        ["bench", folder, "--data", data, "--out", tmp_path / "bench"],
    ):
        assert main([str(word) for word in line]) in (1, 2)
        told = capsys.readouterr()
        assert "gate: not run" in told.err + told.out, line


def test_even_ungated_no_engine_runs_it_here(folders, capsys):
    folder = folders["int8"][0]
    with pytest.raises(EngineError) as refused:
        edgeseg.load(folder, frames="rgb", allow_ungated=True)
    assert "engine 'tensorrt-rtx' needs " in str(refused.value)
    trial = preflight.try_folder(folder)
    assert not trial.runs
    assert "no NVIDIA driver was found" in trial.why
    assert main(["inspect", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"gate not run: {NO_GPU}; its graph passed" in shown
    assert "for any RTX GPU from Ampere on (compute capability 8.0 or later); built in" in shown


def test_the_graph_must_pass_its_gate_all_the_same(networks, quantiser, tmp_path):
    tiny = {name: top / 1000 for name, top in quantiser.table.ranges.items()}
    broken = Quantiser(networks.get(), dataclasses.replace(quantiser.table, ranges=tiny))
    plan = Plan("tensorrt-rtx", "int8", budget=Budget(0, 0), max_float_share=0)
    with pytest.raises(GateError, match=r"^gate failed: mIoU "):
        export_network(networks.get(), broken, plan, tmp_path / "out", silent)
    assert list(tmp_path.iterdir()) == []


def test_scores_take_their_decode_along(networks, tmp_path):
    network = networks.get("espnet_q3", scores=True)
    plan = Plan("tensorrt-rtx", "fp32", budget=Budget(100, 100))
    export_network(network, None, plan, tmp_path / "out", silent)
    manifest = read_bundle(tmp_path / "out").manifest
    assert manifest.output.kind == "scores"
    assert "decode.npz" in manifest.files


# The verb


def test_build_makes_a_plan_of_a_folder(tmp_path, capsys):
    onnxruntime_folder(tmp_path / "tiny", with_frames=True)
    line = ["build", str(tmp_path / "tiny"), "--target", "tensorrt-rtx", "--json", "-"]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(tmp_path / "tiny-tensorrt-rtx")
    assert (told["target"], told["gate"]["state"]) == ("tensorrt-rtx", "not run")
    assert told["gate"]["why"] == NO_GPU  # the tiny folder's gate has no mIoU to tell
    assert told["build"]["layers"] >= 4
    made = read_manifest(tmp_path / "tiny-tensorrt-rtx")
    assert made.history == ("build --target tensorrt-rtx",)
    assert main(["build", str(tmp_path / "tiny-tensorrt-rtx"), *line[2:4], "--out",
                 str(tmp_path / "tiny-tensorrt-rtx")]) == 0  # fmt: skip
    assert "gate not run\nbuilt by tensorrt-rtx" in capsys.readouterr().out
    assert len(read_manifest(tmp_path / "tiny-tensorrt-rtx").history) == 2


def test_build_needs_a_graph_and_frames(tmp_path, capsys):
    onnxruntime_folder(tmp_path / "tiny")
    assert main(["build", str(tmp_path / "tiny"), "--target", "tensorrt-rtx"]) == 2
    said = capsys.readouterr().err
    assert "tiny holds no gate/frames.npz; 'edgeseg build' takes a folder made by " in said
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_what_needs_no_build():
    with pytest.raises(UsageError, match=r"^target 'openvino' needs no build: its folder runs"):
        Building("openvino")
    with pytest.raises(UsageError, match=r"^unknown target 'tensort'\. Did you mean 'tensorrt'\?"):
        Building("tensort")


# Without TensorRT


def test_tensorrt_says_what_is_missing_here(tmp_path, capsys):
    line = ["export", "espnet_q3", "--target", "tensorrt", "--out", str(tmp_path / "out")]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert said == (
        "edgeseg: target 'tensorrt' builds for the GPU that it builds on; this machine lacks the "
        "Python module 'tensorrt' (JetPack or NVIDIA's apt repository brings it) and an NVIDIA "
        "GPU with its driver. Type here 'edgeseg export MODEL --target onnxruntime --out FOLDER', "
        "copy FOLDER to the board, and type there 'edgeseg build FOLDER'. For RTX cards, "
        "--target tensorrt-rtx needs no GPU\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_missing_is_named():
    with pytest.raises(EngineError, match=r"this machine lacks an NVIDIA GPU with its driver\. "):
        _check_board(has_library=True, has_gpu=False)
    with pytest.raises(EngineError, match=r"lacks the Python module 'tensorrt' \(Jet[^)]*\)\. "):
        _check_board(has_library=False, has_gpu=True)
    _check_board(has_library=True, has_gpu=True)
    with pytest.raises(
        EngineError, match=r"\. Copy runs/m to the board, and .*'edgeseg build m'\."
    ):
        _check_board(has_library=False, has_gpu=False, source=Path("runs/m"))


def test_what_the_release_does_not_take_is_refused_before_the_long_work():
    with pytest.raises(EngineError, match=r"^TensorRT-RTX [\d.]+ takes no --dla; leave it away$"):
        find_target("tensorrt-rtx", "int8", BuildOptions(dla=0), silent)
    assert callable(find_target("tensorrt-rtx", "int8", BuildOptions(workspace_mib=64), silent))


def test_options_are_for_tensorrt(tmp_path, capsys):
    with pytest.raises(UsageError) as refused:
        find_target("openvino", "int8", BuildOptions(dla=0), silent)
    assert str(refused.value) == (
        "--dla is for tensorrt and tensorrt-rtx; target 'openvino' takes none"
    )
    assert find_target("openvino", "int8", PLAIN, silent) is find_exporter("openvino")
    line = ["export", "espnet_q3", "--target", "onnxruntime", "--out", str(tmp_path / "out")]
    assert main([*line, "--workspace", "64"]) == 2
    assert "--workspace is for tensorrt and tensorrt-rtx" in capsys.readouterr().err


def test_a_library_that_can_not_be_loaded(monkeypatch):
    def broken(name: str) -> None:
        raise ImportError("libcudart.so.13: cannot open")

    monkeypatch.setattr("edgeseg.export.targets.importlib.import_module", broken)
    with pytest.raises(EngineError) as refused:
        find_builder("tensorrt-rtx")
    assert str(refused.value) == (
        "target 'tensorrt-rtx': 'tensorrt_rtx' is installed but can't be loaded "
        "(libcudart.so.13: cannot open); 'edgeseg doctor' examines it"
    )


def test_doctor_finds_the_library(monkeypatch):
    (part,) = [p for p in preflight.PARTS if p.name == "tensorrt-rtx"]
    found = preflight.examine(part, lambda module: "", gpu=lambda: False)
    assert (found.state, found.versions["tensorrt_rtx"]) == ("no GPU", tensorrt_rtx.__version__)
