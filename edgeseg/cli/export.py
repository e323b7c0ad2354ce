"""`edgeseg export`."""

from __future__ import annotations

import argparse
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
from edgeseg.export.targets import TARGETS
from edgeseg.frame import format_size
from edgeseg.pipeline.model import terms_of
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
    parser.add_argument("--target", required=True, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument(
        "--precision", default="int8", metavar="P", help=f"{', '.join(PRECISIONS)} (default: int8)"
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
        default="labels",
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
    add_build_options(parser)
    add_foreign(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.export import export

    default = DEFAULT_SIZE if args.model is None else None
    source = source_of(
        args,
        args.model or DEFAULT_MODEL,
        args.size or default,
        batch=args.batch,
        scores=args.output == "scores",
    )
    plan = Plan(
        args.target,
        args.precision,
        args.method,
        budget(args),
        args.max_float_share,
        build_options(args),
    )
    out = args.out or Path(_name(source, plan))
    bundle = export(source, plan, out, calib=args.calib, gate=args.gate, say=say)
    print_json(args.json, result(bundle))
    if args.json != "-":
        print(summary(bundle))
        print(terms_of(source.model))
    return 0


def _name(source: Source, plan: Plan) -> str:
    size = f"-{format_size(source.size)}" if source.size else ""
    return f"{source.stem}-{plan.target}-{plan.precision}{size}"
