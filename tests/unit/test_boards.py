"""What is read of a Jetson, on recorded trees of three boards; sums by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from recorded_boards import board_tree, put

from edgeseg.runtime.board import nvpmodel, read_board, read_packages
from edgeseg.runtime.sensors import Clock, Sensors, number, text, total_of

pytestmark = pytest.mark.unit


def test_an_orin_nano(tmp_path: Path):
    board = read_board(board_tree("orin_nano", tmp_path))
    assert board is not None
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (board.recipe, board.l4t, board.jetpack) == ("orin-nano", "36.4.4", "6.2.1")
    assert board.refused == ""
    assert (board.gpu, board.compute_capability) == ("Ampere (Orin)", "8.7")
    assert (board.tensorrt, board.cuda) == ("10.3.0.30", "12.6")  # not what was removed, the newest
    assert (board.memory_mib, board.available_mib) == (7619, 5120)
    assert (board.swap_mib, board.swap_free_mib) == (3809, 3809)
    assert board.swaps == ("/dev/zram0", "/dev/zram1")
    assert board.power_mode == "2 MAXN_SUPER"
    assert board.power_modes == ("0 15W", "1 25W", "2 MAXN_SUPER", "3 7W")


def test_an_agx_orin_without_the_package_of_jetpack(tmp_path: Path):
    board = read_board(board_tree("agx_orin", tmp_path))
    assert board is not None
    assert (board.recipe, board.l4t, board.jetpack) == ("agx-orin", "36.4.0", "6.1 or 6.2")
    assert (board.tensorrt, board.cuda) == ("10.3.0.30", "12.6")  # CUDA of version.json
    assert (board.swap_mib, board.swaps) == (0, ())
    assert board.power_mode == "0 MAXN"


def test_a_thor(tmp_path: Path):
    board = read_board(board_tree("thor", tmp_path))
    assert board is not None
    assert (board.recipe, board.l4t, board.jetpack) == ("thor", "39.2.1", "7.2")
    assert (board.gpu, board.compute_capability) == ("Blackwell (Thor)", "11.0")
    assert (board.tensorrt, board.cuda) == ("10.16.2.10", "13.2")
    assert board.power_mode == "1 120W"
    assert board.refused == ""


def test_an_orin_nx_by_its_name(tmp_path: Path):
    put(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference\0")
    board = read_board(tmp_path)
    assert board is not None
    assert board.recipe == "orin-nx"
    assert (board.l4t, board.jetpack, board.refused, board.tensorrt) == (None, None, "", None)
    assert (board.memory_mib, board.power_mode, board.power_modes) == (None, None, ())


def test_any_other_machine_is_no_board(tmp_path: Path):
    put(tmp_path, "proc/meminfo", "MemTotal: 1024 kB\n")
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    assert read_board(tmp_path) is None


@pytest.mark.parametrize(
    ("release", "said"),
    [
        (
            "# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref\n",
            "JetPack 5 (L4T 35.4.1) is not supported: it has Python 3.8 and TensorRT 8.5, and "
            "edgeseg needs Python 3.10 and TensorRT 8.6; flash JetPack 6.1 or later (Orin) or 7 "
            "(Orin, Thor)",
        ),
        ("# R32 (release), REVISION: 7.1\n", "JetPack 4 (L4T 32.7.1) is not supported: it has"),
        ("# R77 (release), REVISION: 1.0\n", "L4T 77.1.0 belongs to no JetPack that this edgeseg"),
    ],
)
def test_other_jetpacks_are_refused_with_their_reason(tmp_path: Path, release: str, said: str):
    tree = board_tree("agx_orin", tmp_path, **{"etc/nv_tegra_release": release})
    board = read_board(tree)
    assert board is not None
    assert board.refused.startswith(said)


def test_the_release_is_known_without_its_file(tmp_path: Path):
    tree = board_tree("orin_nano", tmp_path)
    (tree / "etc/nv_tegra_release").unlink()
    board = read_board(tree)
    assert board is not None
    assert board.l4t == "36.4.4"  # of the package nvidia-l4t-core


def test_a_mode_without_a_name(tmp_path: Path):
    assert nvpmodel(tmp_path) is None
    put(tmp_path, "var/lib/nvpmodel/status", "pmode:0007\n")
    assert nvpmodel(tmp_path) == "7"


def test_packages_that_are_gone_are_not_listed(tmp_path: Path):
    packages = read_packages(board_tree("orin_nano", tmp_path))
    assert packages["libnvinfer10"] == "10.3.0.30-1+cuda12.5"
    assert "libnvinfer8" not in packages


# Sensors


def test_sensors_of_an_orin_nano(tmp_path: Path):
    sensors = Sensors(board_tree("orin_nano", tmp_path))
    found = sensors.read()
    # 5 V times 1.6, 0.4 and 0.3 A; shunt voltages and their sum are no rails
    assert found.rails_w == {"VDD_IN": 8.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}
    assert found.total_w == 8.0  # VDD_IN is all of it
    assert found.temperatures_c == {"cpu": 50.062, "gpu": 49.5, "tj": 50.75, "soc0": 48.0}
    assert found.clocks_mhz == pytest.approx({"cpu0": 1344, "cpu4": 729.6, "gpu": 612, "emc": 2133})
    assert found.caps == {}  # the fan is no cap
    assert found.events == {
        "under-voltage (oc1)": 0,
        "instantaneous over-current (oc3)": 37,  # oc2 is counted and slows nothing
    }
    assert (found.fan_percent, found.fan_rpm) == (40.0, 2140)
    assert sensors.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    assert sensors.tells_throttling
    clocks = sensors.clocks()
    assert clocks["gpu"] == Clock(306, 1020)
    assert not clocks["gpu"].locked
    assert clocks["emc"] == Clock(204, 3199)
    assert found.emc_percent == 25.0  # 533.25 of 2133 MHz
    assert sensors.unread == ()


def test_sensors_of_an_agx_orin(tmp_path: Path):
    sensors = Sensors(board_tree("agx_orin", tmp_path))
    found = sensors.read()
    assert found.rails_w == pytest.approx(
        {"VDD_GPU_SOC": 5.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 4.5, "VDDQ_VDD2_1V8AO": 1.0}
    )
    assert found.total_w == pytest.approx(11.5)  # the memory's watt is in VIN_SYS_5V0 already
    assert found.caps == {"gpu-throttle-alert": 1}
    assert "emc" not in found.clocks_mhz
    assert found.emc_percent is None
    assert sensors.unread == ("the memory's clock and use (emc) are shown to root only: sudo",)
    assert sensors.clocks()["gpu"].locked
    assert found.fan_percent == 100


def test_sensors_of_a_thor(tmp_path: Path):
    sensors = Sensors(board_tree("thor", tmp_path))
    found = sensors.read()
    assert found.rails_w == pytest.approx(
        {"VIN": 31.5, "VDD_GPU": 7.2, "VDD_CPU_SOC_MSS": 10.8, "VIN_SYS_5V0": 7.0}
    )
    assert found.total_w == pytest.approx(25.0)  # the module's, without its carrier board
    assert found.temperatures_c == {"cpu": 53.7, "soc012": 55.1, "tj": 55.1}  # the GPU is off
    assert found.clocks_mhz == pytest.approx({"cpu0": 2601, "gpu": 315, "emc": 4266})
    assert found.emc_percent is None
    assert sensors.unread == (
        "the memory's use (emc) is not shown: no /sys/kernel/debug/cactmon/mc_all (Orin, as root)",
    )
    assert found.caps == {"devfreq-gpu-gpc-0": 18}
    assert found.events == {}


def test_a_machine_without_sensors(tmp_path: Path):
    sensors = Sensors(tmp_path)
    assert not sensors
    assert not sensors.tells_throttling
    assert sensors.unread == ()
    assert sensors.read().total_w is None


def test_rails_without_a_known_total(tmp_path: Path):
    assert total_of({"VDD_GPU": 1.0, "OTHER": 2.0}) == ()


def test_a_pc_counts_how_often_it_was_too_hot(tmp_path: Path):
    for cpu, count in ((0, 3), (1, 4)):
        path = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"
        put(tmp_path, path, f"{count}\n")
    assert Sensors(tmp_path).read().events == {"the CPU was too hot": 7}


def test_an_older_kernel_shows_how_busy_the_memory_is_to_everyone(tmp_path: Path):
    put(tmp_path, "sys/class/devfreq/17000000.gv11b/cur_freq", "1\n")
    put(tmp_path, "sys/kernel/debug/bpmp/debug/clk/emc/rate", "1600000000\n")
    put(tmp_path, "sys/kernel/actmon_avg_activity/mc_all", "64000\n")
    assert Sensors(tmp_path).read().emc_percent == 4.0  # 64 of 1600 MHz
    put(tmp_path, "sys/kernel/debug/bpmp/debug/clk/emc/rate", "0\n")
    assert Sensors(tmp_path).read().emc_percent is None


def test_sensors_that_vanish_are_left_out(tmp_path: Path):
    tree = board_tree("orin_nano", tmp_path)
    sensors = Sensors(tree)
    (tree / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    put(tree, "sys/class/thermal/thermal_zone0/temp", "busy\n")
    found = sensors.read()
    assert "VDD_IN" not in found.rails_w
    assert found.total_w is None
    assert "cpu" not in found.temperatures_c


def test_files_that_answer_try_again_later(tmp_path: Path, monkeypatch):
    put(tmp_path, "temp", "5\n")

    def again(file: int, size: int) -> bytes:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "read", again)
    assert text(tmp_path / "temp") == ""
    assert number(tmp_path / "temp") is None
