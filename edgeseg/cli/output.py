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

from edgeseg.disk import check_file, write_json
from edgeseg.errors import UsageError
from edgeseg.runtime.crf import CrfSpec, parse_crf
from edgeseg.runtime.engine import INFERENCE_PRECISIONS


def add_crf(parser: argparse.ArgumentParser) -> None:
    """--crf and --crf-set."""
    parser.add_argument(
        "--crf",
        action="store_true",
        help="dense CRF behind the scores (folders exported with --output scores, checkpoints)",
    )
    parser.add_argument(
        "--crf-set",
        type=parse_crf,
        metavar="NAME=VALUE,...",
        help="of the CRF: w1, w2, sigma_alpha, sigma_beta, sigma_gamma, iterations "
        "(default: DeepLab's)",
    )


def chosen_crf(args: argparse.Namespace) -> CrfSpec | None:
    """The CRF that --crf and --crf-set ask for; UsageError for the second without the first."""
    if args.crf_set is not None and not args.crf:
        raise UsageError("--crf-set changes parameters of --crf; give --crf, too")
    return (args.crf_set or CrfSpec()) if args.crf else None


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`."""
    parser.add_argument(
        "--json",
        type=_json_file,
        metavar="FILE",
        help="write the result as JSON ('-': to stdout)",
    )


def new_file(text: str) -> Path:
    """The path of a file that may be written, for argparse: refused before the work is done."""
    path = Path(text)
    try:
        check_file(path)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def _json_file(text: str) -> str:
    return text if text == "-" else str(new_file(text))


def add_thread_count(parser: argparse.ArgumentParser) -> None:
    """`--threads` alone."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: all cores)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads` and `--inference-precision`."""
    add_thread_count(parser)
    parser.add_argument(
        "--inference-precision",
        choices=INFERENCE_PRECISIONS,
        help="float arithmetic (default: f32; for fp16 and int8 folders the engine's half)",
    )


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive integer")
    return value


def say(line: str) -> None:
    """A line on standard error: what goes on, apart from the result."""
    print(line, file=sys.stderr, flush=True)


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
