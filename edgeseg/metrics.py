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


BOUNDARY_RADII = 5
BOUNDARY_RULE = (
    "mBA: share of right labels within r pixels of a boundary of the truth, averaged over 5 radii "
    "r from 1 to (height + width) / 300, then over frames; void is left out"
)


class BoundaryAccuracy:
    """Mean boundary accuracy (mBA) of CascadePSP (Cheng et al. 2020, section 4.1), frame by frame.

    As the authors' code computes it for several classes: boundaries are those of every class, void
    (255) bounds a class too, and counts for nothing itself. The paper's text begins at radius 3,
    which frames below 900 pixels of height and width together don't have; the code begins at 1.
    """

    def __init__(self) -> None:
        self.frames: list[float] = []

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one frame: two (H, W) uint8 arrays. A frame without any boundary adds nothing."""
        if truth.shape != prediction.shape:
            raise ValueError(f"truth is {truth.shape} and prediction {prediction.shape}")
        height, width = truth.shape
        right, labelled = truth == prediction, truth != IGNORE
        shares: dict[int, float] = {}
        radii = boundary_radii((height, width))
        for radius in sorted(set(radii)):
            near = near_boundary(truth, radius) & labelled
            if not near.any():
                return
            shares[radius] = float(np.count_nonzero(right & near) / np.count_nonzero(near))
        self.frames.append(100.0 * sum(shares[radius] for radius in radii) / len(radii))

    def mean(self) -> float:
        """Percent; nan when no frame has a boundary."""
        return sum(self.frames) / len(self.frames) if self.frames else float("nan")


def boundary_radii(size: tuple[int, int]) -> list[int]:
    """The radii in pixels for frames of that (height, width): 1 1 1 2 2 at 360x480."""
    longest = max(sum(size) / 300, 1)
    return [1 + int((longest - 1) / BOUNDARY_RADII * i) for i in range(BOUNDARY_RADII)]


def near_boundary(labels: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) labels -> bool: pixels whose disk of `radius` holds another label than theirs.

    The disk is OpenCV's ellipse: round(sqrt(radius^2 - dy^2)) pixels to either side of row dy.
    """
    height = len(labels)
    most = [labels.copy()]
    least = [labels.copy()]
    for away in range(1, radius + 1):
        wider, narrower = most[-1].copy(), least[-1].copy()
        for to, of in ((slice(away, None), slice(-away)), (slice(-away), slice(away, None))):
            np.maximum(wider[:, to], labels[:, of], out=wider[:, to])
            np.minimum(narrower[:, to], labels[:, of], out=narrower[:, to])
        most.append(wider)
        least.append(narrower)
    top, bottom = labels.copy(), labels.copy()
    reach = min(radius, height - 1)
    for dy in range(-reach, reach + 1):
        half = round(float(np.sqrt(radius**2 - dy**2)))
        to = slice(max(-dy, 0), height - max(dy, 0))
        of = slice(max(dy, 0), height - max(-dy, 0))
        np.maximum(top[to], most[half][of], out=top[to])
        np.minimum(bottom[to], least[half][of], out=bottom[to])
    different: np.ndarray = top != bottom
    return different
