"""One small race from the command line to its page."""

from __future__ import annotations

import json

import pytest

from edgeseg.benchmarks import peaks as room
from edgeseg.benchmarks.peaks import Chain, Peaks
from edgeseg.benchmarks.race_page import page
from edgeseg.benchmarks.roofline import roofline
from edgeseg.cli import main

pytestmark = pytest.mark.chain


@pytest.fixture(autouse=True)
def small_chains(monkeypatch) -> None:
    monkeypatch.setattr(room, "CHAINS", (Chain(256, 64, 8),))


def test_a_small_race(tmp_path, capsys):
    out = tmp_path / "race"
    words = ["--size", "64x128", "--data", "synthetic:size=64x128,count=60", "--rounds", "2"]
    some = ["--calls", "2", "--only", "usual script", "--only", "openvino f32", "--threads", "1"]
    assert main(["race", "espnet_q3", *words, *some, "--out", str(out)]) == 0
    content = json.loads((out / "race.json").read_text())
    rows = {row["name"]: row for row in content["contestants"]}
    assert set(rows) == {"edgeseg fp32", "edgeseg onnxruntime fp32", "usual script", "openvino f32"}
    assert all(row["agreement"] > 99.9 for row in rows.values())
    assert rows["usual script"]["against"] == "edgeseg onnxruntime fp32"
    low, middle, high = rows["openvino f32"]["ratio"]
    assert 0 < low <= middle <= high
    assert content["failed"] == []
    assert content["macs"] > 0
    assert page(content) == (out / "race.md").read_text()
    networks = content["roofline"]["networks"]
    assert [entry["precision"] for entry in networks] == ["fp32"]
    assert 0 < networks[0]["arithmetic_ms"] < networks[0]["engine_ms"]
    assert networks[0]["benchmark_app_ms"] > 0
    said = capsys.readouterr().out
    assert "usual script: " in said
    assert " of edgeseg onnxruntime fp32" in said
    peaks = Peaks(f32=1.0, half=None, half_name=None, int8=2.0, memory_gb_s=1.0)
    graph = out / "engines/labels-fp32/network.onnx"
    found = roofline([out / "engines/openvino-fp32"], graph, peaks, 1)["networks"][0]
    assert found["arithmetic_ms"] == pytest.approx(content["macs"] / 1e6, rel=1e-3)


@pytest.mark.long
def test_a_race_from_a_camera_s_frames(tmp_path):
    """Half of each network's rows are bars; who resizes otherwise than ours agrees nearly."""
    out = tmp_path / "race"
    words = ["--size", "64x128", "--data", "synthetic:size=64x128,count=60", "--rounds", "1"]
    some = ["--calls", "1", "--only", "usual script", "--only", "openvino f32", "--threads", "1"]
    camera = ["--camera", "96x96:nv12", "--only", "engine alone fp32"]
    assert main(["race", "espnet_q3", *words, *some, *camera, "--out", str(out)]) == 0
    content = json.loads((out / "race.json").read_text())
    assert content["camera"] == {"size": [96, 96], "format": "nv12"}
    assert content["failed"] == []
    rows = {row["name"]: row for row in content["contestants"]}
    assert set(rows) == {
        "edgeseg fp32", "edgeseg onnxruntime fp32", "usual script", "openvino f32",
        "engine alone fp32",
    }  # fmt: skip
    assert rows["edgeseg onnxruntime fp32"]["agreement"] > 99.9
    assert rows["usual script"]["agreement"] > 90
    assert rows["openvino f32"]["agreement"] > 90
    assert "as a camera of 96x96 gives them in nv12" in (out / "race.md").read_text()
