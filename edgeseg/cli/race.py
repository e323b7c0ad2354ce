"""`edgeseg race`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from edgeseg.benchmarks.camera_frames import parse_camera
from edgeseg.cli.output import add_json, add_thread_count, positive, print_json, say
from edgeseg.cli.source import add_fit, add_foreign, source_of
from edgeseg.dataset import SPLITS
from edgeseg.errors import UsageError
from edgeseg.frame import parse_size
from edgeseg.pipeline.plan import DEFAULT_MODEL, SIZES, SYNTHETIC

EXAMPLE = (
    "edgeseg race espnet_q8_camvid --size 512x1024 --data camvid:../shared/data/camvid "
    "--out runs/race"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"name, checkpoint folder or .onnx file (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--size", type=parse_size, default=SIZES[-1], metavar="HxW", help="default: 512x1024"
    )
    parser.add_argument(
        "--data", default=SYNTHETIC, metavar="KIND:PATH", help="frames (default: synthetic:)"
    )
    parser.add_argument("--split", default="val", choices=SPLITS, help="default: %(default)s")
    parser.add_argument(
        "--camera",
        type=parse_camera,
        metavar="HxW[:FORMAT]",
        help="start from its frames: 720x1280:nv12 (default: bgr of the network's size)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="race.json, race.md and what ran"
    )
    parser.add_argument("--rounds", type=positive, default=15, help="default: %(default)s")
    parser.add_argument("--calls", type=positive, default=8, help="a turn's (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a contestant; may be repeated"
    )
    parser.add_argument("--rivals", type=Path, metavar="FILE.toml", help="further contestants")
    parser.add_argument(
        "--prepare", action="store_true", help="make the environments that --rivals names"
    )
    add_thread_count(parser)
    add_fit(parser)
    add_foreign(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.race import PAGE, Race, Rivals, prepare, race
    from edgeseg.recipe import read_recipe

    rivals = read_recipe(Rivals, args.rivals) if args.rivals else None
    if args.prepare:
        if rivals is None:
            raise UsageError("--prepare makes the environments of rivals; give --rivals FILE.toml")
        prepare(rivals, say)
    plan = Race(
        source_of(args, args.model, args.size),
        args.data,
        args.threads or len(os.sched_getaffinity(0)),
        args.split,
        args.rounds,
        args.calls,
        tuple(args.only),
        rivals,
        shlex.join(["edgeseg", *sys.argv[1:]]),
        args.camera,
    )
    found = race(plan, args.out, say)
    print_json(args.json, found)
    if args.json != "-":
        for row in found["contestants"]:
            ratio = row["ratio"]
            times = (
                ""
                if ratio is None or row["against"] == row["name"]
                else f", {ratio[1]:.2f} of {row['against']}"
            )
            print(f"{row['name']}: {row['p50_ms']:.2f} ms{times}")
        for entry in found["failed"]:
            print(f"not here: {entry['name']}: {entry['error']}")
        print(f"page: {args.out / PAGE}")
    return 0
