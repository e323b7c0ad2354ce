"""`edgeseg data check` and `edgeseg data show`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgeseg.cli.output import add_json, positive, print_json, progress
from edgeseg.dataset import SPLITS, Sample, list_frames, open_dataset
from edgeseg.dataset.check import Contents, count_contents
from edgeseg.frame import format_size, resize_image, resize_labels
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.picture import contact_sheet, legend, overlay, save_image, stack

EXAMPLE = (
    "edgeseg data check camvid:../shared/data/camvid --split val\n"
    "  edgeseg data show synthetic:size=256x512 --count 12 --out streets.png"
)
BAR = 24
COLUMNS = 2
TILE_WIDTH = 640
"""Wider frames are made smaller in a contact sheet."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="check|show", required=True)
    check = actions.add_parser("check", help="read every pair; class shares and all problems")
    show = actions.add_parser("show", help="contact sheet: frames beside their labels")
    for action in (check, show):
        action.add_argument("source", metavar="KIND:PATH", help="data set (docs/data.md)")
        action.add_argument("--split", default="train", choices=SPLITS, help="default: %(default)s")
    add_json(check)
    show.add_argument(
        "--count", type=positive, default=12, help="frames, evenly spread (default: %(default)s)"
    )
    show.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the sheet")


def run(args: argparse.Namespace) -> int:
    return _check(args) if args.action == "check" else _show(args)


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
    title = f"{source} {split}: {contents.read} frames"
    lines = [f"{title}, {', '.join(sizes)}" if sizes else title, ""]
    lines += _shares(contents)
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


def _show(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.source, args.split).spread(args.count)
    samples = list(dataset)
    tiles = [(s.name, _tile(s, dataset.classes)) for s in samples]
    sheet = contact_sheet(tiles, COLUMNS if len(tiles) > 2 else 1)
    shown = [i for i in range(len(dataset.classes)) if any((s.labels == i).any() for s in samples)]
    save_image(args.out, stack([sheet, legend(dataset.classes, shown, sheet.shape[1])]))
    print(f"{args.out}: {len(samples)} frames of {args.source} {args.split}")
    return 0


def _tile(sample: Sample, table: ClassTable) -> np.ndarray:
    image, labels = sample.image, sample.labels
    height, width = labels.shape
    if width > TILE_WIDTH:
        size = (max(round(height * TILE_WIDTH / width), 1), TILE_WIDTH)
        image, labels = resize_image(image, size), resize_labels(labels, size)
    pair: np.ndarray = np.concatenate((image, overlay(image, labels, table)), axis=1)
    return pair
