"""`edgeseg build` on a board: a double of the system's TensorRT, numpy, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_folders import MANIFEST, expected, gate_frames
from tensorrt_doubles import Behaviour, double

from edgeseg.bundle import Gate, Target, read_bundle, write_bundle
from edgeseg.cli import main
from edgeseg.disk import writing_folder
from edgeseg.errors import BundleError, EngineError, GateError
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.gate import Budget, write_frames
from edgeseg.pipeline.build import build
from edgeseg.pipeline.plan import Building
from edgeseg.runtime.engine import ENGINES, Engine
from edgeseg.runtime.gpu import Gpu

pytestmark = pytest.mark.unit

GRAPH = b"an onnx graph"
NO_PYCUDA = (
    "running it needs 'pycuda', which is missing here: pip install pycuda (it is compiled: CUDA's "
    "nvcc must be on the PATH)"
)
PASSED = Gate("passed", 20, "noise", miou_float=90.0, miou_engine=89.5)


def silent(line: str) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a workstation wrote: a graph, and frames for its gate."""
    return exported(tmp_path / "exported")


def exported(folder: Path, precision: str = "fp16") -> Path:
    with writing_folder(folder) as aside:
        (aside / "network.onnx").write_bytes(GRAPH)
        write_frames(aside, gate_frames())
        target = Target("onnxruntime", "1.31", "CPU")
        changes = {
            "network_file": "network.onnx", "target": target, "gate": PASSED,
            "precision": precision, "history": ("export --target onnxruntime",),
        }  # fmt: skip
        write_bundle(aside, type(MANIFEST)(**{**MANIFEST.__dict__, **changes}))
    return folder


@pytest.fixture
def board(monkeypatch):
    """A function that puts a double of TensorRT on this machine, with an Orin."""

    def put(does: Behaviour | None = None, version: str = "10.3.0") -> Behaviour:
        does, found = does or Behaviour(), {"tensorrt": True}
        monkeypatch.setitem(sys.modules, "tensorrt", double(version, does))
        monkeypatch.delitem(sys.modules, "edgeseg.export.to_tensorrt", raising=False)
        monkeypatch.setattr("edgeseg.export.targets.has_gpu", lambda: True)
        monkeypatch.setattr("edgeseg.export.kernels.find_nvcc", lambda: None)
        monkeypatch.setattr("edgeseg.export.targets.importlib.util.find_spec", found.get)
        monkeypatch.setattr("edgeseg.runtime.gpu.find_gpu", lambda: Gpu("Orin", "8.7", "12.6"))
        monkeypatch.setattr("edgeseg.runtime.gpu.read_jetpack", lambda: "6.1 or 6.2 (L4T 36.4.3)")
        return does

    yield put
    sys.modules.pop("edgeseg.export.to_tensorrt", None)


def test_the_manifest_names_the_board(board, folder, tmp_path):
    does = board(Behaviour(plan=b"a plan", said=(("WARNING", "hm"),)))
    options = BuildOptions(workspace_mib=256, dla=1, timing_cache=tmp_path / "orin.cache")
    said: list[str] = []
    made = build(folder, Building(options=options), tmp_path / "out", said.append)
    assert made.folder == tmp_path / "out"
    assert ("pool", "WORKSPACE", 256 << 20) in does.calls
    assert ("DLA_core", 1) in does.calls
    manifest = read_bundle(tmp_path / "out").manifest
    assert (tmp_path / "out/network.plan").read_bytes() == b"a plan"  # pristine
    assert (tmp_path / "out/network.onnx").read_bytes() == GRAPH
    assert set(manifest.files) == {"network.plan", "network.onnx", "gate/frames.npz"}
    assert manifest.network_file == "network.plan"
    target = manifest.target
    assert target is not None
    assert (target.name, target.version, target.device) == ("tensorrt", "10.3.0", "Orin")
    record = target.build
    assert record is not None
    assert (record.cuda, record.compute_capability) == ("12.6", "8.7")
    assert record.jetpack == "6.1 or 6.2 (L4T 36.4.3)"
    assert (record.layers, record.warnings) == (5, 1)
    assert record.gpu_layers == {"RESIZE": 2, "PARAMETRIC_RELU": 1}
    assert record.options == {"workspace_mib": 256, "timing_cache": "orin.cache", "dla": 1}
    assert record.timing_cache_sha256 is not None
    assert manifest.history == ("export --target onnxruntime", "build --target tensorrt")
    assert said[0] == "TensorRT 10.3.0: warning: hm"


def test_kernels_are_in_the_folder_and_its_manifest(board, folder, tmp_path, monkeypatch):
    board()
    said: list[str] = []
    build(folder, Building(), tmp_path / "without", said.append)
    without = read_bundle(tmp_path / "without").manifest.target.build.kernels
    assert without.why.startswith("there was no nvcc to compile kernels with: JetPack's and ")
    assert f"frames and labels are left to the CPU: {without.why}" in said
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo V12.6.68; exit;; esac\n'
        'while test "$1" != -o; do shift; done; echo made > "$2"\n'
    )
    nvcc.chmod(0o755)
    monkeypatch.setattr("edgeseg.export.to_tensorrt.find_nvcc", lambda: str(nvcc))
    manifest = build(folder, Building(), tmp_path / "with", said.append).manifest
    made = manifest.target.build.kernels
    assert (made.capability, made.compiler, made.why) == ("8.7", "nvcc 12.6.68", "")
    assert made.file in manifest.files
    assert read_bundle(tmp_path / "with").path(made.file).read_text() == "made\n"


