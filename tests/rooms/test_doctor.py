"""`edgeseg doctor` and `edgeseg inspect`: what is here, what is missing, what a folder holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from engine_folders import fake_folder, onnxruntime_folder

from edgeseg.bundle import Gate, InputSpec, ModelSpec, OutputSpec, Quantisation, WeightsSpec
from edgeseg.cli import doctor, main
from edgeseg.pipeline import model
from edgeseg.runtime import preflight
from edgeseg.runtime.engine import ENGINES, NEEDS
from edgeseg.runtime.preflight import PARTS, STATES, Part, examine, import_apart

pytestmark = pytest.mark.rooms


def fine(module: str) -> str:
    return ""


# Parts


def test_a_part_that_is_ready():
    found = examine(Part("onnxruntime", "engine", ("onnxruntime",), "onnxruntime"), fine)
    assert found.state == "ready"
    assert set(found.versions) == {"onnxruntime"}
    assert found.versions["onnxruntime"][0].isdigit()
    assert found.advice == ""


def test_a_part_that_is_missing_says_what_to_type():
    found = examine(Part("video", "edgeseg run", ("json", "no_such_module"), "video"), fine)
    assert found.state == "missing"
    assert found.why == "no no_such_module"
    assert found.advice == "pip install 'edgeseg[video]'"


def test_tensorrt_comes_from_no_extra():
    found = examine(Part("tensorrt", "engine", ("no_such_module",)), fine)
    assert "no edgeseg extra brings it" in found.advice


def test_a_part_that_breaks_on_import_says_why():
    found = examine(Part("x", "engine", ("json",), "x"), lambda m: "libfoo.so.1: cannot open")
    assert found.state == "broken"
    assert found.why == "json: libfoo.so.1: cannot open"
    assert found.advice == "install it again: pip install 'edgeseg[x]'"


def test_a_gpu_part_without_a_gpu():
    part = Part("tensorrt", "engine", ("json",), gpu=True)
    assert examine(part, fine, gpu=lambda: False).state == "no GPU"


def test_an_engine_that_edgeseg_does_not_have():
    part = Part("abacus", "engine", ("json",), gpu=True)
    assert examine(part, fine, gpu=lambda: True).state == "no engine"


def test_every_engine_is_examined_and_told_alike():
    for name in set(ENGINES) - {"fake"}:
        (part,) = [p for p in PARTS if p.name == name]
        module, install = NEEDS[name]
        assert part.modules[0] == module
        assert part.install == install
    assert {"tensorrt", "tensorrt-rtx", "video", "export"} <= {p.name for p in PARTS}


def test_importing_apart(tmp_path: Path, monkeypatch):
    (tmp_path / "good.py").write_text("")
    (tmp_path / "bad.py").write_text("raise ImportError('libcuda.so.1: cannot open')")
    (tmp_path / "crash.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_apart("good") == ""
    assert import_apart("bad") == "ImportError: libcuda.so.1: cannot open"
    assert "crashed with signal 6" in import_apart("crash")


def test_importing_that_never_ends(tmp_path: Path, monkeypatch):
    (tmp_path / "sleepy.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(preflight, "IMPORT_SECONDS", 0.3)
    assert import_apart("sleepy") == "took more than 0.3 s"


# The verb


@pytest.fixture
def quick(monkeypatch):
    """Imports are not tried again for each test of the verb."""
    monkeypatch.setattr(doctor, "import_apart", fine)


@pytest.mark.usefixtures("quick")
def test_doctor_lists_every_part(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for part in PARTS:
        assert f"\n{part.name} " in shown
    assert "cores" in shown
    assert "GiB of memory" in shown
    assert "\ndecode: n" in shown  # native or numpy: tests/unit/test_decode_native.py
    assert "\npreparation: n" in shown  # tests/unit/test_prepare_native.py
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in shown


@pytest.mark.usefixtures("quick")
def test_doctor_json(tmp_path: Path):
    assert main(["doctor", "--json", str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert {p["name"] for p in content["parts"]} == {p.name for p in PARTS}
    assert {p["state"] for p in content["parts"]} <= set(STATES)
    assert content["machine"]["cpu"]
    assert content["decode"]["by"] in ("avx512", "avx2", "neon", "c", "numpy")
    assert content["prepare"]["by"] in ("avx2", "neon", "c", "numpy")
    assert content["folder"] is None


@pytest.mark.usefixtures("quick")
def test_a_folder_that_runs_here(tmp_path: Path, capsys):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    assert main(["doctor", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{folder}: runs here" in shown
    assert "opened in" in shown
    assert "\n  frames are prepared by n" in shown
    assert "; decode: in the graph\n" in shown
    assert "note: built and gated with onnxruntime 1, this machine has 1." in shown


@pytest.mark.usefixtures("quick")
def test_a_folder_that_is_tampered_with(tmp_path: Path, capsys):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    (folder / "network.onnx").write_bytes(b"other")
    assert main(["doctor", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "does not run here" in shown
    assert "was changed after export" in shown


@pytest.mark.usefixtures("quick")
def test_a_folder_whose_engine_is_missing(tmp_path: Path, capsys, monkeypatch):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "edgeseg.runtime.engine_onnxruntime", raising=False)
    trial = preflight.try_folder(folder)
    assert not trial.runs
    assert "Install it: pip install 'edgeseg[onnxruntime]'" in trial.why


@pytest.mark.usefixtures("quick")
def test_a_folder_without_engine(tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", target=None).folder
    assert main(["doctor", str(folder)]) == 2
    assert "is a model without an engine" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_an_ungated_folder_opens_and_is_refused(tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", gate=None).folder
    assert main(["doctor", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "its accuracy gate is 'not run', so edgeseg.load refuses it" in shown


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_is_run_by_torch(tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", kind="checkpoint", gate=None).folder
    assert main(["doctor", str(folder)]) == 0
    assert "note: it is a checkpoint, run by torch" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_no_folder_at_all(tmp_path: Path, capsys):
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert "no such model folder" in capsys.readouterr().out


def test_what_the_cpu_is_good_for():
    here = {
        "board": "Orin", "os": "Linux", "architecture": "aarch64", "python": "3.10.1",
        "cpu": "Cortex", "cores": 6, "quota": 2.5, "memory_gib": 8, "features": ["neon", "dotprod"],
    }  # fmt: skip
    shown = doctor.describe_machine(here)
    assert shown.splitlines() == [
        "Orin, aarch64, Python 3.10.1",
        "Cortex, 6 cores, of which 2.5 may be used, 8 GiB of memory",
        "features: neon, dotprod",
        "INT8: fast, the CPU has dotprod",
        "bf16: no help from this CPU",
        "fp16: no help from this CPU",
    ]


# inspect


def test_inspect_tells_all_of_the_manifest(tmp_path: Path, capsys):
    folder = onnxruntime_folder(
        tmp_path / "engine",
        model=ModelSpec("espnet", {"q": 8}),
        input=InputSpec("bgr", (110.25, 108.0, 105.0), (72.0, 73.5, 70.0), "pad", (110, 108, 105),
                        (8, 16)),
        output=OutputSpec("scores", 8, "bilinear", 8),
        precision="int8",
        quantisation=Quantisation("percentile", "symmetric", 60, "f" * 64, "n" * 64, "camvid:x",
                                  ("conv_a", "conv_b"), 61),
        gate=Gate("passed", 25, "camvid:x", "truth", 99.125, 99.75, 57.0, 56.8, "pole",
                  1.5, 0.5, 3.0),
        params=364123,
        macs=4_100_000_000,
        uncounted={"Resize": 2},
        weights=WeightsSpec("CamVid train", "MIT", "sacmehta/ESPNet"),
        history=("convert", "export"),
    ).folder  # fmt: skip
    assert main(["inspect", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "espnet (q 8), network",
        "3 of rgb3: red, green, blue",
        "8x16, BGR, uint8, batch 1; fit pad [110, 108, 105]",
        "mean [110.25, 108, 105], std [72, 73.5, 70]",
        "scores at 1/8 of the input, decoded by bilinear x8 and argmax",
        "int8 by percentile, symmetric, from 60 frames of camvid:x",
        "2 of 61 convolutions in float: conv_a, conv_b",
        "onnxruntime 1, built on CPU",
        "passed on 25 frames of camvid:x; 99.12 % of the labels agree; 99.75 % away from class",
        "mIoU 57.00 -> 56.80 (may lose 0.5) against truth; worst class: pole, -1.50 IoU",
        "params 364,123, MACs 4.100 G; not counted: 2 Resize",
        "CamVid train; licence MIT from sacmehta/ESPNet",
        "history convert export files network.onnx",
        "KiB ok",
    ):
        assert words in shown


def test_inspect_of_a_bare_folder(tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", target=None, gate=None).folder
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "foreign network" in shown
    assert "labels at full size" in shown
    assert "none; 'edgeseg export' builds one" in shown
    assert "not run" in shown
    assert "params unknown, MACs unknown" in shown


def test_inspect_finds_what_was_changed(tmp_path: Path, capsys):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    (folder / "network.onnx").write_bytes(b"other")
    (folder / "notes.txt").write_text("mine")
    assert main(["inspect", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "changed" in shown
    assert "notes.txt" in shown
    assert "not in the manifest" in shown
    assert "This folder is damaged: copy or export it again" in shown
    (folder / "network.onnx").unlink()
    assert main(["inspect", str(folder)]) == 2
    assert "missing" in capsys.readouterr().out


def test_inspect_json(tmp_path: Path, capsys):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    assert main(["inspect", str(folder), "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["whole"] is True
    assert content["target"]["name"] == "onnxruntime"
    (file,) = content["files"]
    size = (folder / "network.onnx").stat().st_size
    assert file == {"name": "network.onnx", "bytes": size, "state": "ok"}


def test_inspect_of_nothing(tmp_path: Path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is no model folder: it has no manifest.json" in capsys.readouterr().err


def test_inspect_takes_shipped_names(tmp_path: Path, monkeypatch, capsys):
    folder = fake_folder(tmp_path / "model").folder
    monkeypatch.setattr(model, "shipped", lambda: {"brightest_net": folder})
    assert main(["inspect", "brightest_net"]) == 0
    assert "rgb3" in capsys.readouterr().out


def test_inspect_of_a_file_or_a_name_without_weights_is_one_line(tmp_path: Path, capsys):
    (tmp_path / "net.onnx").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "net.onnx")]) == 2
    assert "is a file; FOLDER is a folder made by 'edgeseg convert'" in capsys.readouterr().err
    assert main(["inspect", "espnetc_q8"]) == 2
    assert "no weights are shipped for 'espnetc_q8'" in capsys.readouterr().err
