"""A model on a data set -> one confusion matrix, summed over all processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeseg.dataset import Dataset
from edgeseg.frame import Size, place, prepare, restore
from edgeseg.metrics import RULE, ConfusionMatrix
from edgeseg.training.batches import normalise
from edgeseg.training.classification import IMAGE_RULE, evaluate_images
from edgeseg.training.distributed import World
from edgeseg.training.mask_evaluation import MASK_RULE, evaluate_masks
from edgeseg.training.plan import Input, Recipe


@dataclass(frozen=True)
class Judged:
    """The score for the log, all scores for eval.json, and the rule by which they were made."""

    value: float
    scores: dict[str, Any]
    rule: str


def judge(recipe: Recipe, model: nn.Module, data: Dataset, size: Size, world: World) -> Judged:
    """MIoU of a segmentation model, top-1 of a classifier, IoU of a refiner's masks."""
    if recipe.classifies:
        tops = evaluate_images(model, data, size, recipe.input, world)
        return Judged(tops.top1, asdict(tops), IMAGE_RULE)
    if recipe.refines:
        masks = evaluate_masks(recipe, model, data, size, world)
        return Judged(masks.iou, asdict(masks), MASK_RULE)
    matrix = evaluate(model, data, size, recipe.input, world)
    found = matrix.scores(data.classes.names)
    scores = {
        "miou": found.miou,
        "per_class": found.per_class,
        "pixel_accuracy": found.pixel_accuracy,
    }
    return Judged(found.miou, scores, RULE)


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: Dataset, size: Size, spec: Input, world: World
) -> ConfusionMatrix:
    """Frames fitted into `size`, labels compared at the frame's own size.

    Process r takes frames r, r + world.size, ...; all get the same sum.
    """
    model.eval()
    classes = len(data.classes)
    matrix = ConfusionMatrix(classes)
    for index in range(world.rank, len(data), world.size):
        sample = data[index]
        height, width = sample.labels.shape
        placement = place((height, width), size, spec.fit)
        image = prepare(sample.image, placement, swap=False, fill=spec.fill_rgb)
        tensor = normalise(torch.from_numpy(image[None]), spec, world.device)
        labels = model(tensor)[:, :classes].argmax(1)[0].to(torch.uint8).cpu().numpy()
        matrix.update(sample.labels, restore(labels, placement))
    total = world.sum(torch.from_numpy(matrix.counts).to(world.device))
    matrix.counts = np.array(total.cpu().numpy())
    return matrix
