"""What the rewrites of every export save: an engine's time with one pass more at a time.

`python -m edgeseg.pipeline.rewrites_speed MODEL [RESULT.json]`. Engines hold the graph without any
pass, with the first, with the first two and so on; a pass that changes nothing in this graph is
left out. They take turns in one process; what is compared is the processor time of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.race import ratio
from edgeseg.benchmarks.turns import Turn, take_turns, turn_of
from edgeseg.bundle import Bundle
from edgeseg.disk import check_file, write_json
from edgeseg.errors import UsageError, exit_code
from edgeseg.export.rewrite import PASSES, rewrite
from edgeseg.frame import Size, format_size, parse_size
from edgeseg.pipeline.export import choose_frames, export_network
from edgeseg.pipeline.floats import FloatNetwork
from edgeseg.pipeline.plan import SIZES, SYNTHETIC, Plan, Say, Source
from edgeseg.pipeline.race_networks import scored_float
from edgeseg.runtime.segmenter import Segmenter, load

BEFORE = "no pass"
ENGINES = (("openvino", "f32"), ("openvino", "bf16"), ("onnxruntime", None))
"""(target, what OpenVINO computes in)."""


def graphs(network: FloatNetwork) -> dict[str, onnx.ModelProto]:
    """BEFORE and the name of every pass that changes the graph -> the graph up to that pass."""
    found = {BEFORE: network.single}
    last = network.single
    for count, name in enumerate(PASSES, 1):
        copied = onnx.ModelProto()
        copied.CopyFrom(network.single)
        changed = rewrite(copied, list(PASSES)[:count])
        if changed.graph.node != last.graph.node:
            found[name] = last = changed
    return found


def measure(model: str, size: Size, data: str, rounds: int, say: Say) -> list[dict[str, Any]]:
    """Rows of pass, engine, median milliseconds and [low, value, high] of BEFORE's.

    UsageError where no pass changes the graph.
    """
    frames = choose_frames(data, None)
    source = Source(model, size=size, rewritten=False)
    network, _ = scored_float(source, frames.gate, say)
    made = graphs(network)
    if len(made) == 1:
        raise UsageError(f"no rewrite changes {model}; there is nothing to compare")
    rows: list[dict[str, Any]] = []
    for target, precision in ENGINES:
        plan = Plan(target, "fp32")
        with tempfile.TemporaryDirectory(prefix="edgeseg-") as folder, ExitStack() as stack:
            opened = {}
            for number, (name, graph) in enumerate(made.items()):
                variant = dataclasses.replace(network, graph=graph, single=graph)
                bundle = export_network(variant, None, plan, Path(folder) / str(number), say)
                opened[name] = stack.enter_context(_open(bundle, precision))
            rows += _rows(opened, network.gate.images[0], rounds, f"{target} {precision or 'f32'}")
    return rows


def _open(bundle: Bundle, precision: str | None) -> Segmenter:
    return load(bundle.folder, frames="rgb", threads=1, inference_precision=precision)


def _rows(
    opened: dict[str, Segmenter], image: np.ndarray, rounds: int, engine: str
) -> Iterator[dict[str, Any]]:
    def turn(segmenter: Segmenter) -> Turn:
        return turn_of(lambda _: segmenter.engine.infer(image[None]), time.process_time)

    turns = {name: turn(segmenter) for name, segmenter in opened.items()}
    taken = take_turns(turns, rounds=rounds, calls=3, dropped=1, warm_up=1)
    times = {name: np.array(found) for name, found in taken.items()}
    for name, found in times.items():
        low, value, high = ratio(found, times[BEFORE])
        middle = round(float(np.median(found)), 3)
        yield {"engine": engine, "pass": name, "cpu_ms": middle, "ratio": [low, value, high]}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.pipeline.rewrites_speed")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("out", type=Path, nargs="?", metavar="RESULT.json")
    parser.add_argument("--size", default=format_size(SIZES[-1]), metavar="HxW")
    parser.add_argument("--data", default=SYNTHETIC, metavar="KIND:PATH")
    parser.add_argument("--rounds", type=int, default=10)
    return exit_code(partial(_run, parser.parse_args(words)))


def _run(args: argparse.Namespace) -> None:
    """Measure, print a line per row, and write the result."""
    if args.out:
        check_file(args.out)
    rows = measure(args.model, parse_size(args.size), args.data, args.rounds, _say)
    for row in rows:
        low, value, high = row["ratio"]
        sys.stdout.write(
            f"{row['engine']:<16} {row['pass']:<26} {row['cpu_ms']:8.1f} ms  "
            f"{value:.2f} ({low:.2f} to {high:.2f})\n"
        )
    if args.out:
        content = {
            "model": args.model, "size": args.size, "rounds": args.rounds,
            "machine": machine(), "rows": rows,
        }  # fmt: skip
        write_json(args.out, content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