def test_a_gate_that_can_not_run_says_why(board, folder, tmp_path):
    board()
    made = build(folder, Building(), tmp_path / "out", silent)
    gate = made.manifest.gate
    assert gate is not None
    assert (gate.state, gate.frames, gate.source, gate.miou_engine) == (
        "not run",
        20,
        "noise",
        None,
    )
    assert gate.why == (
        f"{NO_PYCUDA}; its graph passed in onnxruntime 1.31: mIoU 89.50 against 90.00 in float"
    )


class Brightest(Engine):
    """Says of each image what the tiny network says; `wrong` of it is off by one class."""

    version, device, inference_precision, threads = "10.3.0", "Orin", "f16", 1
    wrong = 0.0

    def __init__(self, bundle, options) -> None:
        assert bundle.network.name == "network.plan"

    def infer(self, images: np.ndarray) -> np.ndarray:
        labels = expected(images)
        rows = round(labels.shape[1] * self.wrong)
        labels[:, :rows] = (labels[:, :rows] + 1) % 3
        return labels


@pytest.fixture
def runnable(monkeypatch):
    """As if PyCUDA were here, and a network ran on the GPU."""
    monkeypatch.setattr("edgeseg.pipeline.build.why_ungated", lambda target: "")
    monkeypatch.setitem(ENGINES, "tensorrt", f"{__name__}:Brightest")


@pytest.mark.usefixtures("runnable")
def test_the_gate_runs_where_an_engine_can(board, folder, tmp_path, monkeypatch):
    board()
    made = build(folder, Building(), tmp_path / "out", silent)
    gate = made.manifest.gate
    assert gate is not None
    assert (gate.state, gate.agreement, gate.why) == ("passed", 100.0, "")
    monkeypatch.setattr(Brightest, "wrong", 0.25)
    with pytest.raises(GateError) as refused:
        build(folder, Building(), tmp_path / "worse", silent)
    assert str(refused.value).startswith("gate failed: mIoU 60.")
    assert "Nothing was written. Export again with more layers in float" in str(refused.value)
    assert not (tmp_path / "worse").exists()
    lenient = Building(budget=Budget(miou=50, per_class=50))
    assert build(folder, lenient, tmp_path / "worse", silent).manifest.gate.state == "passed"


def test_a_build_that_fails_leaves_nothing(board, folder, tmp_path):
    board(Behaviour(plan=None, said=(("ERROR", "out of memory"),)))
    with pytest.raises(EngineError, match=r"can't build network\.onnx: out of memory"):
        build(folder, Building(), tmp_path / "out", silent)
    assert [p.name for p in tmp_path.iterdir()] == ["exported"]


def test_a_folder_is_built_again_in_its_place(board, folder, tmp_path):
    board(Behaviour(plan=b"old"))
    build(folder, Building(), tmp_path / "out", silent)
    board(Behaviour(plan=b"new"), version="11.4.1")
    made = build(tmp_path / "out", Building(), tmp_path / "out", silent)
    assert made.manifest.target.version == "11.4.1"
    assert (tmp_path / "out/network.plan").read_bytes() == b"new"
    assert read_bundle(tmp_path / "out").manifest == made.manifest


def test_a_tampered_folder_is_not_built(board, folder, tmp_path):
    board()
    (folder / "network.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"'network\.onnx' was changed after export"):
        build(folder, Building(), tmp_path / "out", silent)


def test_the_verb(board, folder, tmp_path, capsys):
    board()
    line = ["build", str(folder), "--dla", "0", "--pin-cache", "0" * 64]
    assert main(line) == 2
    assert "--pin-cache pins a timing cache: give --timing-cache FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["build", str(folder), "--dla", "one"])
    assert "'one' is no number of a DLA core (0, 1)" in capsys.readouterr().err
    assert main(["build", str(folder), "--dla", "0"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(
        f"{tmp_path}/exported-tensorrt: brightest, tensorrt fp16, gate not run\n"
        "built by tensorrt 10.3.0 in "
    )
    assert "s: 5 layers (a DLA takes 2), 0 warnings; for Orin\n" in told.out
    assert f"gate not run: {NO_PYCUDA}" in told.err
    assert main(["inspect", f"{tmp_path}/exported-tensorrt"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "tensorrt 10.3.0, for Orin; built in ",
        "CUDA 12.6, compute capability 8.7, JetPack 6.1 or 6.2 (L4T 36.4.3), 5 layers, ",
        "of which the DLA leaves to the GPU: 2 RESIZE, 1 PARAMETRIC_RELU, 0 warnings, dla 0, "
        "no kernels: there was no nvcc to compile kernels with: JetPack's",
    ):
        assert part in shown


ALONE = """
import sys
sys.path[:0] = [{tests!r}]

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from importlib.machinery import ModuleSpec
from tensorrt_doubles import Behaviour, double
sys.modules["tensorrt"] = double("10.3.0", Behaviour())
sys.modules["tensorrt"].__spec__ = ModuleSpec("tensorrt", None)
import edgeseg.export.targets as targets
targets.has_gpu = lambda: True
from edgeseg.cli import main
sys.exit(main(["build", {folder!r}, "--json", "-"]))
"""


def test_a_board_needs_numpy_and_tensorrt_alone(folder):
    blocked = (
        "PIL", "av", "fvcore", "matplotlib", "onnx", "onnxruntime", "onnxscript", "onnxslim",
        "openvino", "safetensors", "tensorboard", "tensorrt_rtx", "torch",
    )  # fmt: skip
    tests = str(Path(__file__).parents[1])
    code = ALONE.format(tests=tests, blocked=blocked, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "tensorrt"
