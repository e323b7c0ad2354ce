"""What this machine can do at most: multiply-adds a second by type, and bytes a second copied.

`python -m edgeseg.benchmarks.peaks RACE.json...` measures them anew on a quiet machine and puts
them, and the bounds that follow, in place of those of races that were run on this machine.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import openvino
import openvino.opset13 as ops

from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.pages import read_content
from edgeseg.disk import write_json
from edgeseg.errors import UsageError, exit_code
from edgeseg.runtime.engine_openvino import half_precision, shared_core


class Chain(NamedTuple):
    """1x1 convolutions one behind the other: their channels, rows and columns, how many."""

    channels: int
    cells: int
    layers: int

    @property
    def macs(self) -> int:
        """Of one image."""
        return self.layers * self.channels**2 * self.cells**2


CHAINS = (Chain(256, 64, 8), Chain(512, 64, 24), Chain(1024, 32, 8))
"""Which of them an engine is best at differs by type: f32 fills few channels, INT8 wants many."""
COPY_MIB = 256
REPEATS = 6


@dataclass(frozen=True)
class Peaks:
    """GMAC/s of 1x1 convolutions by type (None: the CPU has no such type), GB/s of copying.

    `channels` are those of the chain that each type was fastest with.
    """

    f32: float
    half: float | None
    half_name: str | None
    int8: float
    memory_gb_s: float
    channels: dict[str, int] = field(default_factory=dict)

    def rate(self, kind: str) -> float:
        """GMAC/s of "f32", "int8", or else of the half precision, f32 where there is none."""
        return {"f32": self.f32, "int8": self.int8}.get(kind, self.half or self.f32)


def measure_peaks(threads: int) -> Peaks:
    """The best of some chains and repetitions of what engines are best at."""
    half = half_precision(shared_core())
    found = {"f32": _best_chain("f32", threads, quantised=False)}
    if half:
        found["half"] = _best_chain(half, threads, quantised=False)
    found["int8"] = _best_chain("f32", threads, quantised=True)
    return Peaks(
        found["f32"][0],
        found["half"][0] if half else None,
        half,
        found["int8"][0],
        round(_copy_rate(threads), 1),
        {kind: channels for kind, (_, channels) in found.items()},
    )


def _best_chain(hint: str, threads: int, *, quantised: bool) -> tuple[float, int]:
    """GMAC/s of the fastest of CHAINS, and its channels."""
    rates = [(round(_gmacs(c, hint, threads, quantised), 1), c.channels) for c in CHAINS]
    return max(rates)


def _gmacs(chain: Chain, hint: str, threads: int, quantised: bool) -> float:
    """1e9 multiply-adds per second."""
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = _network(chain, quantised)
    request = shared_core().compile_model(model, "CPU", settings).create_infer_request()
    image = np.zeros((1, chain.channels, chain.cells, chain.cells), np.float32)
    return chain.macs / _best(lambda: request.infer([image])) / 1e9


def _network(chain: Chain, quantised: bool) -> openvino.Model:
    random, channels = np.random.default_rng(0), chain.channels
    image = ops.parameter([1, channels, chain.cells, chain.cells], np.float32)
    last = image
    for _ in range(chain.layers):
        levels = random.integers(-127, 128, (channels, channels, 1, 1)).astype(np.int8)
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


def _best(call: Callable[[], object]) -> float:
    """Seconds of the quickest call."""
    found = []
    for _ in range(REPEATS):
        begin = perf_counter()
        call()
        found.append(perf_counter() - begin)
    return min(found)


def renew(content: dict[str, Any], peaks: Peaks, when: str) -> dict[str, Any]:
    """A race with other peaks, measured `when`: its bounds are those that follow from them."""
    old = content["roofline"]
    networks = [
        {
            **entry,
            "arithmetic_ms": round(entry["macs"] / peaks.rate(entry["computed_in"]) / 1e6, 3),
            "memory_ms": round(
                entry["memory_ms"] * old["peaks"]["memory_gb_s"] / peaks.memory_gb_s, 3
            ),
        }
        for entry in old["networks"]
    ]
    return {
        **content,
        "roofline": {**old, "peaks": {**asdict(peaks), "measured": when}, "networks": networks},
    }


def renew_races(paths: list[Path]) -> None:
    """Measure this machine's peaks once, and write them into races that were run on it."""
    here = machine()["fingerprint"]
    keys = ("roofline", "machine", "threads")
    races = {path: read_content(path, keys, what="a race", made="edgeseg race") for path in paths}
    for path, content in races.items():
        if content["machine"]["fingerprint"] != here:
            raise UsageError(
                f"{path} was run on another machine ({content['machine']['cpu']}); peaks measured "
                "here say nothing about it: run it there, or 'edgeseg race' here"
            )
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    peaks = {n: measure_peaks(n) for n in {content["threads"] for content in races.values()}}
    for path, content in races.items():
        write_json(path, renew(content, peaks[content["threads"]], when))
        sys.stdout.write(f"{path}: {peaks[content['threads']]}\n")


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.benchmarks.peaks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("races", type=Path, nargs="+", help="race.json of 'edgeseg race'")
    args = parser.parse_args(words)
    return exit_code(lambda: renew_races(args.races))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
