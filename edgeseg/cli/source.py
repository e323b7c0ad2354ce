"""What verbs that make a float network ask about it: size, fit, and how to read a foreign file."""

from __future__ import annotations

import argparse
import math

from edgeseg.frame import FITS, ORDERS, Size, parse_size
from edgeseg.pipeline.plan import Source


def add_size(parser: argparse.ArgumentParser) -> None:
    """`--size` and `--fit`."""
    parser.add_argument(
        "--size", type=parse_size, metavar="HxW", help="height and width (default: the model's own)"
    )
    add_fit(parser)


def add_fit(parser: argparse.ArgumentParser) -> None:
    """`--fit`."""
    parser.add_argument("--fit", choices=FITS, help="how frames of another shape fit")


def add_foreign(parser: argparse.ArgumentParser) -> None:
    """`--input-order`, and what else a foreign .onnx file needs told."""
    parser.add_argument("--input-order", choices=ORDERS, help="channel order of the engine's input")
    foreign = parser.add_argument_group("for a foreign .onnx file (with a size and --input-order)")
    foreign.add_argument("--classes", metavar="TABLE", help="class table: a name or a TOML file")
    foreign.add_argument("--mean", type=three, metavar="M,M,M", help="in pixel units (0 to 255)")
    foreign.add_argument("--std", type=three, metavar="S,S,S", help="in pixel units")


def source_of(
    args: argparse.Namespace,
    model: str,
    size: Size | None = None,
    *,
    batch: int = 1,
    scores: bool = False,
) -> Source:
    """MODEL, with what the flags of `add_fit` and `add_foreign` say."""
    return Source(
        model,
        size,
        args.fit,
        args.input_order,
        batch,
        scores,
        args.classes,
        args.mean,
        args.std,
    )


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
