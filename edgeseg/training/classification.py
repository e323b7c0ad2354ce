"""A classifier on labelled images: the middle of each, top-1 and top-5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeseg.dataset import Dataset
from edgeseg.frame import Box, Placement, Size, place, prepare
from edgeseg.training.batches import normalise
from edgeseg.training.distributed import World
from edgeseg.training.plan import Input

MARGIN = 256 / 224
"""Short side of the scaled image over that of the crop in its middle (ImageNet's practice)."""
IMAGE_RULE = (
    "short side scaled to 256/224 of the network's, crop in the middle; top1 and top5 are percent "
    "of all images, of two equal scores the first class is taken"
)
BATCH = 32


@dataclass(frozen=True)
class Tops:
    """Percent of the images whose class is the first answer, and among the first five."""

    top1: float
    top5: float
    per_class: dict[str, float | None]


def count_tops(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, C) scores and (N,) labels -> (C, 3) int64: images of each class, in its top 1, top 5."""
    own = np.take_along_axis(scores, truth[:, None], 1)
    index = np.arange(scores.shape[1])[None]
    before = (scores > own) | ((scores == own) & (index < truth[:, None]))
    place_of_truth = before.sum(1)
    counts = np.zeros((scores.shape[1], 3), np.int64)
    for column, hit in enumerate((place_of_truth >= 0, place_of_truth < 1, place_of_truth < 5)):
        counts[:, column] = np.bincount(truth[hit], minlength=scores.shape[1])
    return counts


def score_tops(counts: np.ndarray, names: tuple[str, ...]) -> Tops:
    """The counts of all images in percent; None for a class without an image."""
    images, first, five = (int(n) for n in counts.sum(0))
    per_class = {
        name: 100.0 * int(row[1]) / int(row[0]) if row[0] else None
        for name, row in zip(names, counts, strict=True)
    }
    return Tops(100.0 * first / max(images, 1), 100.0 * five / max(images, 1), per_class)


def middle(frame: Size, size: Size) -> Placement:
    """The box of an image that becomes the input: the short side scaled to MARGIN, then a crop."""
    whole = place(frame, size, "crop").source
    height, width = (max(1, round(side / MARGIN)) for side in whole.size)
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    return Placement(
        frame, size, Box(top, left, top + height, left + width), Box(0, 0, size[0], size[1])
    )


@torch.inference_mode()
def evaluate_images(model: nn.Module, data: Dataset, size: Size, spec: Input, world: World) -> Tops:
    """Process r takes images r, r + world.size, ...; all get the same sum."""
    model.eval()
    counts = np.zeros((len(data.classes), 3), np.int64)
    mine = range(world.rank, len(data), world.size)
    for start in range(0, len(mine), BATCH):
        samples = [data[i] for i in mine[start : start + BATCH]]
        images = [
            prepare(s.image, middle((s.image.shape[0], s.image.shape[1]), size),
                    swap=False, fill=spec.fill_rgb)
            for s in samples
        ]  # fmt: skip
        tensor = normalise(torch.from_numpy(np.stack(images)), spec, world.device)
        scores = model(tensor)[:, : len(data.classes), 0, 0].float().cpu().numpy()
        counts += count_tops(scores, np.array([int(s.labels[0, 0]) for s in samples]))
    total = world.sum(torch.from_numpy(counts).to(world.device))
    return score_tops(np.array(total.cpu().numpy()), data.classes.names)
