"""`edgeseg data check`, `edgeseg data show` and `edgeseg data crops`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgeseg.cli.output import add_json, new_file, positive, print_json, progress
from edgeseg.dataset import SPLITS, Sample, list_frames, open_dataset, open_frames
from edgeseg.dataset.check import Contents, count_contents
from edgeseg.dataset.crops import Plan, check_new, hold_out, write_crops
from edgeseg.errors import UsageError
from edgeseg.frame import format_size, resize_image, resize_labels
from edgeseg.labels import IGNORE, ClassTable, ImageClasses
from edgeseg.picture import contact_sheet, legend, overlay, save_image, stack

EXAMPLE = (
    "edgeseg data check camvid:../shared/data/camvid --split val\n"
    "  edgeseg data crops camvid:../shared/data/camvid --out runs/pretrain/camvid_crops\n"
    "  edgeseg data show synthetic:size=256x512 --count 12 --out streets.png"
)
BAR = 24
COLUMNS = 2
SMALL, IMAGE = 6, 128
"""Images in a row, and their longer side, where labels are those of whole images."""
TILE_WIDTH = 640
"""Wider frames are made smaller in a contact sheet."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="check|show|crops", required=True)
    check = actions.add_parser("check", help="read every pair; class shares and all problems")
    show = actions.add_parser("show", help="contact sheet: frames beside their labels")
    for action in (check, show):
        action.add_argument("source", metavar="KIND:PATH", help="data set (docs/data.md)")
        action.add_argument("--split", default="train", choices=SPLITS, help="default: %(default)s")
    add_json(check)
    show.add_argument(
        "--count",
        type=positive,
        default=12,
        metavar="N",
        help="frames, evenly spread (default: %(default)s)",
    )
    show.add_argument("--out", type=new_file, required=True, metavar="FILE.png", help="the sheet")
    _add_crops(actions.add_parser("crops", help="a classification set cut out of labelled frames"))


def _add_crops(crops: argparse.ArgumentParser) -> None:
    plan = Plan()
    crops.add_argument("source", metavar="KIND:PATH", help="data set (docs/data.md)")
    crops.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    crops.add_argument(
        "--size",
        type=positive,
        default=plan.size,
        metavar="N",
        help="side of a crop in pixels (default: %(default)s)",
    )
    crops.add_argument(
        "--per-class",
        type=positive,
        default=plan.per_class,
        metavar="N",
        help="crops of each class in train at most, a quarter of it in val (default: %(default)s)",
    )
    crops.add_argument(
        "--seed", type=int, default=plan.seed, metavar="N", help="default: %(default)s"
    )
    crops.add_argument(
        "--split-by-frame",
        type=positive,
        metavar="N",
        help="for a set without val: every N-th frame of train is val",
    )


def run(args: argparse.Namespace) -> int:
    return {"check": _check, "show": _show, "crops": _crops}[args.action](args)


def _crops(args: argparse.Namespace) -> int:
    check_new(args.out)
    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}; expected 0 or more")
    if args.split_by_frame == 1:
        raise UsageError("--split-by-frame is 1: none is left for train; expected 2 or more")
    train = open_frames(args.source, "train")
    if isinstance(train.classes, ImageClasses):
        raise UsageError(f"{args.source} labels whole images; crops are cut by labels of pixels")
    if args.split_by_frame:
        splits = hold_out(train, args.split_by_frame)
    else:
        splits = {"train": train, "val": open_frames(args.source, "val")}
    plan = Plan(args.size, args.per_class, args.seed)
    with progress("frames") as step:
        counts = write_crops(splits, args.source, args.out, plan, step)
    width = max(map(len, counts["train"]))
    print(f"{args.out}: crops of {args.source}, {format_size((args.size, args.size))}\n")
    print(f"  {'class':<{width}}  train    val")
    for name, count in counts["train"].items():
        print(f"  {name:<{width}}  {count:5d}  {counts['val'][name]:5d}")
    left_out = [n for n in train.classes.names if n not in counts["train"]]
    if left_out:
        print(f"\nno crop in train or in val, left out: {', '.join(left_out)}")
    return 0


