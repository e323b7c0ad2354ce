"""`edgeseg build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli.building import (
    add_budget,
    add_build_options,
    budget,
    build_options,
    result,
    summary,
)
from edgeseg.cli.output import add_json, print_json, say
from edgeseg.export.targets import BUILDERS
from edgeseg.pipeline.plan import Building

EXAMPLE = "edgeseg build espnet-int8 --workspace 512"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="made by 'edgeseg export --target onnxruntime', or built elsewhere",
    )
    parser.add_argument(
        "--target", default="tensorrt", choices=BUILDERS, help="default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="engine folder (default: FOLDER-TARGET)"
    )
    add_budget(parser)
    add_build_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.build import build

    building = Building(args.target, build_options(args), budget(args))
    folder = Path(args.folder)
    out = args.out or folder.with_name(f"{folder.resolve().name}-{args.target}")
    bundle = build(folder, building, out, say)
    print_json(args.json, result(bundle))
    if args.json != "-":
        print(summary(bundle))
    return 0
