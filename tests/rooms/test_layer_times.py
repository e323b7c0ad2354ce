"""Where OpenVINO spends its time: nodes by kind, folders side by side."""

from __future__ import annotations

import pytest
from engine_folders import onnxruntime_folder, openvino_folder

from edgeseg.benchmarks.layer_times import Times, main, measure, page
from edgeseg.runtime.engine import EngineOptions

pytestmark = pytest.mark.rooms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return openvino_folder(tmp_path_factory.mktemp("times") / "ov").folder


def test_nodes_are_summed_by_kind(folder):
    [times] = measure([folder], EngineOptions(1), runs=6)
    assert times.title.endswith("fp32 (f32)")
    assert times.ms.keys() == times.nodes.keys()
    assert sum(times.ms.values()) > 0
    assert all(ms >= 0 for ms in times.ms.values())  # in whole microseconds
    assert any(kind.startswith("Convert") or "f32" in kind for kind in times.nodes)


def test_a_page_has_the_slowest_first_and_sums_the_small_ones_up():
    a = Times("net fp32 (f32)", {"Convolution f32": 4.0, "TopK f32": 9.0, "Pad f32": 0.05},
              {"Convolution f32": 8, "TopK f32": 1, "Pad f32": 1})  # fmt: skip
    b = Times("net int8 (bf16)", {"Convolution i8": 1.25, "TopK f32": 9.0},
              {"Convolution i8": 8, "TopK f32": 1})  # fmt: skip
    assert page([a, b]).splitlines() == [
        "| ms (nodes) | net fp32 (f32) | net int8 (bf16) |",
        "| --- | ---: | ---: |",
        "| TopK f32 | 9.0 (1) | 9.0 (1) |",
        "| Convolution f32 | 4.0 (8) | \N{EN DASH} |",
        "| Convolution i8 | \N{EN DASH} | 1.2 (8) |",
        "| all others | 0.1 (1) | \N{EN DASH} |",
        "| **sum** | 13.1 (10) | 10.2 (9) |",
    ]


def test_the_command_prints_the_page(folder, capsys):
    assert main([str(folder), str(folder), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("fp32 (f32)") == 2
    assert lines[-1].startswith("| **sum** |")


def test_what_openvino_does_not_run_is_refused(tmp_path, capsys):
    other = onnxruntime_folder(tmp_path / "ort").folder
    assert main([str(other)]) == 2
    assert capsys.readouterr().err == (
        f"edgeseg: {other} is no engine folder for OpenVINO; make one with "
        "'edgeseg export MODEL --target openvino --out FOLDER'\n"
    )
