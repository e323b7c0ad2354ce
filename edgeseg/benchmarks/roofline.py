"""How far from the machine's limits: MACs and bytes of a network against peaks measured here.

The roofline of Williams, Waterman and Patterson (2009): a network can't take less time than its
multiply-adds at the peak of arithmetic, nor than its tensors at the peak of memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops

from edgeseg.benchmarks.layer_times import Times, measure
from edgeseg.bundle import read_bundle
from edgeseg.graph import numbers_moved, read_graph
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.engine_openvino import half_precision, shared_core

CHANNELS, CELLS, LAYERS = 256, 64, 8
COPY_MIB = 256
REPEATS = 10
APP_SECONDS = 4
APP = "import openvino.tools.benchmark.main as app; app.main()"
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}


@dataclass(frozen=True)
class Peaks:
    """GMAC/s of 1x1 convolutions by type (None: the CPU has no such type), GB/s of copying."""

    f32: float
    half: float | None
    half_name: str | None
    int8: float
    memory_gb_s: float


def measure_peaks(threads: int) -> Peaks:
    """The best of some repetitions of what engines are best at."""
    half = half_precision(shared_core())
    return Peaks(
        round(_gmacs("f32", threads, quantised=False), 1),
        round(_gmacs(half, threads, quantised=False), 1) if half else None,
        half,
        round(_gmacs("f32", threads, quantised=True), 1),
        round(_copy_rate(threads), 1),
    )


def _gmacs(hint: str, threads: int, *, quantised: bool) -> float:
    """1e9 multiply-adds per second of a chain of 1x1 convolutions with aligned channels."""
    model = _chain(quantised)
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = shared_core().compile_model(model, "CPU", settings).create_infer_request()
    image = np.zeros((1, CHANNELS, CELLS, CELLS), np.float32)
    best = _best(lambda: request.infer([image]))
    return LAYERS * CHANNELS * CHANNELS * CELLS * CELLS / best / 1e9


def _chain(quantised: bool) -> openvino.Model:
    random = np.random.default_rng(0)
    image = ops.parameter([1, CHANNELS, CELLS, CELLS], np.float32)
    last = image
    for _ in range(LAYERS):
        levels = random.integers(-127, 128, (CHANNELS, CHANNELS, 1, 1)).astype(np.int8)
        weight = ops.constant(levels.astype(np.float32) / 1e4)
        if quantised:
            weight = ops.multiply(
                ops.convert(ops.constant(levels), np.float32), ops.constant(np.float32(1e-4))
            )
            bounds = [ops.constant(np.float32(v)) for v in (-1.28, 1.27, -1.28, 1.27)]
            last = ops.fake_quantize(last, *bounds, 256)
        last = ops.convolution(last, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    return openvino.Model([last], [image], "peak")


def _copy_rate(threads: int) -> float:
    """1e9 bytes per second, read and written, by so many threads copying what no cache holds."""
    share = COPY_MIB * 2**20 // threads
    pairs = [(np.ones(share, np.uint8), np.zeros(share, np.uint8)) for _ in range(threads)]

    def copy() -> None:
        workers = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in pairs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return 2 * share * threads / _best(copy) / 1e9


def _best(call: Any) -> float:
    """Seconds of the quickest call."""
    found = []
    for _ in range(REPEATS):
        begin = perf_counter()
        call()
        found.append(perf_counter() - begin)
    return min(found)


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
    rate = {"f32": peaks.f32, "int8": peaks.int8}.get(kind, peaks.half or peaks.f32)
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
