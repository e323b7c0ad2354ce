"""A refiner on spoilt masks of the truth: one of each frame, the same ones every time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeseg.dataset import Dataset
from edgeseg.errors import EdgesegError
from edgeseg.frame import Size
from edgeseg.metrics import ConfusionMatrix
from edgeseg.training.batches import RandomCrops, normalise
from edgeseg.training.distributed import World
from edgeseg.training.plan import AugmentPlan, Recipe

MASK_RULE = (
    "IoU of the masks summed over all frames: of each frame one crop, and in it one class that "
    "occurs, spoilt as in training; before: of the spoilt masks themselves"
)


@dataclass(frozen=True)
class MaskScores:
    """IoU in percent of the refined masks, and of the coarse ones that they were made of."""

    iou: float
    iou_before: float


@torch.inference_mode()
def evaluate_masks(
    recipe: Recipe, model: nn.Module, data: Dataset, size: Size, world: World
) -> MaskScores:
    """Process r takes frames r, r + world.size, ...; all get the same sums."""
    model.eval()
    plain = AugmentPlan(scale=recipe.augment.scale, flip=0.0)
    crops = RandomCrops(data, dataclasses.replace(recipe, size=size, augment=plain))
    before, after = ConfusionMatrix(2), ConfusionMatrix(2)
    for index in range(world.rank, len(data), world.size):
        item = crops[(0, index)]
        if isinstance(item, EdgesegError):
            raise item
        given = normalise(torch.from_numpy(item.image[None]), recipe.input, world.device)
        found = (model(given)[0, 0] > 0).to(torch.uint8).cpu().numpy()
        before.update(item.labels, item.image[..., 3] // np.uint8(255))
        after.update(item.labels, found)
    counts = torch.from_numpy(np.stack([before.counts, after.counts]))
    before.counts, after.counts = np.array(world.sum(counts.to(world.device)).cpu().numpy())
    return MaskScores(float(after.iou()[1]), float(before.iou()[1]))
