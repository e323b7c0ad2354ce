"""Weights in float32 and with float16 kernels: both scored on every frame, label by label."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.accuracy import check_classes
from edgeseg.dataset import Dataset
from edgeseg.errors import UsageError
from edgeseg.metrics import RULE, ConfusionMatrix, Scores
from edgeseg.pipeline.model import open_model
from edgeseg.pipeline.refine import Tally, labels_by, open_refiner
from edgeseg.runtime.engine import EngineOptions

SAME = 99.9
"""Percent of the labels that float16 must leave as they are; mIoU must keep two decimals."""


@dataclass(frozen=True)
class Found:
    """Scores, and by which rule; of a refiner also what `_refined` says."""

    scores: Scores
    rule: str = RULE
    refined: dict[str, Any] | None = None


@dataclass(frozen=True)
class Compared:
    """What was found in float32 and in float16, and percent of the labels that agree."""

    single: Found
    half: Found
    agreement: float

    @property
    def same(self) -> bool:
        """Whether float16 changes nothing that counts."""
        kept = f"{self.single.scores.miou:.2f}" == f"{self.half.scores.miou:.2f}"
        return kept and self.agreement >= SAME

    def __str__(self) -> str:
        return (
            f"mIoU {self.single.scores.miou:.2f} in float32, {self.half.scores.miou:.2f} with "
            f"float16 kernels, {self.agreement:.3f} % of the labels agree"
        )


def compare(single: Path, half: Path, dataset: Dataset) -> Compared:
    """Both folders on every frame, each at its own size."""
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(open_model(str(f), size=None, fit=None, options=EngineOptions()))
            for f in (single, half)
        ]
        check_classes(opened[0], dataset)
        matrices = [ConfusionMatrix(len(dataset.classes)) for _ in opened]
        same = total = 0
        for sample in dataset:
            seen = opened[0].placement(sample.labels.shape).source.slices
            labels = [segmenter.segment(sample.image)[seen] for segmenter in opened]
            for matrix, called in zip(matrices, labels, strict=True):
                matrix.update(sample.labels[seen], called)
            same += int(np.count_nonzero(labels[0] == labels[1]))
            total += labels[0].size
    agreement = _percent(same, total, dataset)
    first, second = (Found(matrix.scores(dataset.classes.names)) for matrix in matrices)
    return Compared(first, second, agreement)


def compare_refiners(single: Path, half: Path, dataset: Dataset, labels_of: str) -> Compared:
    """Both refiners on the labels that the model `labels_of` gives, at its own size."""
    refiners = [open_refiner(folder).refiner for folder in (single, half)]
    tallies = [Tally(len(dataset.classes)) for _ in refiners]
    same = total = 0
    with open_model(labels_of, size=None, fit=None, options=EngineOptions()) as segmenter:
        coarse = labels_by(segmenter, dataset)
        for name, sample in zip(dataset.names, dataset, strict=True):
            labels = coarse(name, sample.image)
            finer = [refiner.labels(sample.image, labels, None) for refiner in refiners]
            for tally, refined in zip(tallies, finer, strict=True):
                tally.add(sample.labels, labels, refined)
            same += int(np.count_nonzero(finer[0] == finer[1]))
            total += labels.size
    agreement = _percent(same, total, dataset)
    first, second = (_refined(t.scores(dataset.classes.names), labels_of) for t in tallies)
    return Compared(first, second, agreement)


def _percent(same: int, total: int, dataset: Dataset) -> float:
    if not total:
        raise UsageError(f"{dataset.source} has no frames in split '{dataset.split}'")
    return 100 * same / total


def _refined(content: dict[str, Any], labels_of: str) -> Found:
    """`Tally.scores` -> scores of the refined labels, and beside them the coarse ones and gains.

    "mba" is missing where no frame has a boundary.
    """
    before, after = content["before"], content["after"]
    told = {key: after[key] for key in ("miou", "pixel_accuracy", "per_class")}
    rounded = {
        "labels_of": labels_of,
        "before": {"miou": before["miou"], "per_class": before["per_class"]},
        "gain": content["gain"],
        **({} if after["mba"] is None else {"mba": [before["mba"], after["mba"]]}),
    }
    return Found(Scores(**told), content["rule"], _rounded(rounded))


def _rounded(content: Any) -> Any:
    """All numbers in tables and lists, to two decimals."""
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return round(content, 2) if isinstance(content, float) else content
