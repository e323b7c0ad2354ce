"""`edgeseg doctor` on recorded boards, and why a folder would not load there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from engine_folders import MANIFEST, fake_folder, onnxruntime_folder
from recorded_boards import board_tree

from edgeseg.bundle import BuildRecord, Manifest, Target
from edgeseg.cli import doctor, main
from edgeseg.runtime import preflight
from edgeseg.runtime.board import Board, read_board
from edgeseg.runtime.gpu import Gpu
from edgeseg.runtime.obstacles import Here, obstacles
from edgeseg.runtime.preflight import PARTS, examine, installed, look_around
from edgeseg.runtime.sensors import Sensors

pytestmark = pytest.mark.rooms

ORIN = Gpu("Orin", "8.7", "12.6")
RECORD = BuildRecord(60.0, 100, 0, compute_capability="8.7")


def board_of(name: str, root: Path, **changes: str) -> Board:
    board = read_board(board_tree(name, root, **changes))
    assert board is not None
    return board


def shown(name: str, root: Path) -> list[str]:
    board = board_of(name, root)
    return doctor.describe_board(board, Sensors(root)).splitlines()


def test_an_orin_nano(tmp_path: Path):
    assert shown("orin_nano", tmp_path) == [
        "JetPack 6.2.1 (L4T 36.4.4): supported",
        "TensorRT 10.3.0.30, CUDA 12.6, GPU Ampere (Orin), compute capability 8.7",
        "memory 7,619 MiB, 5,120 available; swap 3,809 MiB, 3,809 free (zram0, zram1)",
        "power mode 2 MAXN_SUPER, of 0 15W, 1 25W, 2 MAXN_SUPER, 3 7W",
        "clocks: cpu0 1344 of 730 to 1728 MHz, cpu4 730 of 730 to 1728 MHz, gpu 612 of 306 to 1020 "
        "MHz, emc 2133 of 204 to 3199 MHz",
        "  they move with the load: 'sudo jetson_clocks' before you measure",
        "memory (emc): busy in 25 % of its clocks",
        "temperatures: cpu 50, gpu 50, tj 51, soc0 48 °C",
        "fan: 40 %, 2140 rpm",
        "power: 8.0 W: VDD_IN 8.0, VDD_CPU_GPU_CV 2.0, VDD_SOC 1.5",
        "throttling: none now; since boot: 37 instantaneous over-current (oc3)",
        "recipe: edgeseg export --board orin-nano",
    ]


def test_an_agx_orin(tmp_path: Path):
    lines = shown("agx_orin", tmp_path)
    assert "memory 62,783 MiB, 58,594 available; no swap" in lines
    assert "clocks: cpu0 2202 MHz locked, gpu 1300 MHz locked" in lines
    assert "  the memory's clock and use (emc) are shown to root only: sudo" in lines
    assert not any("jetson_clocks" in line for line in lines)
    assert "throttling: gpu-throttle-alert (state 1)" in lines


def test_a_thor(tmp_path: Path):
    lines = shown("thor", tmp_path)
    assert lines[0] == "JetPack 7.2 (L4T 39.2.1): supported"
    assert "power: 25.0 W: VIN 31.5, VDD_GPU 7.2, VDD_CPU_SOC_MSS 10.8, VIN_SYS_5V0 7.0" in lines
    assert "throttling: devfreq-gpu-gpc-0 (state 18)" in lines


def test_a_board_that_tells_little(tmp_path: Path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 3.0\n")
    board = read_board(tmp_path)
    assert board is not None
    assert doctor.describe_board(board, Sensors(tmp_path)).splitlines() == [
        "JetPack 6.0 (L4T 36.3.0): supported",
        "TensorRT is not installed, CUDA not found, GPU unknown, compute capability unknown",
        "memory unknown; no swap",
        "power mode unknown",
    ]


@pytest.fixture
def on_board(monkeypatch, tmp_path):
    """The verb sees a recorded board as its machine."""
    monkeypatch.setattr(doctor, "import_apart", lambda module: "")

    def put(name: str, **changes: str) -> Path:
        root = board_tree(name, tmp_path / "root", **changes)
        monkeypatch.setattr(doctor, "read_board", lambda: read_board(root))
        monkeypatch.setattr(doctor, "Sensors", lambda: Sensors(root))
        monkeypatch.setattr(preflight, "read_board", lambda _: read_board(root))
        return root

    return put


def test_the_verb_shows_the_board(on_board, tmp_path: Path, capsys):
    on_board("orin_nano")
    assert main(["doctor", "--json", str(tmp_path / "out.json")]) == 0
    assert "\nJetPack 6.2.1 (L4T 36.4.4): supported\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["board"]["compute_capability"] == "8.7"
    assert content["sensors"]["total_w"] == 8
    assert content["sensors"]["allowed_mhz"]["gpu"] == {"low": 306, "high": 1020}


def test_jetpack_5_is_refused(on_board, capsys):
    on_board("agx_orin", **{"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1\n"})
    assert main(["doctor"]) == 2
    said = capsys.readouterr().out
    assert "(L4T 35.4.1): not supported" in said
    assert "JetPack 5 (L4T 35.4.1) is not supported: it has Python 3.8" in said


def test_a_folder_for_the_cpu_is_noted_on_a_board(on_board, tmp_path: Path, capsys):
    on_board("orin_nano")
    folder = onnxruntime_folder(tmp_path / "engine").folder
    assert main(["doctor", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"note: it runs on the board's CPU; 'edgeseg build {folder}' makes an engine" in said


# Folders


def plan_folder(tmp_path: Path, **changes: object) -> tuple[Path, Manifest]:
    """A folder that holds a plan (of a few bytes) and its graph."""
    target = Target("tensorrt", "10.3.0", "Orin", RECORD)
    fields = {"target": target, "files": {"network.onnx": "0"}, **changes}
    folder = fake_folder(tmp_path / "plan", network_file="network.fake").folder
    return folder, dataclasses.replace(MANIFEST, network_file="network.fake", **fields)


def here(board: Board | None = None, **changes: object) -> Here:
    libraries = {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116", "pycuda": "2025.1"}
    missing = changes.pop("missing", ())
    fields = {"driver": True, "gpu": ORIN, "available_mib": 4000, **changes}
    return Here(lambda m: None if m in missing else libraries.get(m), board=board, **fields)


def test_a_plan_on_its_own_board_has_no_obstacle(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path)
    assert obstacles(folder, manifest, here(board_of("orin_nano", tmp_path / "b"))) == ()


def test_every_obstacle_is_told_at_once(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path)
    nothing = here(missing=("tensorrt", "pycuda"), driver=False, gpu=None, available_mib=300)
    found = obstacles(folder, manifest, nothing)
    assert [o.why.split(":")[0] for o in found] == [
        "the Python module 'tensorrt' is missing",
        "the Python module 'pycuda' is missing",
        "no NVIDIA driver was found",
        "300 MiB of memory are left, and opening it takes about 400 (network.fake has 0.0)",
    ]
    assert found[0].advice.startswith("it comes with JetPack")
    assert found[1].advice.startswith("pip install pycuda")
    assert "--runtime nvidia" in found[2].advice
    assert "sudo systemctl isolate multi-user" in found[3].advice


def test_an_environment_that_does_not_see_the_systems_tensorrt(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path)
    blind = here(board_of("orin_nano", tmp_path / "b"), missing=("tensorrt",))
    (found,) = obstacles(folder, manifest, blind)
    assert found.why == (
        "TensorRT 10.3.0.30 is on this board, and this Python has no module 'tensorrt'"
    )
    assert "python3 -m venv --system-site-packages" in found.advice


def test_a_plan_of_another_release(tmp_path: Path):
    target = Target("tensorrt", "10.7.0", "Orin", RECORD)
    folder, manifest = plan_folder(tmp_path, target=target)
    (found,) = obstacles(folder, manifest, here())
    assert found.why == (
        "it was built by tensorrt 10.7.0, and this machine has 10.3.0; a plan runs on the release "
        "that built it"
    )
    assert f"type here 'edgeseg build {folder}': the folder holds its graph" in found.advice
    assert "--version-compatible runs on later releases too" in found.advice


def test_a_version_compatible_plan_runs_on_later_releases_alone(tmp_path: Path):
    record = dataclasses.replace(RECORD, options={"version_compatible": True})
    older = dataclasses.replace(MANIFEST, target=Target("tensorrt", "10.0.1", "Orin", record))
    newer = dataclasses.replace(MANIFEST, target=Target("tensorrt", "10.7.0", "Orin", record))
    assert obstacles(tmp_path, older, here()) == ()
    assert len(obstacles(tmp_path, newer, here())) == 1


def test_the_release_of_a_system_library_is_that_of_its_package(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path, target=Target("tensorrt", "8.6.2", "Orin", RECORD))
    system = dataclasses.replace(
        here(board_of("orin_nano", tmp_path / "b")), library=lambda _: "system"
    )
    (found,) = obstacles(folder, manifest, system)
    assert "built by tensorrt 8.6.2, and this machine has 10.3.0.30" in found.why
    unknown = dataclasses.replace(system, board=None)
    assert obstacles(folder, manifest, unknown) == ()


@pytest.mark.parametrize(
    ("level", "gpu", "fits"),
    [
        (None, ORIN, True),
        (None, Gpu("Orin NX", "8.7", "12.6"), False),
        (None, Gpu("Thor", "11.0", "13.0"), False),
        ("ampere+", Gpu("Thor", "11.0", "13.0"), True),
        ("ampere+", Gpu("Xavier", "7.2", "12.6"), False),
        ("same-capability", Gpu("Orin NX", "8.7", "12.6"), True),
        ("same-capability", Gpu("RTX", "8.9", "12.6"), False),
    ],
)
def test_a_plan_for_another_gpu(tmp_path: Path, level: str | None, gpu: Gpu, fits: bool):
    options = {"hardware_compatible": level} if level else {}
    record = dataclasses.replace(RECORD, options=options)
    target = Target("tensorrt", "10.3.0", "Orin", record)
    found = obstacles(tmp_path, dataclasses.replace(MANIFEST, target=target), here(gpu=gpu))
    assert (found == ()) == fits
    if not fits:
        assert found[0].why == (
            "it was built for Orin (compute capability 8.7), and this GPU is "
            f"{gpu.name} ({gpu.compute_capability})"
        )
        assert "the folder holds no graph to build from: export it again" in found[0].advice


def test_the_module_tells_its_gpu_where_the_driver_does_not(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path)
    thor = here(board_of("thor", tmp_path / "b"), driver=False, gpu=None)
    whys = [o.why for o in obstacles(folder, manifest, thor)]
    assert whys[1] == (
        "it was built for Orin (compute capability 8.7), and this GPU is Blackwell (Thor) (11.0)"
    )


def test_a_plan_that_is_too_large(tmp_path: Path):
    folder, manifest = plan_folder(tmp_path)
    (folder / "network.fake").write_bytes(b"0" * (100 << 20))
    (found,) = obstacles(folder, manifest, here(available_mib=650))
    assert found.why == (
        "650 MiB of memory are left, and opening it takes about 700 (network.fake has 100.0)"
    )
    assert obstacles(folder, manifest, here(available_mib=None)) == ()


def test_jetpack_5_is_in_the_way_of_every_folder(tmp_path: Path):
    old = board_of(
        "agx_orin", tmp_path / "b", **{"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1\n"}
    )
    folder = onnxruntime_folder(tmp_path / "engine")
    (found,) = obstacles(folder.folder, folder.manifest, here(old))
    assert found.why.startswith("JetPack 5 (L4T 35.4.1) is not supported")


def test_a_model_without_engine_has_no_obstacle(tmp_path: Path):
    assert obstacles(tmp_path, dataclasses.replace(MANIFEST, target=None), here()) == ()


def test_the_verb_tells_obstacles_and_ways_out(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "import_apart", lambda module: "")
    monkeypatch.setattr(preflight, "look_around", lambda: here(driver=False, gpu=None))
    target = Target("tensorrt-rtx", "1.6.0.1", "any RTX GPU", BuildRecord(1.0, 1, 0))
    folder = fake_folder(tmp_path / "plan", target=target).folder
    assert main(["doctor", str(folder), "--json", str(tmp_path / "out.json")]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"{folder}: does not run here no NVIDIA driver was found" in said
    assert "-> run it on a machine with one" in said
    assert "built by tensorrt-rtx 1.6.0.1, and this machine has 1.7.1.116" in said
    assert "edgeseg build FOLDER --target tensorrt-rtx'" in said
    assert "--version-compatible" not in said, "TensorRT-RTX has no such flag"
    found = json.loads((tmp_path / "out.json").read_text())["folder"]
    assert [set(o) for o in found["obstacles"]] == [{"why", "advice"}] * 2


def test_what_is_here_is_looked_up(tmp_path: Path):
    found = look_around(board_tree("orin_nano", tmp_path))
    assert found.board is not None
    assert found.available_mib == 5120
    assert found.library("no_such_module") is None
    assert installed("numpy") is not None


def test_pycuda_is_a_part_of_its_own():
    (part,) = [p for p in PARTS if p.name == "pycuda"]
    assert part.install.startswith("pip install pycuda")
    seen = []
    json_part = dataclasses.replace(part, modules=("json",))
    blind = examine(json_part, lambda m: "ImportError: libcuda.so.1: cannot open", lambda: False)
    assert blind.state == "no GPU"
    assert blind.why == "no NVIDIA driver was found"
    broken = examine(json_part, lambda m: seen.append(m) or "undefined symbol", lambda: True)
    assert broken.state == "broken"
    assert seen == ["json"]
    assert preflight.IMPORTS["pycuda"] == "pycuda.driver"  # `pycuda` alone opens no driver
