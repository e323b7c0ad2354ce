"""`edgeseg export`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path

from edgeseg.bundle import PRECISIONS
from edgeseg.calibration.calibrators import CHOICES
from edgeseg.cli.building import (
    add_budget,
    add_build_options,
    budget,
    build_options,
    result,
    summary,
)
from edgeseg.cli.output import add_json, amount, positive, print_json, say
from edgeseg.cli.source import add_foreign, add_size, source_of
from edgeseg.errors import UsageError
from edgeseg.export.board_recipe import BoardRecipe, board_list, find_board
from edgeseg.export.build_options import DEVICES, FLAGS
from edgeseg.export.targets import TARGETS
from edgeseg.frame import format_size
from edgeseg.pipeline.model import find_model, takes_mask, terms_of
from edgeseg.pipeline.plan import DEFAULT_MODEL, MAX_FLOAT_SHARE, METHOD, Plan, Source

DEFAULT_SIZE = (512, 1024)
"""Of the shipped model, when none is named."""

EXAMPLE = (
    "edgeseg export espnet_q8_camvid --target openvino --precision int8 --size 360x480 "
    "--calib camvid:../shared/data/camvid --out espnet_int8"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help=f"name, checkpoint folder or .onnx file (default: {DEFAULT_MODEL} at 512x1024)",
    )
    parser.add_argument("--target", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument(
        "--precision", metavar="P", help=f"{', '.join(PRECISIONS)} (default: int8, or the board's)"
    )
    add_size(parser)
    parser.add_argument(
        "--calib", metavar="KIND:PATH|TABLE", help="train frames, or ranges by 'calibrate'"
    )
    parser.add_argument(
        "--gate", metavar="KIND:PATH", help="frames of the gate (default: --calib's)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="engine folder (default: MODEL-TARGET-P-SIZE)"
    )
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="frames per call (default: 1)"
    )
    parser.add_argument(
        "--output",
        choices=("labels", "scores"),
        help="argmax in the graph, or low-resolution scores decoded outside (default: labels)",
    )
    parser.add_argument(
        "--method",
        default=METHOD,
        choices=CHOICES,
        help="calibrator for int8 (default: %(default)s)",
    )
    add_budget(parser)
    parser.add_argument(
        "--max-float-share",
        type=amount,
        default=MAX_FLOAT_SHARE,
        metavar="SHARE",
        help="share of the convolutions that int8 may leave in float (default: %(default)s)",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="build the forms of this export, time them here, keep the fastest (minutes; resumed)",
    )
    boards = parser.add_argument_group(
        "boards", f"what is not typed comes from the board's recipe\n\n{board_list()}"
    )
    boards.add_argument("--board", metavar="NAME", help="one of these, or a TOML file of your own")
    parser.add_argument(
        "--device", choices=DEVICES, help="for openvino: what runs the network (default: CPU)"
    )
    add_build_options(parser)
    add_foreign(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.export import export
    from edgeseg.pipeline.tune import OUTPUTS, tune

    recipe = find_board(args.board) if args.board else None
    target = args.target or (recipe.target if recipe else None)
    if target is None:
        raise UsageError(f"give --target ({', '.join(TARGETS)}) or --board NAME")
    default = recipe.size if recipe else DEFAULT_SIZE if args.model is None else None
    options = dataclasses.replace(build_options(args), device=args.device)
    source = source_of(
        args,
        args.model or DEFAULT_MODEL,
        args.size or default,
        batch=args.batch,
        scores=args.output == "scores",
    )
    check_form(args, source)
    plan = Plan(
        target,
        args.precision or (recipe.precision if recipe else "int8"),
        args.method,
        budget(args),
        args.max_float_share,
        recipe.filled(options, target) if recipe else options,
        recipe.name if recipe else "",
    )
    if recipe:
        say(describe_recipe(recipe, plan, source))
    out = args.out or Path(_name(source, plan))
    make = functools.partial(export, calib=args.calib, gate=args.gate, say=say)
    if args.tune:
        outputs = (args.output,) if args.output else OUTPUTS
        bundle = tune(source, plan, out, make, say, outputs=outputs)
    else:
        bundle = make(source, plan, out)
    print_json(args.json, result(bundle))
    if args.json != "-":
        print(summary(bundle))
        for line in recipe.advice() if recipe else ():
            print(line)
        print(terms_of(source.model))
    return 0


def check_form(args: argparse.Namespace, source: Source) -> None:
    """UsageError for another form of a refiner than the one that it has."""
    typed = "--tune" if args.tune else "--output labels" if args.output == "labels" else ""
    if typed and takes_mask(find_model(source.model)):
        raise UsageError(
            f"{source.model} refines masks, and is exported with scores: classes are merged by "
            f"them. Leave {typed} away"
        )


def describe_recipe(recipe: BoardRecipe, plan: Plan, source: Source) -> str:
    """What a recipe, and what was typed over it, came to."""
    options = ", ".join(f"{FLAGS[k]} {v}" for k, v in plan.options.asked().items())
    size = format_size(source.size) if source.size else "the model's own size"
    return (
        f"board {recipe.name} ({recipe.title}): {plan.target} {plan.precision}, {size}"
        f"{f', {options}' if options else ''}"
    )


def _name(source: Source, plan: Plan) -> str:
    size = f"-{format_size(source.size)}" if source.size else ""
    board = f"-{plan.recipe}" if plan.recipe else ""
    return f"{source.stem}{board}-{plan.target}-{plan.precision}{size}"
