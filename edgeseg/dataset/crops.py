"""A small classification set out of any labelled set: crops of what can be seen in its frames.

A crop of a class is a square window whose middle pixel has that class and of which at least
SHARE is that class. In each frame every class gives at most one window of each side in SIDES, at a
random place among those that there are; then each split keeps at most a given number of each
class, drawn at random. Small things come from small windows; large ones from all of them, so that
the sharpness of a crop does not tell its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg.dataset.files import Frames
from edgeseg.disk import write_json, writing_folder
from edgeseg.errors import DataError, UsageError
from edgeseg.frame import Box, resize_image

SIDES = (96, 64, 48, 32, 24, 16, 12)
"""Sides of windows in pixels of the frame."""
SHARE = 0.4
SPLITS = ("train", "val")
NOTE = "crops.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """Side of the crops; how many of each class are kept in train, and a quarter of it in val."""

    size: int = 64
    per_class: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """Square box of a frame, by the frame's place in its split."""

    frame: int
    box: Box


def find_windows(
    labels: np.ndarray, classes: int, generator: np.random.Generator
) -> dict[int, list[Box]]:
    """(H, W) uint8 labels -> windows of each class that has any."""
    found: dict[int, list[Box]] = {}
    for label in range(classes):
        own = labels == label
        if not own.any():
            continue
        sums = np.zeros((own.shape[0] + 1, own.shape[1] + 1), np.int64)
        sums[1:, 1:] = own.cumsum(0).cumsum(1)
        for side in SIDES:
            if side > min(own.shape):
                continue
            counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side]
            counts += sums[:-side, :-side]
            half = side // 2
            middle = own[half : half + counts.shape[0], half : half + counts.shape[1]]
            places = np.argwhere((counts >= SHARE * side * side) & middle)
            if len(places):
                top, left = (int(v) for v in places[generator.integers(len(places))])
                found.setdefault(label, []).append(Box(top, left, top + side, left + side))
    return found


def choose(
    frames: Frames, keep: int, words: tuple[int, ...], progress: Progress | None = None
) -> dict[int, list[Window]]:
    """At most `keep` windows of each class in all frames; `words` seed what is drawn."""
    every: dict[int, list[Window]] = {}
    for i in range(len(frames.names)):
        labels = frames.read(i)[1]
        generator = np.random.default_rng((*words, i))
        for label, boxes in find_windows(labels, len(frames.classes), generator).items():
            every.setdefault(label, []).extend(Window(i, box) for box in boxes)
        if progress:
            progress(i + 1, len(frames.names))
    chosen = {}
    for label, windows in every.items():
        order = np.random.default_rng((*words, len(frames.names), label)).permutation(len(windows))
        chosen[label] = [windows[i] for i in sorted(order[:keep])]
    return chosen


def hold_out(frames: Frames, every: int) -> dict[str, Frames]:
    """Every so many-th frame, the first one first, is val; the others are train."""
    indices = range(len(frames.names))
    val = [i for i in indices if i % every == 0]
    return {
        "train": _part(frames, [i for i in indices if i % every]),
        "val": _part(frames, val),
    }


def _part(frames: Frames, indices: list[int]) -> Frames:
    names = tuple(frames.names[i] for i in indices)
    return Frames(frames.classes, names, lambda i: frames.read(indices[i]))


def write_crops(
    splits: dict[str, Frames],
    source: str,
    out: Path,
    plan: Plan,
    progress: Progress | None = None,
) -> dict[str, Counter[str]]:
    """Write ROOT/train/CLASS/*.png and ROOT/val/CLASS/*.png; the number of crops by split, class.

    A class without a crop in one of the splits is left out of both. The folder appears whole.
    """
    check_new(out)
    names = splits["train"].classes.names
    chosen = {}
    for number, split in enumerate(SPLITS):
        keep = plan.per_class if split == "train" else -(-plan.per_class // 4)
        chosen[split] = choose(splits[split], keep, (plan.seed, number), progress)
    kept = [i for i in range(len(names)) if all(i in chosen[split] for split in SPLITS)]
    if not kept:
        raise DataError(
            f"{source}: no class fills {SHARE:.0%} of a {SIDES[-1]}x{SIDES[-1]} window in a frame "
            "of train and in one of val; there is nothing to crop"
        )
    counts = {s: Counter({names[i]: len(chosen[s][i]) for i in kept}) for s in SPLITS}
    with writing_folder(out) as aside:
        for split in SPLITS:
            _cut(splits[split], {i: chosen[split][i] for i in kept}, aside / split, plan.size)
        note = {"source": source, "size": plan.size, "per_class": plan.per_class,
                "seed": plan.seed, "crops": counts}  # fmt: skip
        write_json(aside / NOTE, note)
    return counts


def check_new(out: Path) -> None:
    """UsageError if there is something at `out` already."""
    if out.exists():
        raise UsageError(f"{out} exists already; give --out a new folder")


def _cut(frames: Frames, chosen: dict[int, list[Window]], folder: Path, size: int) -> None:
    """Each frame is read once; a crop is named by its frame and its place in it."""
    by_frame: dict[int, list[tuple[int, Box]]] = {}
    for label, windows in chosen.items():
        (folder / _folder(frames, label)).mkdir(parents=True)
        for window in windows:
            by_frame.setdefault(window.frame, []).append((label, window.box))
    for frame, boxes in by_frame.items():
        image = frames.read(frame)[0]
        stem = frames.names[frame].replace("/", "_")
        for label, box in boxes:
            crop = resize_image(image[box.slices], (size, size))
            name = f"{stem}_{box.top}_{box.left}_{box.bottom - box.top}.png"
            Image.fromarray(crop).save(folder / _folder(frames, label) / name)


def _folder(frames: Frames, label: int) -> str:
    return frames.classes.names[label].replace("/", "_")
