"""How far from the machine's limits: MACs and bytes of a network against peaks measured here.

The roofline of Williams, Waterman and Patterson (2009): a network can't take less time than its
multiply-adds at the peak of arithmetic, nor than its tensors at the peak of memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.layer_times import Times, measure
from edgeseg.benchmarks.peaks import Peaks
from edgeseg.bundle import read_bundle
from edgeseg.graph import numbers_moved, read_graph
from edgeseg.runtime.engine import EngineOptions

APP_SECONDS = 4
APP = "import openvino.tools.benchmark.main as app; app.main()"
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}


def benchmark_app_ms(network: Path, precision: str, threads: int) -> float | None:
    """Median of OpenVINO's own benchmark_app on a network, one frame at a time; None: it failed."""
    words = ["-m", str(network), "-hint", "none", "-nstreams", "1", "-t", str(APP_SECONDS)]
    words += ["-api", "sync", "-nthreads", str(threads), "-infer_precision", precision]
    command = [sys.executable, "-c", APP, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    return float(found.group(1)) if found else None


def roofline(folders: list[Path], graph: Path, peaks: Peaks, threads: int) -> dict[str, Any]:
    """Peaks, and for each engine folder of OpenVINO its bounds and where its time goes.

    `graph` is the float ONNX graph that they were made from. `memory_ms` is what convolutions read
    and write, if no cache held anything.
    """
    numbers = numbers_moved(read_graph(graph))
    every = measure(folders, EngineOptions(threads))
    networks = [_bounds(f, t, numbers, peaks) for f, t in zip(folders, every, strict=True)]
    for folder, entry in zip(folders, networks, strict=True):
        floats = "f32" if entry["computed_in"] == "f32" else peaks.half_name or "f32"
        entry["benchmark_app_ms"] = benchmark_app_ms(folder / "network.xml", floats, threads)
    return {"peaks": asdict(peaks), "networks": networks}


def _bounds(folder: Path, times: Times, numbers: int, peaks: Peaks) -> dict[str, Any]:
    manifest = read_bundle(folder).manifest
    kinds = {"fp32": "f32", "fp16": peaks.half_name or "f32", "int8": "int8"}
    kind = kinds[manifest.precision]
    rate = peaks.rate(kind)
    assert manifest.macs is not None
    return {
        "precision": manifest.precision,
        "computed_in": kind,
        "macs": manifest.macs,
        "arithmetic_ms": round(manifest.macs / rate / 1e6, 3),
        "memory_ms": round(numbers * BYTES[kind] / peaks.memory_gb_s / 1e6, 3),
        "engine_ms": round(sum(times.ms.values()), 3),
        "nodes": times.nodes,
        "kinds_ms": {k: round(v, 3) for k, v in sorted(times.ms.items(), key=lambda i: -i[1])},
    }
