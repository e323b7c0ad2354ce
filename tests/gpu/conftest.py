"""What the GPU's tests need: a real GPU, or with EDGESEG_GPU_DOUBLES=1 the doubles of one.

EDGESEG_GPU_RESULT=FILE writes what passed, on which machine, and what was measured.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeseg.runtime import gpu

DOUBLES = os.environ.get("EDGESEG_GPU_DOUBLES") == "1"
TARGETS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PASSED: dict[str, str] = {}
MEASURED: dict[str, Any] = {}
TOLD: dict[str, Any] = {}


@pytest.fixture(scope="session")
def target() -> Iterator[str]:
    """The TensorRT that is here, as --target names it."""
    if DOUBLES:
        with pytest.MonkeyPatch.context() as monkeypatch:
            yield _doubles(monkeypatch)
        return
    here = gpu.find_gpu()
    if here is None:
        pytest.exit("these tests need an NVIDIA GPU with its driver, and none is here", 2)
    found = [t for t, module in TARGETS.items() if importlib.util.find_spec(module)]
    missing = [] if importlib.util.find_spec("pycuda") else ["pycuda"]
    missing += [] if found else ["tensorrt (or tensorrt_rtx)"]
    if missing:
        pytest.exit(f"these tests need {' and '.join(missing)}: see docs/tensorrt.md", 2)
    TOLD.update(_about(found[0], here))
    yield found[0]


def _about(target: str, here: gpu.Gpu) -> dict[str, Any]:
    import pycuda
    import pycuda.driver

    library: Any = importlib.import_module(TARGETS[target])
    return {
        "gpu": here.name,
        "compute_capability": here.compute_capability,
        "driver_cuda": here.cuda,
        "driver": _driver_version(),
        "jetpack": gpu.read_jetpack(),
        "target": target,
        "tensorrt": library.__version__,
        "pycuda": ".".join(map(str, pycuda.VERSION)),
    }


def _driver_version() -> str | None:
    """What the kernel's module says of itself; None on a Jetson, whose JetPack says it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    return " ".join(text.splitlines()[0].split())


def _doubles(monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine of cuda_doubles, whose builder knows the two graphs."""
    import plan_doubles
    import tensorrt_doubles
    from cuda_doubles import Machine
    from gpu_graphs import CHANNELS, FOLDER, GRAPHS, SIZE, labels_of, scores_of
    from kernels_on_cpu import kernels

    from edgeseg.runtime.pixel_jobs import DECODE, PREPARE

    machine = plan_doubles.put(monkeypatch, Machine())
    machine.kernels = dict(kernels())
    does = tensorrt_doubles.Behaviour()
    module: ModuleType = tensorrt_doubles.double("10.3.0", does)
    monkeypatch.setitem(
        sys.modules, "tensorrt", plan_doubles.runtime_double(module, machine, "10.3.0")
    )
    monkeypatch.setitem(plan_doubles.NETWORKS, "labels", labels_of)
    monkeypatch.setitem(plan_doubles.NETWORKS, "scores", scores_of)
    scores = (1, CHANNELS, SIZE[0] // 2, SIZE[1] // 2)
    outputs = {"labels": ((1, *SIZE), "UINT8"), "scores": (scores, "FLOAT")}
    plans = {
        hashlib.sha256((FOLDER / f"{name}.onnx").read_bytes()).hexdigest(): plan_doubles.plan(
            (1, *SIZE, 3), outputs[name][0], network=name, dtype=outputs[name][1], name=name
        )
        for name in GRAPHS
    }

    def parse(parser: Any, model: bytes) -> bool:
        does.plan = plans[hashlib.sha256(model).hexdigest()]
        return True

    def run_nvcc(nvcc: str, capability: str, to: Path) -> str:
        to.write_text(f"{PREPARE} {DECODE}")
        return ""

    found = gpu.Gpu(machine.name, "8.7", "12.6")
    monkeypatch.setattr(tensorrt_doubles._Parser, "parse", parse)
    monkeypatch.setattr("edgeseg.export.kernels.run_nvcc", run_nvcc)
    monkeypatch.setattr("edgeseg.export.kernels.find_nvcc", lambda: "nvcc")
    monkeypatch.setattr("edgeseg.export.kernels.nvcc_version", lambda nvcc: "nvcc 12.6.68")
    monkeypatch.setattr("edgeseg.runtime.gpu.find_gpu", lambda: found)
    monkeypatch.setattr("edgeseg.export.targets.has_gpu", lambda: True)
    monkeypatch.setattr("edgeseg.export.targets.importlib.util.find_spec", lambda name: True)
    monkeypatch.delitem(sys.modules, "edgeseg.export.to_tensorrt", raising=False)
    pycuda: Any = sys.modules["pycuda"]
    pycuda.VERSION = (2025, 1)
    TOLD.update(_about("tensorrt", found), doubles=True)
    return "tensorrt"


@pytest.fixture
def measured() -> dict[str, Any]:
    """Numbers for the result file."""
    return MEASURED


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what passed."""
    if "tests/gpu/" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        PASSED[report.nodeid.partition("tests/gpu/")[2]] = report.outcome


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the result file."""
    to = os.environ.get("EDGESEG_GPU_RESULT")
    if not to or not TOLD:
        return
    content = {
        "command": "make gpu-check",
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "edgeseg": metadata.version("edgeseg"),
        "numpy": np.__version__,
        **TOLD,
        "passed": sum(outcome == "passed" for outcome in PASSED.values()),
        "of": len(PASSED),
        "tests": dict(sorted(PASSED.items())),
        "measured": MEASURED,
    }
    Path(to).parent.mkdir(parents=True, exist_ok=True)
    Path(to).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
