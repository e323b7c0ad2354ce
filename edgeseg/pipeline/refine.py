"""Coarse labels of frames -> finer ones in a folder, and both scored where the truth is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgeseg.benchmarks.accuracy import Progress, check_classes
from edgeseg.benchmarks.bootstrap import DRAWS, LEVEL, difference, mean_difference
from edgeseg.bundle import Manifest, read_manifest
from edgeseg.dataset import Dataset, read_image, spread_evenly
from edgeseg.dataset.files import by_stem, id_labels, need_folder, photos, read_labels
from edgeseg.errors import DataError, UsageError, guess
from edgeseg.frame import format_size
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.metrics import BOUNDARY_RULE, RULE, BoundaryAccuracy, ConfusionMatrix
from edgeseg.picture import save_labels
from edgeseg.pipeline.model import find_model
from edgeseg.runtime.refiner import Refiner, load_refiner
from edgeseg.runtime.segmenter import Segmenter

FRAMES = "--frames expects one of PNG or JPEG images"
LABELS = "--labels expects one of label PNGs"
"""What is said where there is no such folder."""

Coarse = Callable[[str, np.ndarray], np.ndarray]
"""Name and (H, W, 3) uint8 RGB frame -> (H, W) uint8 labels that are to be refined."""


@dataclass(frozen=True)
class Opened:
    """A refiner, its folder's manifest, and what runs it, such as "openvino 2026.4.0".

    `side` is the longest side that a checkpoint refines in one piece.
    """

    refiner: Refiner
    manifest: Manifest
    engine: str
    side: int | None = None


def open_refiner(
    model: str | Path, *, side: int | None = None, fast: bool = False, threads: int | None = None
) -> Opened:
    """A shipped name or a folder: an engine at its own size without torch, a checkpoint in torch.

    `side` and `fast` are those of a checkpoint (training/refiner.py), and refused for an engine.
    """
    folder = find_model(str(model))
    manifest = read_manifest(folder)
    if manifest.kind == "network":
        if side is not None or fast:
            raise UsageError(
                f"{folder} refines at its own size of {format_size(manifest.input.size or (0, 0))}"
                "; --side and --fast are for checkpoints: leave them away"
            )
        loaded = load_refiner(folder, frames="rgb", threads=threads)
        target = manifest.target
        assert target is not None  # load_refiner has opened it
        return Opened(loaded, manifest, f"{target.name} {loaded.engine.version}")
    from edgeseg.training import refiner as in_torch

    side = in_torch.SIDE if side is None else side
    found, version = in_torch.open_refiner(folder, side=side, fast=fast, threads=threads)
    return Opened(found, manifest, f"torch {version}", side)


@dataclass(frozen=True)
class Item:
    """A frame (H, W, 3) uint8 RGB, and its true labels (H, W) uint8 where they are known."""

    image: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class Source:
    """Named frames, read when asked for."""

    names: Sequence[str]
    classes: ClassTable
    read: Callable[[int], Item]

    def spread(self, count: int) -> Source:
        """At most `count` frames, evenly spread, as `Dataset.spread`."""
        if count >= len(self.names):
            return self
        chosen = spread_evenly(len(self.names), count)
        names = tuple(self.names[i] for i in chosen)
        return Source(names, self.classes, lambda index: self.read(chosen[index]))


def frames_of(dataset: Dataset) -> Source:
    """The frames of a data set, with their truth."""

    def read(index: int) -> Item:
        sample = dataset[index]
        return Item(sample.image, sample.labels)

    return Source(dataset.names, dataset.classes, read)


def frames_in(folder: Path, classes: ClassTable) -> Source:
    """The PNG and JPEG files of a folder."""
    paths = by_stem(photos(need_folder(folder, FRAMES)))
    if not paths:
        raise DataError(f"--frames {folder}: holds no PNG or JPEG images")
    names = tuple(paths)
    return Source(names, classes, lambda index: Item(read_image(paths[names[index]]), None))


def labels_in(folder: Path, names: Collection[str], classes: ClassTable) -> Coarse:
    """Label PNGs (ids of `classes`, 255 for none) that are named as the frames."""
    paths = by_stem(need_folder(folder, LABELS).glob("*.png"))
    missing = [name for name in names if name not in paths]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"--labels {folder}: frame '{missing[0]}'{more} has no {missing[0]}.png there"
        )
    ids = np.arange(256)
    to_ids = id_labels(ids.astype(np.uint8), (ids < len(classes)) | (ids == IGNORE))
    return lambda name, image: read_labels(paths[name], to_ids, image)


def labels_by(segmenter: Segmenter, dataset: Dataset | None) -> Coarse:
    """What a model says; DataError if `dataset` has other classes."""
    if dataset is not None:
        check_classes(segmenter, dataset)
    return lambda _, image: segmenter.segment(image)


def choose_classes(text: str | None, classes: ClassTable) -> list[int] | None:
    """`"car,road"` -> their ids; None for all classes."""
    if text is None:
        return None
    for name in text.split(","):
        if name not in classes.names:
            raise UsageError(f"--classes: no class '{name}'.{guess(name, classes.names)}")
    return [classes.names.index(name) for name in text.split(",")]


@dataclass
class Tally:
    """Scores of the labels before and after, frame by frame."""

    classes: int
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    edges_before: BoundaryAccuracy = field(default_factory=BoundaryAccuracy)
    edges_after: BoundaryAccuracy = field(default_factory=BoundaryAccuracy)
    took: list[float] = field(default_factory=list)

    def add(self, truth: np.ndarray, coarse: np.ndarray, finer: np.ndarray) -> None:
        """Count a frame."""
        for counts, labels in ((self.before, coarse), (self.after, finer)):
            matrix = ConfusionMatrix(self.classes)
            matrix.update(truth, labels)
            counts.append(matrix.counts)
        self.edges_before.update(truth, coarse)
        self.edges_after.update(truth, finer)

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Frames, time and, where the truth is known, `scores`."""
        plain = {"frames": len(self.took), "ms_per_frame": round(statistics.median(self.took), 1)}
        return plain | (self.scores(names) if self.before else {})

    def scores(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Before, after and what was gained, in percent, with intervals over frames."""
        before, after = np.stack(self.before), np.stack(self.after)
        if not before.any():
            raise DataError("the frames have no labelled pixel, so nothing can be scored")
        edges = (self.edges_before, self.edges_after)
        gain = {"miou": difference(after, before)}
        if edges[0].frames:
            gain["mba"] = mean_difference(edges[1].frames, edges[0].frames)
        return {
            "before": _scores(before, edges[0], names),
            "after": _scores(after, edges[1], names),
            "gain": {key: asdict(found) for key, found in gain.items()},
            "bootstrap": {"draws": DRAWS, "level": LEVEL, "over": "frames"},
            "rule": f"{RULE}; {BOUNDARY_RULE}",
        }


def _scores(counts: np.ndarray, edges: BoundaryAccuracy, names: tuple[str, ...]) -> dict[str, Any]:
    matrix = ConfusionMatrix(len(names))
    matrix.counts = counts.sum(0)
    return {**asdict(matrix.scores(names)), "mba": edges.mean() if edges.frames else None}


def refine(
    refiner: Refiner,
    source: Source,
    coarse: Coarse,
    *,
    chosen: Collection[int] | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Tally:
    """Refine every frame's labels, write OUT/NAME.png, and score both where the truth is known."""
    tally = Tally(len(source.classes))
    for index, name in enumerate(source.names):
        item = source.read(index)
        labels = coarse(name, item.image)
        start = perf_counter()
        finer = refiner.labels(item.image, labels, chosen)
        tally.took.append((perf_counter() - start) * 1e3)
        if out is not None:
            save_labels(out / f"{name}.png", finer, source.classes)
        if item.truth is not None:
            tally.add(item.truth, labels, finer)
        if progress:
            progress(index + 1, len(source.names))
    return tally
