"""`edgeseg calibrate`."""

from __future__ import annotations

import argparse
import dataclasses

from edgeseg.calibration.calibrators import CHOICES
from edgeseg.cli.output import add_json, new_file, positive, print_json, say
from edgeseg.cli.source import add_foreign, add_size, source_of
from edgeseg.pipeline.plan import CALIBRATION_FRAMES, METHOD

EXAMPLE = (
    "edgeseg calibrate espnet_q8_camvid --data camvid:../shared/data/camvid --size 360x480 "
    "--out ranges.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name, checkpoint folder or .onnx file")
    parser.add_argument(
        "--data", required=True, metavar="KIND:PATH", help="frames: its train split"
    )
    parser.add_argument(
        "--out", required=True, type=new_file, metavar="FILE.json", help="range table to write"
    )
    add_size(parser)
    parser.add_argument("--method", choices=CHOICES, default=METHOD, help="default: %(default)s")
    parser.add_argument(
        "--frames",
        type=positive,
        default=CALIBRATION_FRAMES,
        metavar="N",
        help="how many, evenly spread (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        choices=("labels", "scores"),
        default="labels",
        help="as it will be given to 'edgeseg export' (default: labels)",
    )
    add_foreign(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.calibration.ranges import write_table
    from edgeseg.pipeline.export import choose_frames
    from edgeseg.pipeline.floats import make_float
    from edgeseg.pipeline.quantise import calibrate

    source = source_of(args, args.model, args.size, scores=args.output == "scores")
    frames = choose_frames(args.data, None, calibration=args.frames)
    network = make_float(source, frames.gate, say)
    table = calibrate(network, frames.calibration, args.method, say)
    write_table(args.out, table)
    print_json(args.json, dataclasses.asdict(table))
    if args.json != "-":
        print(f"{args.out}: ranges of {len(table.ranges)} tensors, {table.frames} frames")
    return 0
