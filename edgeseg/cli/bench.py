"""`edgeseg bench`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.latency import StopRule
from edgeseg.benchmarks.pacing import Pace
from edgeseg.benchmarks.rows import unclean
from edgeseg.benchmarks.soak import check_soak
from edgeseg.bundle import PRECISIONS
from edgeseg.cli.output import (
    add_crf,
    add_json,
    add_threads,
    amount,
    chosen_crf,
    positive,
    print_json,
    say,
)
from edgeseg.cli.source import add_fit, add_foreign, source_of
from edgeseg.dataset import SPLITS, open_dataset
from edgeseg.errors import UsageError, guess
from edgeseg.frame import format_size, parse_size
from edgeseg.pipeline.model import terms_of
from edgeseg.pipeline.plan import REPORT, SIZES
from edgeseg.pipeline.random_weights import ANY, CALIBRATION_FRAMES, GATE_FRAMES, make_random
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
        "--warm-up-calls",
        type=positive,
        default=StopRule.warm_up_calls,
        metavar="N",
        help="calls at least before that, untimed, and half a second (default: %(default)s)",
    )
    parser.add_argument(
        "--build-only",
        action="store_true",
        help="engines/ and built.json alone: measure them later, or on a board",
    )
    _add_robot(parser)
    add_crf(parser)
    parser.add_argument(
        "--allow-ungated", action="store_true", help="run folders that no accuracy gate passed"
    )
    parser.add_argument(
        "--weights",
        choices=("random",),
        help="of models named without shipped ones: MACs and latency alone, and every row says so",
    )
    add_foreign(parser)
    add_threads(parser)
    add_json(parser)


def _add_robot(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("as on a robot (docs/benchmarks.md)")
    group.add_argument(
        "--fps", type=amount, metavar="F", help="frames come as from a camera, so many a second"
    )
    group.add_argument(
        "--deadline-ms",
        type=amount,
        metavar="MS",
        help="labels are due so long after their frame came (default: the camera's period)",
    )
    group.add_argument(
        "--soak",
        type=duration,
        metavar="TIME",
        help="run on for 90s, 30m or 2h: does latency drift, does memory grow?",
    )


def run(args: argparse.Namespace) -> int:
    from edgeseg.pipeline.bench import Suite, bench, build

    for precision in args.precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{precision}'.{guess(precision, PRECISIONS)}")
    if args.build_only and (args.fps is not None or args.soak is not None):
        raise UsageError("--build-only measures nothing: leave --fps and --soak away")
    crf = chosen_crf(args)
    models, untrained = (_random(args), UNTRAINED) if args.weights else (args.models, {})
    suite = Suite(
        tuple(source_of(args, model, scores=crf is not None) for model in models),
        args.data,
        args.split,
        args.sizes,
        args.targets,
        args.precisions,
        args.calib,
        args.limit,
        EngineOptions(args.threads, args.inference_precision),
        StopRule(args.samples, args.seconds, args.max_seconds, args.warm_up_calls),
        shlex.join(["edgeseg", *sys.argv[1:]]),
        allow_ungated=args.allow_ungated,
        pace=_pace(args),
        soak=args.soak,
        crf=crf,
        **untrained,
    )
    if args.build_only:
        return _built(args, build(suite, args.out, say))
    results = bench(suite, args.out, say)
    print_json(args.json, results)
    if args.json != "-":
        print(table(results))
        for model in models:
            print(terms_of(model))
        print(f"report: {args.out / REPORT}")
    throttled = unclean(results["results"])
    if throttled:
        say(f"edgeseg: {throttled}")
    return 1 if results["failed"] or throttled else 0


def _built(args: argparse.Namespace, built: dict[str, Any]) -> int:
    print_json(args.json, built)
    if args.json != "-":
        for folder in built["folders"]:
            print(folder)
        for entry in built["failed"]:
            print(f"failed: {entry['folder']}: {entry['error']}")
    return 1 if built["failed"] else 0


UNTRAINED: dict[str, Any] = {
    "budget": ANY,
    "calibration_frames": CALIBRATION_FRAMES,
    "gate_frames": GATE_FRAMES,
}
"""How networks of random weights are built: any gate will do, and few frames."""


def _random(args: argparse.Namespace) -> list[str]:
    """Checkpoint folders of random weights, for the classes of the data."""
    table = open_dataset(args.data, args.split).classes
    folder = args.out / "models"
    say(f"random weights for {', '.join(args.models)}: MACs and latency alone")
    return [str(make_random(name, table, args.sizes[0], folder)) for name in args.models]


def _pace(args: argparse.Namespace) -> Pace | None:
    if args.fps is None:
        if args.deadline_ms is not None:
            raise UsageError("--deadline-ms is for frames of a camera: give --fps too")
        return None
    if not args.fps:
        raise UsageError("--fps is 0; expected frames a second")
    return Pace(args.fps, 1e3 / args.fps if args.deadline_ms is None else args.deadline_ms)


def duration(text: str) -> float:
    """`"90s"`, `"30m"`, `"2h"` -> seconds, for argparse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no time such as 90s, 30m or 2h")
    seconds = float(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2)]
    try:
        check_soak(seconds)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return seconds


def table(results: dict[str, Any]) -> str:
    """The rows as a plain table."""
    head = ("model", "engine", "precision", "size", "GMACs", "p50 ms", "p90 ms", "MiB", "mIoU")
    rows = [head, *(_cells(row) for row in results["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)) for row in rows]
    lines += [told for row in results["results"] if (told := findings(row))]
    lines += [f"failed: {f['folder']}: {f['error']}" for f in results["failed"]]
    return "\n".join(lines)


def findings(row: dict[str, Any]) -> str:
    """What a CRF costs, what a camera, a meter and a long run found; "" without them."""
    lines = []
    if row.get("crf"):
        cost = _number(row["stages_ms"]["crf"]["p50"], 1)
        lines.append(f"dense CRF ({row['crf']['by']}): {cost} ms of each call")
    if pace := row.get("pace"):
        jitter = (pace["jitter_ms"] or {}).get("p50")
        lines.append(
            f"{pace['missed']} of {pace['frames']} frames missed {pace['deadline_ms']:g} ms at "
            f"{pace['fps']:g} fps ({pace['late']} late, {pace['lost']} lost), jitter p50 "
            f"{_number(jitter, 2)} ms"
        )
    if (power := row.get("power")) and power["energy_mj_per_frame"] is not None:
        lines.append(
            f"{power['total_w']['mean']:.2f} W, {power['energy_mj_per_frame']:.1f} mJ a frame"
        )
    if soak := row.get("soak"):
        verdict = "steady" if soak["steady"] else "; ".join(soak["found"])
        host = soak["host_growth"]
        grown = "" if host is None else f", host memory {host['mib']:+.1f} MiB"
        lines.append(
            f"soak of {soak['seconds']:.0f} s: {verdict} (latency {soak['drift_percent']:+.1f} "
            f"%{grown})"
        )
    name = f"{row['model']} {row['target']} {row['precision']} {format_size(tuple(row['size']))}"
    return "\n".join(f"{name}: {line}" for line in lines)


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
        f"{row['precision']} ({arithmetic})" + (" + CRF" if row.get("crf") else ""),
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