def _check(args: argparse.Namespace) -> int:
    frames = list_frames(args.source, args.split)
    with progress("frames") as step:
        contents = count_contents(frames, step)
    print_json(args.json, {"data": args.source, "split": args.split, **contents.to_dict()})
    if args.json != "-":
        print(_report(args.source, args.split, contents))
    return 2 if contents.problems else 0


def _report(source: str, split: str, contents: Contents) -> str:
    sizes = [f"{count} of {format_size(size)}" for size, count in contents.sizes.most_common(4)]
    if len(contents.sizes) == 1:
        sizes = [format_size(next(iter(contents.sizes)))]
    elif len(contents.sizes) > 4:
        sizes.append(f"{len(contents.sizes) - 4} more sizes")
    title = f"{source} {split}: {contents.read} {'images' if contents.whole else 'frames'}"
    lines = [f"{title}, {', '.join(sizes)}" if sizes else title, ""]
    lines += _images(contents) if contents.whole else _shares(contents)
    missing = [n for i, n in enumerate(contents.classes.names) if not contents.frames[i]]
    if missing and contents.read:
        lines += ["", f"in no frame: {', '.join(missing)}"]
    problems = contents.problems
    lines += ["", f"{len(problems)} problems:" if len(problems) > 1 else "1 problem:"]
    lines += [f"  {line}" for line in problems]
    if not problems:
        lines[-1] = "no problems found"
    return "\n".join(lines)


def _shares(contents: Contents) -> list[str]:
    names = [*contents.classes.names, "void"]
    labels = [*range(len(contents.classes)), IGNORE]
    width = max(map(len, names))
    top = max((contents.share(i) for i in labels), default=0.0) or 1.0
    lines = [f"  {'class':<{width}}  pixels %  in frames"]
    for name, label in zip(names, labels, strict=True):
        share = contents.share(label)
        bar = "█" * round(BAR * share / top)
        line = f"  {name:<{width}}  {share:8.2f}  {int(contents.frames[label]):9d}  {bar}"
        lines.append(line.rstrip())
    return lines


def _images(contents: Contents) -> list[str]:
    names = contents.classes.names
    width = max(map(len, names))
    top = int(max(contents.frames.max(), 1))
    lines = [f"  {'class':<{width}}  images"]
    for count, name in zip(contents.frames.tolist(), names, strict=False):
        lines.append(f"  {name:<{width}}  {count:6d}  {'█' * round(BAR * count / top)}".rstrip())
    return lines


def _show(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.source, args.split).spread(args.count)
    samples = list(dataset)
    if isinstance(dataset.classes, ImageClasses):
        save_image(args.out, contact_sheet([(s.name, _fit(s.image)) for s in samples], SMALL))
        print(f"{args.out}: {len(samples)} images of {args.source} {args.split}")
        return 0
    tiles = [(s.name, _tile(s, dataset.classes)) for s in samples]
    sheet = contact_sheet(tiles, COLUMNS if len(tiles) > 2 else 1)
    shown = [i for i in range(len(dataset.classes)) if any((s.labels == i).any() for s in samples)]
    save_image(args.out, stack([sheet, legend(dataset.classes, shown, sheet.shape[1])]))
    print(f"{args.out}: {len(samples)} frames of {args.source} {args.split}")
    return 0


def _fit(image: np.ndarray) -> np.ndarray:
    """The image scaled to IMAGE pixels on its longer side."""
    height, width = image.shape[:2]
    scale = IMAGE / max(height, width)
    return resize_image(image, (max(round(height * scale), 1), max(round(width * scale), 1)))


def _tile(sample: Sample, table: ClassTable) -> np.ndarray:
    image, labels = sample.image, sample.labels
    height, width = labels.shape
    if width > TILE_WIDTH:
        size = (max(round(height * TILE_WIDTH / width), 1), TILE_WIDTH)
        image, labels = resize_image(image, size), resize_labels(labels, size)
    pair: np.ndarray = np.concatenate((image, overlay(image, labels, table)), axis=1)
    return pair
