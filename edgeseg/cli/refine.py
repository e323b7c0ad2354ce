"""`edgeseg refine`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.benchmarks.machine import machine
from edgeseg.cli.output import (
    add_json,
    add_thread_count,
    new_file,
    positive,
    print_json,
    progress,
)
from edgeseg.dataset import SPLITS, Dataset, open_dataset
from edgeseg.dataset.files import need_folder
from edgeseg.disk import check_new_folder
from edgeseg.errors import UsageError
from edgeseg.frame import FITS, parse_size
from edgeseg.labels import class_table
from edgeseg.picture import image_format
from edgeseg.pipeline import model as models
from edgeseg.pipeline.refine import (
    FRAMES,
    LABELS,
    Coarse,
    Source,
    choose_classes,
    frames_in,
    frames_of,
    labels_by,
    labels_in,
    open_refiner,
    refine,
)
from edgeseg.pipeline.refine_picture import draw, save
from edgeseg.runtime.engine import EngineOptions
from edgeseg.weights import terms

if TYPE_CHECKING:
    from edgeseg.runtime.segmenter import Segmenter

EXAMPLE = (
    "edgeseg refine cascadepsp_r18_camvid --frames DIR --labels DIR --table camvid11 --out DIR\n"
    "  edgeseg refine cascadepsp_r18_camvid --frames DIR --model dfanet_b_camvid --out DIR\n"
    "  edgeseg refine runs/refine/checkpoint --data camvid:../shared/data/camvid "
    "--model dfanet_b_camvid\n"
    "  edgeseg refine refine_int8 --frames DIR --model espnet_int8 --out DIR"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "refiner", metavar="REFINER",
        help="a refiner's shipped name, checkpoint folder, or engine folder, which needs no torch",
    )  # fmt: skip
    frames = parser.add_argument_group("frames")
    given = frames.add_mutually_exclusive_group(required=True)
    given.add_argument("--frames", type=Path, metavar="DIR", help="folder of PNG or JPEG images")
    given.add_argument(
        "--data", metavar="KIND:PATH", help="data set: labels are scored before and after"
    )
    frames.add_argument("--split", default="val", choices=SPLITS, help="default: %(default)s")
    frames.add_argument("--limit", type=positive, metavar="N", help="at most N, evenly spread")
    labels = parser.add_argument_group("labels to refine")
    coarse = labels.add_mutually_exclusive_group(required=True)
    coarse.add_argument("--labels", type=Path, metavar="DIR", help="DIR/NAME.png for each frame")
    coarse.add_argument("--model", metavar="MODEL", help="made by this model")
    labels.add_argument("--table", metavar="TABLE", help="class table of --labels beside --frames")
    labels.add_argument(
        "--size", type=parse_size, metavar="HxW", help="height and width (checkpoints)"
    )
    labels.add_argument("--fit", choices=FITS, help="how frames of another shape fit (checkpoints)")
    parser.add_argument("--classes", metavar="NAME,...", help="refine these only (default: all)")
    parser.add_argument(
        "--fast", action="store_true",
        help="global step only: large frames are refined scaled down (checkpoints)",
    )  # fmt: skip
    parser.add_argument(
        "--side", type=positive, metavar="PIXELS",
        help="longest side that is refined in one piece (checkpoints; default: 900)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="DIR/NAME.png: refined labels")
    parser.add_argument(
        "--picture", type=new_file, metavar="FILE",
        help="a .jpg: coarse, refined and true labels of the frames that gained most and least",
    )  # fmt: skip
    add_thread_count(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    opened = open_refiner(args.refiner, side=args.side, fast=args.fast, threads=args.threads)
    refiner, manifest = opened.refiner, opened.manifest
    with _opened(args) as segmenter:
        source, coarse = _given(args, segmenter)
        chosen = choose_classes(args.classes, source.classes)
        with progress("frames") as step:
            tally = refine(refiner, source, coarse, chosen=chosen, out=args.out, progress=step)
        found = tally.to_dict(source.classes.names)
        if args.picture is not None:
            save(args.picture, draw(refiner, source, coarse, tally, chosen))
    weights = manifest.weights
    answer = {
        "command": shlex.join(["edgeseg", *sys.argv[1:]]),
        "refiner": {
            "model": manifest.name, "params": manifest.params, "engine": opened.engine,
            "precision": manifest.precision, "size": manifest.input.size,
            "weights": dataclasses.asdict(weights), "history": list(manifest.history),
        },
        "labels": args.model or "folder",
        "data": args.data,
        "split": args.split if args.data else None,
        "classes": args.classes.split(",") if args.classes else None,
        "fast": args.fast,
        "side": opened.side,
        "machine": machine(),
        **found,
    }  # fmt: skip
    print_json(args.json, answer)
    if args.json != "-":
        _report(args, answer)
        print(f"weights of {args.refiner}: {terms(weights.data, weights.licence)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """What can be known without opening a model."""
    if args.frames is not None:
        need_folder(args.frames, FRAMES)
    if args.labels is not None:
        need_folder(args.labels, LABELS)
    if args.out is None and args.data is None:
        raise UsageError("--frames has no truth to score with: give --out DIR for refined labels")
    if args.out is not None:
        check_new_folder(args.out)
    wanted = args.frames is not None and args.labels is not None
    if wanted and args.table is None:
        raise UsageError("--labels beside --frames needs --table: which class has which id")
    if not wanted and args.table is not None:
        raise UsageError("--table is for --labels beside --frames; leave it away")
    if args.picture is not None and args.data is None:
        raise UsageError("--picture shows what was gained, which takes the truth: give --data")
    if args.picture is not None and image_format(args.picture) != "JPEG":
        raise UsageError(f"--picture {args.picture}: expected a .jpg file")
    if args.labels is not None and (args.size or args.fit):
        raise UsageError("--size and --fit are for --model; leave them away")


def _opened(args: argparse.Namespace) -> contextlib.AbstractContextManager[Segmenter | None]:
    if args.model is None:
        return contextlib.nullcontext()
    options = EngineOptions(args.threads)
    return models.open_model(args.model, size=args.size, fit=args.fit, options=options)


def _given(args: argparse.Namespace, segmenter: Segmenter | None) -> tuple[Source, Coarse]:
    """The frames, and where their labels come from."""
    dataset: Dataset | None = None
    if args.data is not None:
        dataset = open_dataset(args.data, args.split)
        source = frames_of(dataset)
    else:
        table = segmenter.classes if segmenter else class_table(args.table)
        source = frames_in(args.frames, table)
    source = source.spread(args.limit) if args.limit else source
    if segmenter is not None:
        return source, labels_by(segmenter, dataset)
    return source, labels_in(args.labels, source.names, source.classes)


def _report(args: argparse.Namespace, answer: dict[str, Any]) -> None:
    if "gain" in answer:
        before, after, gain = answer["before"], answer["after"], answer["gain"]
        for key, name in (("miou", "mIoU"), ("mba", "mBA")):
            if key in gain:
                found = gain[key]
                print(
                    f"{name:<4} {before[key]:6.2f} -> {after[key]:6.2f}: {found['value']:+.2f} "
                    f"[{found['low']:+.2f}, {found['high']:+.2f}]"
                )
        width = max(map(len, before["per_class"]))
        for name, iou in before["per_class"].items():
            if iou is not None:
                print(f"  {name:<{width}}  {iou:6.2f} -> {after['per_class'][name]:6.2f}")
        print(f"rule: {answer['rule']}")
    print(f"{answer['frames']} frames, {answer['ms_per_frame']:.0f} ms each (median)")
    if args.out:
        print(f"written: {args.out}")
