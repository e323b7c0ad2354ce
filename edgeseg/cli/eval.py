"""`edgeseg eval`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses

from edgeseg.benchmarks.accuracy import COMPARED, Evaluation, evaluate
from edgeseg.benchmarks.measure import seen_in_training
from edgeseg.cli.output import (
    add_crf,
    add_json,
    add_threads,
    chosen_crf,
    positive,
    print_json,
    progress,
)
from edgeseg.dataset import SPLITS, open_dataset
from edgeseg.frame import FITS, format_size, parse_size
from edgeseg.pipeline import model as pipeline
from edgeseg.runtime.crf_segmenter import CrfSegmenter
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.segmenter import Segmenter

EXAMPLE = (
    "edgeseg eval espnet_q8_camvid --data camvid:../shared/data/camvid --split val --size 360x480"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name, checkpoint folder or engine folder")
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help="data set")
    parser.add_argument("--split", default="val", choices=SPLITS, help="default: %(default)s")
    parser.add_argument(
        "--size", type=parse_size, metavar="HxW", help="height and width (checkpoints)"
    )
    parser.add_argument("--fit", choices=FITS, help="how frames of another shape fit (checkpoints)")
    parser.add_argument(
        "--labels-at",
        choices=COMPARED,
        default="frame",
        help="compare at the frame's label size or at the network's (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="at most N frames, evenly spread"
    )
    parser.add_argument(
        "--allow-ungated", action="store_true", help="run a folder that no accuracy gate passed"
    )
    parser.add_argument(
        "--boundary", action="store_true", help="mean boundary accuracy (mBA) beside mIoU"
    )
    add_crf(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.data, args.split)
    if args.limit:
        dataset = dataset.spread(args.limit)
    with _opened(args) as segmenter:
        with progress("frames") as step:
            result = evaluate(
                segmenter, dataset, at=args.labels_at, progress=step, boundary=args.boundary
            )
        engine = segmenter.engine
        weights = segmenter.bundle.manifest.weights
        kind = args.data.partition(":")[0]
        described = {
            "model": segmenter.bundle.manifest.name,
            "engine": type(engine).__name__,
            "version": engine.version,
            "inference_precision": engine.inference_precision,
            "seen_in_training": seen_in_training(weights.data, kind, args.split),
            "weights": dataclasses.asdict(weights),
        }
        cost = segmenter.describe_cost() if isinstance(segmenter, CrfSegmenter) else None
        if isinstance(segmenter, CrfSegmenter):
            described["crf"] = segmenter.cost()
    print_json(args.json, {**described, **result.to_dict()})
    if args.json != "-":
        print(_table(result))
        if cost:
            print(cost)
        print(pipeline.terms_of(args.model))
    return 0


def _opened(args: argparse.Namespace) -> contextlib.AbstractContextManager[Segmenter]:
    options = EngineOptions(args.threads, args.inference_precision)
    crf = chosen_crf(args)
    if crf is not None:
        return pipeline.open_with_crf(
            args.model, crf, size=args.size, fit=args.fit, options=options,
            allow_ungated=args.allow_ungated,
        )  # fmt: skip
    return pipeline.open_model(
        args.model, size=args.size, fit=args.fit, options=options,
        allow_ungated=args.allow_ungated,
    )  # fmt: skip


def _table(result: Evaluation) -> str:
    width = max(map(len, result.per_class))
    rows = [
        f"  {name:<{width}}  {'  not in the truth' if iou is None else f'{iou:6.2f}'}"
        for name, iou in result.per_class.items()
    ]
    size = format_size(result.size) if result.size else "any size"
    return (
        f"mIoU {result.miou:.2f}, pixel accuracy {result.pixel_accuracy:.2f}"
        f"{'' if result.mba is None else f', mBA {result.mba:.2f}'} "
        f"({result.frames} frames of {result.data}, {result.split}; {size}, fit {result.fit})\n"
        + "\n".join(rows)
        + f"\nrule: {result.rule}"
    )
