"""Labels -> a mask of one class and a spoilt copy of it: what a refiner is trained on.

Cheng et al. 2020 (CascadePSP), section 3.1: boundaries are subsampled, then dilated and eroded at
random, down to an IoU between 0.8 and 1. Subsampled here means drawn at a fraction of the size and
enlarged again, which is what a network of that stride does to a boundary; the authors leave
out vertices of the outline. Their code stops at the first IoU below the one that was drawn; here
what would go below it is not done.
"""

from __future__ import annotations

import numpy as np

from edgeseg.dataset import Dataset, Sample
from edgeseg.frame import resize_image
from edgeseg.labels import IGNORE, MASK

STRIDES = (1, 2, 4, 8, 16)
"""The fractions of the size at which a boundary is drawn."""
ATTEMPTS = 100
"""Changes that are tried at most; some would go too far."""
NEAR = 0.01
"""Closer than this to the IoU that was drawn is near enough."""
KERNEL = (3, 10)
"""Sides of what dilates and erodes, in pixels; the upper one excluded (the authors' code)."""
FLIPPED = 0.25
"""How often one pixel changes sides first, so that specks and holes grow (the authors' code)."""
IOU = (0.8, 1.0)
"""What the paper's masks keep at least, and at most."""
SEED = 1
"""Of masks that are the same every time."""
LEAST = 32
"""Pixels that must be inside and outside for a class to be worth refining."""


def coarse_mask(
    labels: np.ndarray, iou: tuple[float, float], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 ids -> truth and coarse mask of one class that occurs, both (H, W) uint8.

    Truth is 1 inside, 0 outside, IGNORE where there is no label; the coarse mask 255 and 0, with an
    IoU drawn from `iou`. All classes are equally likely.
    """
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    seen = np.flatnonzero((counts >= LEAST) & (counts.sum() - counts >= LEAST))
    if not seen.size:
        seen = np.flatnonzero(counts)
    wanted = generator.uniform(*iou)
    inside = np.zeros(labels.shape, bool)
    if seen.size:
        inside = labels == generator.choice(seen)
    truth = np.where(labels == IGNORE, np.uint8(IGNORE), inside.astype(np.uint8))
    return truth, perturb(inside, wanted, generator).astype(np.uint8) * np.uint8(255)


def spoilt(dataset: Dataset, iou: tuple[float, float] = IOU) -> Dataset:
    """The frames of a data set as a refiner sees them, the same ones every time.

    Images are (H, W, 4), with the coarse mask of one class that occurs (255 inside) behind the
    colours; labels are those of the class table MASK.
    """

    def read(index: int) -> Sample:
        sample = dataset[index]
        truth, mask = coarse_mask(sample.labels, iou, np.random.default_rng((SEED, index)))
        return Sample(sample.name, np.concatenate([sample.image, mask[..., None]], 2), truth)

    return Dataset(dataset.source, dataset.split, MASK, dataset.names, read)


def perturb(mask: np.ndarray, iou: float, generator: np.random.Generator) -> np.ndarray:
    """(H, W) bool -> (H, W) bool with another boundary: their IoU is `iou` or more, mostly near."""
    found = _subsample(mask, iou, generator)
    reached = overlap(found, mask)
    for _ in range(ATTEMPTS):
        if reached < iou + NEAR:
            break
        changed = _change(found, generator)
        share = overlap(changed, mask)
        if share >= iou:
            found, reached = changed, share
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks, from 0 to 1; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _subsample(mask: np.ndarray, iou: float, generator: np.random.Generator) -> np.ndarray:
    """Drawn at a random one of STRIDES, or at the largest below it that keeps the IoU."""
    chosen = int(generator.integers(len(STRIDES)))
    drawings = (subsample(mask, stride) for stride in reversed(STRIDES[: chosen + 1]))
    return next(drawing for drawing in drawings if overlap(drawing, mask) >= iou)


def subsample(mask: np.ndarray, stride: int) -> np.ndarray:
    """(H, W) bool -> the same, from a drawing that has one pixel for `stride` x `stride`."""
    height, width = mask.shape
    pixels = mask[..., None].astype(np.uint8) * np.uint8(255)
    small = resize_image(pixels, (-(-height // stride), -(-width // stride)))
    large: np.ndarray = resize_image(small, (height, width))[..., 0] > 127
    return large


def _change(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Dilate or erode the mask in a random box around a pixel of its boundary."""
    height, width = mask.shape
    edge = np.argwhere(boundary_pixels(mask))
    y, x = edge[generator.integers(len(edge))] if len(edge) else (height // 2, width // 2)
    reach = np.exp(generator.uniform(np.log(2), np.log(max(height, width, 5) / 2), 4)).astype(int)
    box = (
        slice(max(0, y - reach[0]), y + reach[1] + 1),
        slice(max(0, x - reach[2]), x + reach[3] + 1),
    )
    changed: np.ndarray = mask.copy()
    part = changed[box]
    if generator.random() < FLIPPED:
        spot = tuple(int(generator.integers(side)) for side in part.shape)
        part[spot] = not part[spot]
    size = int(generator.integers(*KERNEL))
    rows, columns = ((size, size), (size, size // 2), (size // 2, size))[generator.integers(3)]
    part[:] = (dilate if generator.random() < 0.5 else erode)(part, rows, columns)
    return changed


def boundary_pixels(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels inside that touch one outside."""
    edge: np.ndarray = mask & ~erode(mask, 3, 3)
    return edge


def dilate(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W) bool: whether the rectangle around a pixel holds one that is inside."""
    grown: np.ndarray = mask.copy()
    for axis, size in ((0, rows), (1, columns)):
        source = np.moveaxis(grown.copy(), axis, 0)
        target = np.moveaxis(grown, axis, 0)
        for by in range(1, size // 2 + 1):
            target[by:] |= source[:-by]
        for by in range(1, (size - 1) // 2 + 1):
            target[:-by] |= source[by:]
    return grown


def erode(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W) bool: whether the rectangle is all inside; what is beyond the image does not count."""
    return ~dilate(~mask, rows, columns)
