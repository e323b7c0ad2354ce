"""`edgeseg compare A.json B.json`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli.output import add_json, print_json

EXAMPLE = "edgeseg compare before.json after.json --fail-on 'miou<-0.5,p50>+10%'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from edgeseg.benchmarks.compare import METRICS

    parser.add_argument("a", type=Path, metavar="A.json", help="the result to compare with")
    parser.add_argument("b", type=Path, metavar="B.json", help="the new result")
    parser.add_argument(
        "--fail-on",
        metavar="CONDITIONS",
        help="exit code 1 when one holds: METRIC<-X fell by more than X, METRIC>+X rose by more, "
        f"%% for a share, joined by commas; METRIC is one of {', '.join(METRICS)}",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.benchmarks.compare import check, compare, parse_conditions, read_results, to_text

    conditions = parse_conditions(args.fail_on) if args.fail_on is not None else ()
    comparison = compare(read_results(args.a), read_results(args.b), conditions)
    print_json(args.json, comparison.to_dict())
    if args.json != "-":
        print(to_text(comparison))
    check(comparison)
    return 0
