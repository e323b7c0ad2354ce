"""`edgeseg build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.bundle import read_manifest
from edgeseg.cli.building import (
    add_budget,
    add_build_options,
    budget,
    build_options,
    result,
    summary,
)
from edgeseg.cli.output import add_json, print_json, say
from edgeseg.export.board_recipe import board_names, find_board
from edgeseg.export.build_options import FLAGS
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
    parser.add_argument(
        "--board", metavar="NAME", help="recipe for what is not typed (default: the folder's own)"
    )
    add_budget(parser)
    add_build_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.build import build

    folder = Path(args.folder)
    named = args.board or read_manifest(folder).recipe
    options = build_options(args)
    recipe = find_board(named) if args.board or named in board_names() else None
    if recipe:
        options = recipe.filled(options, args.target)
        asked = ", ".join(f"{FLAGS[k]} {v}" for k, v in options.asked().items())
        say(f"board {recipe.name} ({recipe.title}): {asked or 'no options'}")
    elif named:
        say(f"the folder was made by recipe '{named}', which is not here: its options are not used")
    building = Building(args.target, options, budget(args), recipe.name if recipe else "")
    out = args.out or folder.with_name(f"{folder.resolve().name}-{args.target}")
    bundle = build(folder, building, out, say)
    print_json(args.json, result(bundle))
    if args.json != "-":
        print(summary(bundle))
        for line in recipe.advice() if recipe else ():
            print(line)
    return 0
