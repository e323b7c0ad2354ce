"""What is minimised: a loss maps (model outputs, batch) to named terms.

Every term is a sum and the weight it is divided by, both over this process's pixels only. The loop
divides by the weight over all processes, so the loss does not depend on how a batch is sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from edgeseg.errors import RecipeError
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.training.batches import Batch
from edgeseg.training.plan import LossPlan


@dataclass(frozen=True)
class Term:
    """`total` / `count` is the mean; `weight` is the term's share in the whole loss."""

    total: Tensor
    count: Tensor
    weight: float = 1.0


Loss = Callable[[Any, Batch], dict[str, Term]]

NO_VOID = -1


class CrossEntropy:
    """Class-weighted cross-entropy of (N, C, H, W) logits and (N, H, W) labels, on hard pixels.

    Outputs behind the first `classes` (void) are left out, and pixels labelled `void` are not
    looked at (whole images have no such label: NO_VOID).
    """

    def __init__(
        self, plan: LossPlan, classes: int, weights: Tensor | None = None, void: int = IGNORE
    ) -> None:
        self.plan, self.classes, self.weights, self.void = plan, classes, weights, void

    def __call__(self, outputs: Tensor | dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """{"ce": term}; the count is the sum of the kept pixels' class weights."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        logits, labels = logits[:, : self.classes].float(), batch.labels
        losses = self._losses(logits, labels)
        keep = labels != self.void
        if self.plan.ohem_threshold:
            keep = hard(logits, labels, self.plan.ohem_threshold, self.plan.ohem_min_kept)
        count = keep.sum() if self.weights is None else self.weights[labels[keep]].sum()
        return {"ce": Term((losses * keep).sum(), count)}

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W) loss of each pixel, 0 where it has no label."""
        # Planes: over the inner axis of channels-last logits torch takes four times as long.
        return F.cross_entropy(
            logits.contiguous(),
            labels,
            self.weights,
            ignore_index=self.void,
            reduction="none",
            label_smoothing=self.plan.label_smoothing,
        )


@torch.no_grad()
def hard(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    """(N, C, H, W), (N, H, W) -> (N, H, W) bool: pixels worth training on.

    Those whose true class has a probability below `threshold`; where a frame has fewer than
    `min_kept` of them, its `min_kept` least probable ones. Chosen in each frame by itself, so
    that the choice does not depend on how a batch is sharded.
    """
    valid = labels != IGNORE
    index = torch.where(valid, labels, 0)[:, None]
    probability = logits.softmax(1).gather(1, index)[:, 0].masked_fill(~valid, 2.0)
    flat = probability.flatten(1)
    kept = min(min_kept, flat.shape[1])
    limit = flat.new_full((len(flat), 1), threshold)
    if kept:
        kth = flat.kthvalue(kept, dim=1, keepdim=True).values
        limit = torch.maximum(limit, torch.nextafter(kth, kth.new_tensor(math.inf)))
    return (flat < limit).view_as(valid) & valid


def count_labels(labels: Iterable[np.ndarray], classes: int) -> np.ndarray:
    """(classes,) int64: number of pixels of each class; IGNORE is left out."""
    counts = np.zeros(classes, np.int64)
    for frame in labels:
        counts += np.bincount(frame.ravel(), minlength=max(256, classes))[:classes]
    return counts


def enet_weights(counts: np.ndarray) -> np.ndarray:
    """Pixel counts -> float32 class weights 1 / ln(1.02 + share).

    Paszke et al. 2016 (ENet), 5.1. Between 50.5 for a class that never occurs and 1.4.
    """
    shares = counts / max(counts.sum(), 1)
    weights: np.ndarray = 1.0 / np.log(1.02 + shares)
    return weights.astype(np.float32)


def class_weights(
    plan: LossPlan, classes: ClassTable, counts: Callable[[], np.ndarray]
) -> Tensor | None:
    """The weights of a recipe; `counts` is asked for pixel counts only if they matter."""
    if plan.weights == "none":
        return None
    if plan.weights == "enet":
        return torch.from_numpy(enet_weights(counts()))
    if len(plan.weight_list) != len(classes):
        raise RecipeError(
            f"loss.weight_list has {len(plan.weight_list)} values; class table '{classes.name}' "
            f"has {len(classes)} classes: {', '.join(classes.names)}"
        )
    return torch.tensor(plan.weight_list)
