"""What an INT8 engine says of the frames, beside its float engine and the other INT8 engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.accuracy import check_classes
from edgeseg.benchmarks.bootstrap import difference
from edgeseg.dataset import Dataset
from edgeseg.export.gate import BOUNDARY_RADIUS, ENOUGH
from edgeseg.metrics import ConfusionMatrix, boundary
from edgeseg.pipeline.model import open_model
from edgeseg.runtime.engine import EngineOptions

Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The labels of each frame, where the network sees it, and (frames, C, C + 1) their counts."""

    labels: list[np.ndarray]
    counts: np.ndarray

    @property
    def matrix(self) -> ConfusionMatrix:
        """The counts of all frames."""
        matrix = ConfusionMatrix(self.counts.shape[1])
        matrix.counts = self.counts.sum(0)
        return matrix


def answer(folder: Path, dataset: Dataset) -> Answers:
    """Run an engine folder on every frame, as `edgeseg eval` does."""
    labels, counts = [], []
    with open_model(
        str(folder), size=None, fit=None, options=EngineOptions(), allow_ungated=True
    ) as segmenter:
        check_classes(segmenter, dataset)
        for sample in dataset:
            seen = segmenter.placement(sample.labels.shape).source.slices
            labels.append(segmenter.segment(sample.image)[seen])
            matrix = ConfusionMatrix(len(dataset.classes))
            matrix.update(sample.labels[seen], labels[-1])
            counts.append(matrix.counts)
    return Answers(labels, np.stack(counts))


def float_scores(answers: Answers, names: tuple[str, ...]) -> Row:
    """MIoU and IoU by class, in percent."""
    scores = answers.matrix.scores(names)
    per_class = {k: None if v is None else round(v, 3) for k, v in scores.per_class.items()}
    return {"miou": round(scores.miou, 3), "per_class": per_class}


def int8_scores(answers: Answers, floats: Answers, names: tuple[str, ...]) -> Row:
    """The same, and against the float engine: the drop, the worst class, and equal labels.

    Points of percent; `drop` has a 95 % bootstrap interval over frames. A class counts as the worst
    when it has enough pixels, as in the gate.
    """
    drop = difference(floats.counts, answers.counts)
    before, after = floats.matrix, answers.matrix
    enough = before.counts.sum(1) >= ENOUGH * before.counts.sum()
    drops = np.where(enough, before.iou() - after.iou(), -np.inf)
    worst = int(np.argmax(drops))
    return {
        **float_scores(answers, names),
        "drop": {k: round(v, 3) for k, v in dataclasses.asdict(drop).items()},
        "worst_class": names[worst],
        "worst_class_drop": round(float(drops[worst]), 3),
        **same_labels(answers, floats),
    }


def parity(a: Answers, b: Answers) -> Row:
    """Two INT8 engines of one graph: how far apart their mIoU is, and their labels."""
    apart = abs(a.matrix.miou() - b.matrix.miou())
    return {"miou_apart": round(apart, 3), **same_labels(b, a)}


def same_labels(answers: Answers, reference: Answers) -> dict[str, float]:
    """Percent of equal labels: of all, and of those away from the reference's boundaries."""
    equal = total = equal_inside = inside = 0
    for ours, theirs in zip(answers.labels, reference.labels, strict=True):
        same, away = ours == theirs, ~boundary(theirs, BOUNDARY_RADIUS)
        equal, total = equal + int(same.sum()), total + same.size
        equal_inside, inside = equal_inside + int((same & away).sum()), inside + int(away.sum())
    return {
        "same": round(100 * equal / max(total, 1), 3),
        "same_inside": round(100 * equal_inside / max(inside, 1), 3),
    }
