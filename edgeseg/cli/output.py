"""What verbs share: flags, progress on a terminal, JSON to a file or standard output."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeseg.disk import write_json
from edgeseg.frame import ORDERS


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`."""
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON ('-': to stdout)")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads` and `--inference-precision`."""
    parser.add_argument("--threads", type=positive, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--inference-precision",
        choices=("f32", "bf16", "f16"),
        help="float arithmetic of the engine (default: f32; for fp16 folders the engine's half)",
    )


def add_foreign(parser: argparse.ArgumentParser) -> None:
    """`--input-order`, and what else a foreign .onnx file needs told."""
    parser.add_argument("--input-order", choices=ORDERS, help="channel order of the engine's input")
    foreign = parser.add_argument_group("for a foreign .onnx file (with a size and --input-order)")
    foreign.add_argument("--classes", metavar="TABLE", help="class table: a name or a TOML file")
    foreign.add_argument("--mean", type=three, metavar="M,M,M", help="in pixel units (0 to 255)")
    foreign.add_argument("--std", type=three, metavar="S,S,S", help="in pixel units")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive integer")
    return value


def print_json(target: str | None, content: Any) -> None:
    """Write `content` where `--json` says; nothing without it."""
    if target == "-":
        print(json.dumps(content, indent=1, allow_nan=False))
    elif target:
        write_json(Path(target), content)


def amount(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 0")
    return value


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on standard error that counts `what`; silent when that is no terminal."""
    start = time.monotonic()
    shown = sys.stderr.isatty()

    def step(done: int, total: int) -> None:
        if shown:
            left = (time.monotonic() - start) / max(done, 1) * (total - done)
            print(f"\r{done}/{total} {what}, {left:.0f} s left \x1b[K", end="", file=sys.stderr)

    try:
        yield step
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr)


def three(text: str) -> tuple[float, float, float]:
    """`"1,2,3"` -> three numbers, for argparse."""
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not three numbers, such as 123.7,116.3,103.5"
        ) from None
    if not all(map(math.isfinite, (a, b, c))):
        raise argparse.ArgumentTypeError(f"'{text}' holds nan or infinity")
    return a, b, c
