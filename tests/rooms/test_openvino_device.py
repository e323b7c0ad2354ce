"""OpenVINO on something else than the CPU: asked for, recorded, refused where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_folders import SIZE, openvino_folder, tiny_onnx

from edgeseg.bundle import Target, read_manifest
from edgeseg.cli import main
from edgeseg.errors import EngineError, UsageError
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.targets import find_target
from edgeseg.export.to_openvino import to_openvino
from edgeseg.runtime import engine_openvino as room
from edgeseg.runtime.engine import EngineOptions, open_engine

pytestmark = pytest.mark.rooms


class Core:
    """A Core of a machine with an Intel GPU and an NPU; keeps what it was asked to compile."""

    available_devices = ("CPU", "GPU.0", "NPU")

    def __init__(self) -> None:
        self.compiled: list[tuple[str, dict]] = []

    def get_property(self, device: str, name: str) -> object:
        return {"FULL_DEVICE_NAME": f"Intel {device}"}.get(name, ["FP32", "FP16"])

    def compile_model(self, path: str, device: str, settings: dict) -> object:
        self.compiled.append((device, settings))
        return object()


@pytest.fixture
def core(monkeypatch) -> Core:
    found = Core()
    monkeypatch.setattr(room, "shared_core", lambda: found)
    return found


def folder_for(tmp_path: Path, plugin: str | None, **changes: object):
    target = Target("openvino", "1", "Intel", plugin=plugin)
    return openvino_folder(tmp_path / "engine", target=target, **changes)


def test_a_gpu_computes_in_half_and_takes_no_threads(core: Core, tmp_path: Path):
    engine = open_engine("openvino", folder_for(tmp_path, "GPU", precision="int8"))
    assert core.compiled == [
        ("GPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"})
    ]
    assert (engine.device, engine.inference_precision) == ("Intel GPU", "f16")


def test_an_fp32_folder_stays_f32_on_a_gpu(core: Core, tmp_path: Path):
    engine = open_engine("openvino", folder_for(tmp_path, "GPU"))
    assert engine.inference_precision == "f32"


def test_an_npu_takes_neither_threads_nor_precision(core: Core, tmp_path: Path):
    bundle = folder_for(tmp_path, "NPU")
    engine = open_engine("openvino", bundle)
    assert core.compiled == [("NPU", {"PERFORMANCE_HINT": "LATENCY"})]
    assert engine.inference_precision == "f16"
    with pytest.raises(EngineError, match="an NPU computes in f16, not in f32"):
        open_engine("openvino", bundle, EngineOptions(inference_precision="f32"))


def test_the_cpu_is_asked_as_before(core: Core, tmp_path: Path):
    open_engine("openvino", folder_for(tmp_path, None), EngineOptions(threads=3))
    assert core.compiled == [
        (
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": 3,
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
    ]


def test_a_device_that_is_not_here_is_refused_by_name(core: Core, tmp_path: Path):
    core.available_devices = ("CPU",)
    with pytest.raises(EngineError) as refused:
        open_engine("openvino", folder_for(tmp_path, "GPU"))
    assert str(refused.value) == (
        "OpenVINO finds no GPU here, only CPU; an Intel GPU needs its driver (intel-opencl-icd), "
        "and you in the group 'render'. On the CPU it runs when exported with --device CPU"
    )
    with pytest.raises(EngineError, match="no NPU here, only CPU; an Intel NPU needs its driver"):
        room.check_device(core, "NPU")


def test_the_folder_says_what_runs_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("edgeseg.export.to_openvino.shared_core", Core)
    tiny_onnx(tmp_path / "g.onnx", SIZE)
    assert to_openvino(tmp_path / "g.onnx", tmp_path).target.plugin is None
    target = to_openvino(tmp_path / "g.onnx", tmp_path, "NPU").target
    assert (target.plugin, target.device) == ("NPU", "Intel NPU")


def test_inspect_names_recipe_and_device(tmp_path: Path, capsys):
    folder = folder_for(tmp_path, "GPU", recipe="intel-igpu").folder
    assert read_manifest(folder).target.plugin == "GPU"
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "openvino 1, for GPU, built on Intel" in said
    assert "recipe      of the board 'intel-igpu'" in said


def test_a_device_is_looked_for_before_the_long_work():
    with pytest.raises(EngineError, match="OpenVINO finds no NPU here"):
        find_target("openvino", "int8", BuildOptions(device="NPU"), print)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_other_targets_take_no_device(target: str):
    with pytest.raises(UsageError, match=f"--device is for openvino; target '{target}' takes none"):
        find_target(target, "int8", BuildOptions(device="GPU"), print)


def test_openvino_takes_no_workspace():
    with pytest.raises(UsageError, match="--workspace is for tensorrt and tensorrt-rtx; target"):
        find_target("openvino", "int8", BuildOptions(workspace_mib=9), print)
