"""`edgeseg debug-parity`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli.output import add_json, add_threads, amount, positive, print_json
from edgeseg.dataset import SPLITS
from edgeseg.runtime.engine import EngineOptions

if TYPE_CHECKING:
    from edgeseg.pipeline.parity import Reading
    from edgeseg.pipeline.parity_report import Parity

EXAMPLE = "edgeseg debug-parity runs/espnet_int8_ort runs/espnet_int8_ov --out runs/parity"

MODEL = "engine folder, checkpoint folder or .onnx file; MODEL@ENGINE opens it by another engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help=f"the reference: {MODEL}")
    parser.add_argument("b", metavar="B", help="what is examined, in the same form")
    parser.add_argument(
        "--data", metavar="KIND:PATH", help="frames (default: those of the folder's gate)"
    )
    parser.add_argument("--split", default="val", choices=SPLITS, help="default: %(default)s")
    parser.add_argument(
        "--frames", type=positive, default=4, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=amount,
        metavar="DB",
        help="a tensor has parted below this signal to noise (default: 40 for two floats, 15 for "
        "two INT8, 10 for float and INT8)",
    )
    parser.add_argument(
        "--agreement",
        type=amount,
        default=99.5,
        metavar="PERCENT",
        help="of the labels away from boundaries: below they have parted (default: %(default)s)",
    )
    parser.add_argument(
        "--like", metavar="FOLDER", help="model folder that says classes and input of .onnx files"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a picture there: parity.png")
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.disk import check_folder
    from edgeseg.pipeline.parity_report import PICTURE, Asked, debug_parity

    if args.out:
        check_folder(args.out)
    asked = Asked(
        args.a,
        args.b,
        args.data,
        args.split,
        args.frames,
        args.tolerance,
        args.agreement,
        args.like,
        args.out,
        EngineOptions(args.threads, args.inference_precision),
    )
    result = debug_parity(asked, _say)
    print_json(args.json, result.to_dict())
    if args.json != "-":
        print(text(result))
        if args.out:
            print(f"picture: {args.out / PICTURE}")
    return 1 if result.found else 0


def text(result: Parity) -> str:
    """The result for people."""
    lines = [
        f"{key}: {side['model']} ({side['name']} {side['precision']}, {side['engine']} "
        f"{side['version']}, {side['inference_precision']})"
        for key, side in (("A", result.a), ("B", result.b))
    ]
    lines.append(
        f"labels: {result.labels.agreement:.2f} % agree, {result.labels.agreement_inside:.2f} % "
        f"away from boundaries ({result.frames} frames of {result.source})"
    )
    if result.scores:
        far = result.scores.distance
        lines.append(
            f"scores '{result.scores.tensor}': SNR {far.snr_db:.1f} dB, largest difference "
            f"{far.max_abs:.3g}"
        )
    if result.found:
        lines += ["", *_table(result.found.readings, result.found.first), ""]
        lines.append(
            f"{result.found.probes} runs; parted is below {result.limits.snr_db:g} dB, or "
            f"{result.limits.agreement:g} % of labels inside"
        )
    return "\n".join([*lines, result.verdict])


def _table(readings: tuple[Reading, ...], first: str) -> list[str]:
    width = max((len(r.tensor) for r in readings), default=0)
    ops = max((len(r.node.op) for r in readings), default=0)
    return [
        f"{'>' if r.tensor == first else ' '} {r.tensor:<{width}}  {r.node.op:<{ops}}  "
        f"{'x'.join(map(str, r.shape)):<16} {r.distance.snr_db:7.1f} dB  "
        f"max {r.distance.max_abs:<9.3g} {r.state}"
        + (f", looking moved {r.labels_moved:.2f} % of the labels" if r.labels_moved > 0 else "")
        for r in readings
    ]


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr)
