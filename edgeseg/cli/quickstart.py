"""`edgeseg quickstart`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from edgeseg.cli.bench import table
from edgeseg.cli.output import add_json, print_json, say
from edgeseg.pipeline.plan import DEFAULT_MODEL, REPORT

EXAMPLE = "edgeseg quickstart --out quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), metavar="DIR", help="default: ./quickstart"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="shipped name or checkpoint folder (default: %(default)s)",
    )
    parser.add_argument(
        "--data", metavar="KIND:PATH", help="default: synthetic streets, which need no download"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.quickstart import Quickstart, quickstart

    start = time.monotonic()
    command = shlex.join(["edgeseg", *sys.argv[1:]])
    results = quickstart(Quickstart(args.model, args.data, command), args.out, say)
    print_json(args.json, results)
    if args.json != "-":
        print()
        print(table(results))
        print(f"{time.monotonic() - start:.0f} s in all")
        print(f"report: {args.out / REPORT}")
    return 1 if results["failed"] else 0
