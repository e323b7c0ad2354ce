"""`edgeseg bench`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.latency import StopRule
from edgeseg.bundle import PRECISIONS
from edgeseg.cli.output import add_json, add_threads, amount, positive, print_json, say
from edgeseg.cli.source import add_fit, add_foreign, source_of
from edgeseg.dataset import SPLITS
from edgeseg.errors import UsageError, guess
from edgeseg.frame import format_size, parse_size
from edgeseg.pipeline.model import terms_of
from edgeseg.pipeline.plan import REPORT, SIZES
from edgeseg.runtime.engine import EngineOptions

EXAMPLE = (
    "edgeseg bench espnet_q8_camvid --sizes 256x512,512x1024 --data camvid:../shared/data/camvid "
    "--out bench_camvid"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="names, checkpoint folders, engine folders or .onnx files",
    )
    parser.add_argument(
        "--data", required=True, metavar="KIND:PATH", help="frames for mIoU and timing"
    )
    parser.add_argument("--split", default="val", choices=SPLITS, help="default: %(default)s")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="results.json, report.html, engines/"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=SIZES,
        metavar="HxW,...",
        help="of what is no engine folder yet (default: 256x512,512x1024)",
    )
    parser.add_argument(
        "--targets",
        type=_words,
        default=("onnxruntime", "openvino"),
        metavar="TARGET,...",
        help="of onnxruntime, openvino, torch (always fp32) (default: onnxruntime,openvino)",
    )
    parser.add_argument(
        "--precisions",
        type=_words,
        default=("fp32", "int8"),
        metavar="P,...",
        help=f"of {', '.join(PRECISIONS)} (default: fp32,int8)",
    )
    add_fit(parser)
    parser.add_argument(
        "--calib", metavar="KIND:PATH", help="train frames for INT8 and gate (default: --data's)"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="frames for mIoU, evenly spread"
    )
    parser.add_argument(
        "--seconds", type=amount, default=3.0, metavar="S", help="timing at least so long"
    )
    parser.add_argument(
        "--max-seconds", type=amount, default=20.0, metavar="S", help="timing at most so long"
    )
    parser.add_argument(
        "--samples", type=positive, default=100, metavar="N", help="timed calls at least"
    )
    parser.add_argument(
        "--allow-ungated", action="store_true", help="run folders that no accuracy gate passed"
    )
    add_foreign(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.bench import Suite, bench

    for precision in args.precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{precision}'.{guess(precision, PRECISIONS)}")
    suite = Suite(
        tuple(source_of(args, model) for model in args.models),
        args.data,
        args.split,
        args.sizes,
        args.targets,
        args.precisions,
        args.calib,
        args.limit,
        EngineOptions(args.threads, args.inference_precision),
        StopRule(args.samples, args.seconds, args.max_seconds),
        shlex.join(["edgeseg", *sys.argv[1:]]),
        allow_ungated=args.allow_ungated,
    )
    results = bench(suite, args.out, say)
    print_json(args.json, results)
    if args.json != "-":
        print(table(results))
        for model in args.models:
            print(terms_of(model))
        print(f"report: {args.out / REPORT}")
    return 1 if results["failed"] else 0


def table(results: dict[str, Any]) -> str:
    """The rows as a plain table."""
    head = ("model", "engine", "precision", "size", "GMACs", "p50 ms", "p90 ms", "MiB", "mIoU")
    rows = [head, *(_cells(row) for row in results["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)) for row in rows]
    lines += [f"failed: {f['folder']}: {f['error']}" for f in results["failed"]]
    return "\n".join(lines)


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Words to the left, numbers (from the fifth column on) to the right."""
    pairs = list(zip(row, widths, strict=True))
    return [c.ljust(w) for c, w in pairs[:4]] + [c.rjust(w) for c, w in pairs[4:]]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    latency = row["latency_ms"]
    arithmetic = row["inference_precision"]
    return (
        row["model"],
        row["target"],
        f"{row['precision']} ({arithmetic})",
        format_size(tuple(row["size"])),
        "-" if row["macs"] is None else f"{row['macs'] / 1e9:.2f}",
        _number(latency["p50"], 1),
        _number(latency["p90"], 1),
        _number(row["peak_rss_mib"], 0),
        _number(row["miou"], 2),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(parse_size(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
