"""`make gpu-check`: its tests run on the doubles here, and say what is missing without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.runtime.gpu import find_gpu

pytestmark = pytest.mark.rooms

ROOT = Path(__file__).resolve().parents[2]
SOME = "not crop and not stretch and not corners and not dupsample and not several and not graph"


def gpu_tests(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    return subprocess.run(
        [*line, "tests/gpu", *words], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_gpus_tests_pass_on_the_doubles(tmp_path):
    result = tmp_path / "made" / "gpu.json"
    done = gpu_tests("-k", SOME, EDGESEG_GPU_DOUBLES="1", EDGESEG_GPU_RESULT=str(result))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(result.read_text())
    assert told["doubles"] is True
    assert (told["gpu"], told["tensorrt"], told["pycuda"]) == ("Orin", "10.3.0", "2025.1")
    assert told["passed"] == sum(v == "passed" for v in told["tests"].values()) >= 18
    assert not [name for name, outcome in told["tests"].items() if outcome == "failed"]
    assert {"frame_ms_gpu", "frame_ms_cpu", "device_mib_before_and_after"} <= set(told["measured"])


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    result = tmp_path / "gpu.json"
    done = gpu_tests(EDGESEG_GPU_RESULT=str(result), EDGESEG_GPU_DOUBLES="0")
    assert done.returncode == 2
    assert "these tests need an NVIDIA GPU with its driver, and none is here" in done.stdout
    assert not result.exists()


def test_make_gpu_check():
    done = subprocess.run(
        ["make", "--dry-run", "gpu-check", "GPU_PYTHON=python3", "GPU_RESULT=here.json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "EDGESEG_GPU_RESULT=here.json python3 -m pytest -m gpu tests/gpu" in done.stdout
