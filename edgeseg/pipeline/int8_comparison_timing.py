"""INT8 against float on one engine, in turns, in a process of its own.

`time_in_process` starts `python -m edgeseg.pipeline.int8_comparison_timing FLOAT INT8 ...`. Blocks
of calls alternate, so that what else happens on the machine meets both; the ratio is taken block by
block.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.latency import Latency
from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.measure import Watch
from edgeseg.benchmarks.turns import Turn, take_turns, turn_of
from edgeseg.bundle import read_manifest
from edgeseg.disk import write_json
from edgeseg.errors import EngineError
from edgeseg.runtime.segmenter import load

BLOCKS = 12
CALLS = 8
DROPPED = 2
"""Calls at the start of a block that are not counted: the other engine's threads come to rest."""


def alternate(turns: Mapping[str, Turn]) -> dict[str, list[list[float]]]:
    """Name -> BLOCKS blocks of CALLS milliseconds; one block more of each is warm-up."""
    return take_turns(turns, rounds=BLOCKS, calls=CALLS, dropped=DROPPED, warm_up=1)


def compare(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Blocks of float and of INT8 times -> both medians, and the ratio INT8 / float.

    `ratio` is [low, median, high] of the quotients of the blocks' medians.
    """
    ratios = sorted(float(np.median(b) / np.median(a)) for a, b in zip(first, second, strict=True))
    summaries = [Latency(tuple(ms for block in side for ms in block)) for side in (first, second)]
    a, b = (latency.summary() for latency in summaries)
    return {
        "float_p50_ms": a["p50"],
        "p50_ms": b["p50"],
        "n": b["n"],
        "ratio": [round(r, 3) for r in (ratios[0], float(np.median(ratios)), ratios[-1])],
    }


def time_in_process(floats: Path, int8: Path, frames: Path) -> dict[str, Any]:
    """What `compare` says of two folders of one engine, measured in a new Python process."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-timing-") as scratch:
        out = Path(scratch) / "times.json"
        words = [str(floats), str(int8), "--frames", str(frames), "--json", str(out)]
        command = [sys.executable, "-m", "edgeseg.pipeline.int8_comparison_timing", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
            raise EngineError(f"{int8} can't be timed: {last}")
        content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return content


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.pipeline.int8_comparison_timing",
        description="Time two engine folders in turns. The INT8 comparison calls it",
    )
    parser.add_argument("float", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, h, w, 3) uint8")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(words)
    frames = np.load(args.frames)
    order = read_manifest(args.float).input.order
    with (
        load(args.float, frames=order, allow_ungated=True) as a,
        load(args.int8, frames=order, allow_ungated=True) as b,
    ):
        turns = {
            name: turn_of(lambda i, s=s: s.segment(frames[i % len(frames)], at="network"))  # type: ignore[misc]
            for name, s in (("float", a), ("int8", b))
        }
        others = Watch()
        times = alternate(turns)
        others.stop()
    found = {
        **compare(times["float"], times["int8"]),
        "others_cores": others.cores,
        "cores": machine()["cores"],
    }
    write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
