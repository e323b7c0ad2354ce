"""The confusion matrix and the scores derived from it. Scores are percent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.labels import IGNORE

RULE = (
    "one confusion matrix summed over all frames; pixels labelled 255 (void) or outside the view "
    "are left out; mIoU is the mean over the classes that occur in the truth"
)


@dataclass(frozen=True)
class Scores:
    """What one confusion matrix says; all values in percent, None where a class does not occur."""

    miou: float
    pixel_accuracy: float
    per_class: dict[str, float | None]


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs: `counts[t, p]` pixels of class t were called p.

    Predictions outside the table (255: no answer) count as misses of the true class: they are kept
    in the last column.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one frame: two (H, W) uint8 arrays of one shape."""
        if truth.shape != prediction.shape:
            raise ValueError(f"truth is {truth.shape} and prediction {prediction.shape}")
        keep = truth != IGNORE
        true = truth[keep].astype(np.int64)
        if true.size and int(true.max()) >= self.classes:
            raise ValueError(f"truth holds id {int(true.max())}; the table has {self.classes}")
        called = np.minimum(prediction[keep], self.classes).astype(np.int64)
        flat = np.bincount(true * (self.classes + 1) + called, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def iou(self) -> np.ndarray:
        """(classes,) float64 in percent; nan for classes that do not occur in the truth.

        IoU = TP / (TP + FP + FN) of the summed counts (PASCAL VOC; Everingham et al. 2015, 4.1.3).
        """
        hits = np.diagonal(self.counts).astype(np.float64)
        truth = self.counts.sum(1)
        called = self.counts[:, : self.classes].sum(0)
        union = truth + called - hits
        return np.where(truth > 0, 100.0 * hits / np.maximum(union, 1), np.nan)

    def miou(self) -> float:
        """Mean IoU in percent over the classes in the truth; nan when there are none."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Correct pixels of all labelled pixels, in percent; nan when there are none."""
        total = int(self.counts.sum())
        return 100.0 * float(np.trace(self.counts)) / total if total else float("nan")

    def scores(self, names: tuple[str, ...]) -> Scores:
        """All scores, classes by name."""
        iou = self.iou()
        per_class = {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(names, iou, strict=True)
        }
        return Scores(self.miou(), self.pixel_accuracy(), per_class)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of equal labels of two label arrays of one shape, in percent."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    return 100.0 * float(np.count_nonzero(a == b)) / max(a.size, 1)


def boundary(labels: np.ndarray, radius: int = 1) -> np.ndarray:
    """(..., H, W) labels -> bool: pixels with another class within `radius` pixels (square)."""
    near = np.zeros(labels.shape, bool)
    height, width = labels.shape[-2:]
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
            v = slice(max(-dy, 0), height + min(-dy, 0))
            u = slice(max(-dx, 0), width + min(-dx, 0))
            near[..., v, u] |= labels[..., v, u] != labels[..., y, x]
    return near
