"""mIoU of a Segmenter on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.dataset import Dataset
from edgeseg.errors import DataError
from edgeseg.frame import enlarged, prepare_labels
from edgeseg.metrics import BOUNDARY_RULE, RULE, BoundaryAccuracy, ConfusionMatrix
from edgeseg.runtime.segmenter import Segmenter

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""

# fmt: off
COMPARED = {
    "frame":   "labels brought to the size of the frame's own labels (nearest)",
    "network": "the frame's labels brought to the network's size (nearest)",
}
# fmt: on


@dataclass(frozen=True)
class Evaluation:
    """Scores in percent; `frame_miou` is each frame's own mIoU, by name; `mba` if asked for."""

    miou: float
    pixel_accuracy: float
    per_class: dict[str, float | None]
    frames: int
    size: tuple[int, int] | None
    fit: str
    rule: str
    data: str
    split: str
    frame_miou: dict[str, float]
    mba: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form of `edgeseg eval --json`."""
        return {**self.__dict__, "size": list(self.size) if self.size else None}


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    at: str = "frame",
    progress: Progress | None = None,
    boundary: bool = False,
) -> Evaluation:
    """Run every sample (RGB) through `segmenter` (opened with frames="rgb") and count.

    `at` is a key of COMPARED. Pixels that a cropping fit cuts off are left out. `boundary`: the
    boundary accuracy, too.
    """
    edges = BoundaryAccuracy() if boundary else None
    total = ConfusionMatrix(len(segmenter.classes))
    frame_miou: dict[str, float] = {}
    for name, matrix in confusions(segmenter, dataset, at=at, progress=progress, edges=edges):
        total.counts += matrix.counts
        if np.isfinite(matrix.miou()):
            frame_miou[name] = matrix.miou()
    if not total.counts.any():
        raise DataError(f"{dataset.source}: split '{dataset.split}' has no labelled pixel")
    scores = total.scores(segmenter.classes.names)
    return Evaluation(
        scores.miou,
        scores.pixel_accuracy,
        scores.per_class,
        len(dataset),
        segmenter.input.size,
        segmenter.input.fit,
        f"{RULE}; {COMPARED[at]}" + (f"; {BOUNDARY_RULE}" if edges else ""),
        dataset.source,
        dataset.split,
        frame_miou,
        edges.mean() if edges and edges.frames else None,
    )


def confusions(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    at: str = "frame",
    progress: Progress | None = None,
    edges: BoundaryAccuracy | None = None,
) -> Iterator[tuple[str, ConfusionMatrix]]:
    """Each frame's name and its own confusion matrix, in the order of the data set.

    `edges`, if given, counts every frame too.
    """
    check_classes(segmenter, dataset)
    if not len(dataset):
        raise DataError(f"{dataset.source}: split '{dataset.split}' is empty")
    for done, sample in enumerate(dataset, start=1):
        truth, labels = _pair(segmenter, sample.image, sample.labels, at)
        matrix = ConfusionMatrix(len(segmenter.classes))
        matrix.update(truth, labels)
        if edges is not None:
            edges.update(truth, labels)
        yield sample.name, matrix
        if progress:
            progress(done, len(dataset))


def check_classes(segmenter: Segmenter, dataset: Dataset) -> None:
    """DataError unless model and data set have the same classes in the same order."""
    ours, theirs = segmenter.classes, dataset.classes
    if ours.names != theirs.names:
        raise DataError(
            f"the model's classes are {ours.name} ({len(ours)}: {', '.join(ours.names[:3])}, ...), "
            f"the data's are {theirs.name} ({len(theirs)}: {', '.join(theirs.names[:3])}, ...); "
            "evaluate on data of the model's own classes"
        )


def _pair(
    segmenter: Segmenter, image: np.ndarray, truth: np.ndarray, at: str
) -> tuple[np.ndarray, np.ndarray]:
    placement = segmenter.placement((image.shape[0], image.shape[1]))
    labels = segmenter.segment(image, at=at)
    if at == "network":
        return prepare_labels(truth, enlarged(placement, segmenter.output.scale)), labels
    seen = placement.source.slices
    return truth[seen], labels[seen]
