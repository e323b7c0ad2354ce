"""The workbenches' scripts run, on small streets with the shipped weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.bundle import read_bundle

ROOT = Path(__file__).resolve().parents[2]
STREETS = "synthetic:size=64x128,count=60"

pytestmark = pytest.mark.chain


def run(script: str, out: Path, **environment: str) -> str:
    """Standard output of a workbench script."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / script, "espnet_q3", STREETS, "64x128", out],
        cwd=out.parent, env={**os.environ, "PATH": path, **environment},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_engine(tmp_path: Path):
    said = run("export/every_engine.sh", tmp_path / "out", PRECISIONS="fp32")
    for target in ("onnxruntime", "openvino"):
        manifest = read_bundle(tmp_path / "out" / f"{target}-fp32").manifest
        assert manifest.gate
        assert manifest.gate.state == "passed"
        assert f"engine      {target} {manifest.target and manifest.target.version}" in said
    assert said.count("passed on 24 frames of synthetic train") == 2


def test_calibrators_are_compared(tmp_path: Path):
    some = {"FRAMES": "2", "METHODS": "minmax mse", "TARGETS": "onnxruntime"}
    said = run("calibration/methods.sh", tmp_path / "out", **some)
    lines = re.findall(r"^(\w+(?: \w+)?): mIoU (\d+\.\d+), .* \(2 frames of", said, re.MULTILINE)
    assert [name for name, _ in lines] == ["float", "minmax onnxruntime", "mse onnxruntime"]
    assert float(lines[2][1]) > float(lines[0][1]) - 10


def test_what_int8_pays(tmp_path: Path):
    quick = "--limit 2 --samples 20 --seconds 0.1 --max-seconds 5"
    some = {"BENCH": quick, "OUTPUTS": "scores", "PRECISIONS": "fp32 int8"}
    said = run("calibration/pays.sh", tmp_path / "out", **some)
    rows = json.loads((tmp_path / "out/bench/results.json").read_text(encoding="utf-8"))["results"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert all(row["decode"] != "in the graph" for row in rows)
    assert all(row["latency_ms"]["p50"] > 0 for row in rows)
    table = (tmp_path / "out/layer_times.md").read_text(encoding="utf-8")
    assert table in said
    assert "| espnet_q3 fp32 (f32) | espnet_q3 int8 (" in table.splitlines()[0]
