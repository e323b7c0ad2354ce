"""How fast decode is: ours against numpy, OpenVINO's upsampling with TopK, and the peak of GEMM.

`python -m edgeseg.benchmarks.decode_speed benchmarks/results/decode/speed.json` measures all of
them in turns, in one run, on the same scores, and writes every sample. `decode_table` makes the
page.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops

from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.measure import Watch
from edgeseg.benchmarks.turns import take_turns, turn_of
from edgeseg.bundle import WEIGHTED, OutputSpec
from edgeseg.dataset import open_dataset
from edgeseg.disk import write_json
from edgeseg.runtime import decode_native
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.engine_openvino import shared_core

Call = Callable[[], np.ndarray]
OUT = (512, 1024)
CLASSES = 19
GEMM = 1024
"""Rows and columns of the matrices whose product shows the peak."""
DRAWS = 1000
SPIN = "OPENBLAS_THREAD_TIMEOUT"
"""For how long (2^26 cycles) numpy's threads spin after a product, on the core that the next
contestant wants. numpy reads it when it is loaded, so the process begins once more, with less."""


@dataclass(frozen=True)
class Case:
    """One decode to labels of OUT: its kind, factor and channels, and what the scores are like.

    "streets" are label maps of drawn streets with noise, "noise" is noise alone: the worst case.
    """

    decode: str
    factor: int
    channels: int = CLASSES
    scores: str = "streets"

    @property
    def cells(self) -> tuple[int, int]:
        """(height, width) of the scores."""
        return OUT[0] // self.factor, OUT[1] // self.factor

    @property
    def gflop(self) -> float:
        """Two for each multiply-add of the matrix products; 0 where there are none."""
        pixels = OUT[0] * OUT[1] if self.decode in WEIGHTED else 0
        return 2 * self.channels * CLASSES * pixels / 1e9


# fmt: off
CASES = (
    #    decode              factor  channels  scores
    Case("bilinear",         4),
    Case("bilinear",         8),
    Case("bilinear_corners", 2),
    Case("bilinear",         4,      CLASSES,  "noise"),
    Case("deconvolution",    2,      20,       "noise"),
    Case("dupsample",        8,      64,       "noise"),
)
# fmt: on


def make_scores(case: Case) -> np.ndarray:
    """(1, C, h, w) float32. A street's class has 8 times its share of the cell, plus noise."""
    random = np.random.default_rng(0)
    shape = (1, case.channels, *case.cells)
    if case.scores == "noise":
        return random.normal(size=shape).astype(np.float32)
    height, width = OUT
    labels = open_dataset(f"synthetic:size={height}x{width},count=1", "val")[0].labels
    r = case.factor
    cells = labels.reshape(height // r, r, width // r, r)
    shares = np.stack([(cells == c).mean((1, 3)) for c in range(case.channels)])
    return (8 * shares[None] + random.normal(scale=0.5, size=shape)).astype(np.float32)


def in_openvino(
    case: Case, arrays: tuple[np.ndarray, np.ndarray] | None, threads: int, precision: str
) -> Callable[[np.ndarray], np.ndarray]:
    """The usual way: upsampling and TopK in the graph, uint8 labels out."""
    low = ops.parameter([1, case.channels, *case.cells], np.float32)
    if arrays is None:
        corners = case.decode == "bilinear_corners"
        full = ops.interpolate(
            low, ops.constant(np.array(OUT)), "linear_onnx", "sizes",
            coordinate_transformation_mode="align_corners" if corners else "half_pixel",
            axes=ops.constant(np.array([2, 3])),
        )  # fmt: skip
    else:
        weight, bias = arrays
        stride = [case.factor, case.factor]
        full = ops.convolution_backprop_data(
            low, ops.constant(weight), stride, pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
        )
        full = ops.add(full, ops.constant(bias.reshape(1, -1, 1, 1)))
    best = ops.topk(full, ops.constant(1), 1, "max", "none", "i32")
    labels = ops.convert(best.output(1), "u8")
    return _compiled(openvino.Model([labels], [low]), threads, precision)


def _compiled(model: openvino.Model, threads: int, precision: str) -> Callable[..., np.ndarray]:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = shared_core().compile_model(model, "CPU", settings).create_infer_request()

    def run(*inputs: np.ndarray) -> np.ndarray:
        request.infer(list(inputs), share_inputs=True)
        result: np.ndarray = request.get_output_tensor(0).data
        return result

    return run


def matmuls(threads: int) -> dict[str, Call]:
    """Float32 products of GEMM x GEMM matrices: numpy's and OpenVINO's."""
    a, b = np.random.default_rng(0).normal(size=(2, GEMM, GEMM)).astype(np.float32)
    left, right = ops.parameter([GEMM, GEMM], np.float32), ops.parameter([GEMM, GEMM], np.float32)
    product = openvino.Model([ops.matmul(left, right, False, False)], [left, right])
    multiply = _compiled(product, threads, "f32")
    return {"numpy": lambda: a @ b, "OpenVINO": lambda: multiply(a, b)}


def contestants(case: Case, threads: int) -> dict[str, Call]:
    """Name -> a call from scores to labels; ours, by the fastest instruction set, is the first."""
    scores, arrays = make_scores(case), None
    if case.decode in WEIGHTED:
        random = np.random.default_rng(1)
        weight = random.normal(size=(case.channels, CLASSES, case.factor, case.factor))
        arrays = weight.astype(np.float32), random.normal(size=CLASSES).astype(np.float32)
    spec = OutputSpec("scores", case.factor, case.decode, case.factor)
    found: dict[str, Call] = {}
    plans = [(isa, threads) for isa in decode_native.available()]
    plans.insert(1, (plans[0][0], 1))
    for by, count in [*dict.fromkeys(plans), ("numpy", threads)]:
        decoder = Decoder(spec, *(arrays or ()), threads=count, by=by)
        found[decoder.name] = partial(decoder, scores)
    for precision in ("f32", "bf16"):
        run = in_openvino(case, arrays, threads, precision)
        found[f"OpenVINO {precision}"] = partial(run, scores)
    return found


def time_case(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """All contestants in turns, in another order each round; ratios are to the first of them."""
    calls, peaks = contestants(case, threads), matmuls(threads) if case.gflop else {}
    labels = {name: np.array(call()).reshape(OUT) for name, call in calls.items()}
    for call in peaks.values():
        call()
    everything = {**calls, **{f"matmul {name}": call for name, call in peaks.items()}}
    slow = [n for n in calls if n == "numpy" or (case.gflop and n.startswith("native c,"))]
    turns = {name: turn_of(lambda _, c=call: c()) for name, call in everything.items()}  # type: ignore[misc]
    samples = {
        name: [round(times[0], 4) if times else None for times in found]
        for name, found in take_turns(turns, rounds=rounds, dropped=1, seldom=slow).items()
    }
    ours = next(iter(calls))
    rows = [
        {
            "name": name,
            "p50_ms": _median(samples[name]),
            "ratio": ratio(samples[name], samples[ours]),
            "labels_differing": int((labels[name] != labels[ours]).sum()),
            "samples_ms": samples[name],
        }
        for name in calls
    ]
    return {
        **asdict(case), "cells": list(case.cells), "out": list(OUT), "classes": CLASSES,
        "gflop": case.gflop, "contestants": rows,
        "matmul": [
            {"name": name, "gflops": round(2 * GEMM**3 / 1e6 / _median(samples[f"matmul {name}"])),
             "samples_ms": samples[f"matmul {name}"]} for name in peaks
        ],
    }  # fmt: skip


def _median(samples: list[float | None]) -> float:
    return round(float(np.median([s for s in samples if s is not None])), 4)


def ratio(theirs: list[float | None], ours: list[float | None]) -> list[float]:
    """[low, value, high]: medians' ratio and its 95 % bootstrap interval over shared rounds."""
    pairs = np.array([(t, o) for t, o in zip(theirs, ours, strict=True) if t and o], float)
    chosen = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    drawn = np.median(pairs[chosen], axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    middle = np.median(pairs, axis=0)
    return [round(float(v), 3) for v in (low, middle[0] / middle[1], high)]


def main(words: list[str]) -> int:
    """Measure, print medians, write the result."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.benchmarks.decode_speed")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=48)
    args = parser.parse_args(words)
    here, watch, cases = machine(), Watch(), []
    for case in CASES:
        found = time_case(case, args.threads, args.rounds)
        cases.append(found)
        print(f"{case.decode} x{case.factor}, {case.channels} channels, {case.scores}")  # noqa: T201
        for row in found["contestants"]:
            low, value, high = row["ratio"]
            times = f"{value:8.2f} ({low:.2f} to {high:.2f})"
            print(f"  {row['name']:28} {row['p50_ms']:9.3f} ms {times}")  # noqa: T201
        for row in found["matmul"]:
            print(f"  matmul by {row['name']:18} {row['gflops']:9} GFLOP/s")  # noqa: T201
    watch.stop()
    options = f"--threads {args.threads} --rounds {args.rounds}"
    command = f"python -m edgeseg.benchmarks.decode_speed {args.out} {options}"
    content = {
        "title": "Decode: scores to labels", "command": command,
        "machine": here, "compiler": decode_native.compiler(), "threads": args.threads,
        "rounds": args.rounds, "others_cores": watch.cores, "cases": cases,
    }  # fmt: skip
    write_json(args.out, content)
    return 0


if __name__ == "__main__":
    if SPIN not in os.environ:
        again = [sys.executable, "-m", "edgeseg.benchmarks.decode_speed", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, SPIN: "4"})
    sys.exit(main(sys.argv[1:]))
