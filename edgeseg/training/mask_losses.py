"""What a refiner minimises: Cheng et al. 2020, CascadePSP, section 3.1; weights from their code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeseg.labels import IGNORE
from edgeseg.training.batches import Batch
from edgeseg.training.losses import Term

EPS = 1e-4
"""Below the root of a gradient's square, so that it can be derived at 0 (their code)."""
REACH = 2
"""Pixels that a gradient looks away from its own."""


class MaskLoss:
    """Terms of all masks of all passes, by their names in `CascadePSP.outputs`.

    Stride 8: cross-entropy. Stride 4: half of that, and a quarter of L1 + L2 of the probabilities.
    Stride 1: L1 + L2, and "gradient": L1 of the gradients' sizes, times `gradient`. Pixels labelled
    IGNORE count nowhere.
    """

    def __init__(self, gradient: float) -> None:
        self.gradient = gradient

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """Counts are numbers of pixels."""
        labels = batch.labels[:, None]
        known, truth = (labels != IGNORE).float(), (labels == 1).float()
        terms = {}
        for name, logits in outputs.items():
            losses = _pixel_losses(name.partition("_")[0], logits.float(), truth)
            terms[name] = Term((losses * known).sum(), known.sum())
        found = torch.sigmoid(outputs["logits"].float())
        side = 2 * REACH + 1
        sure = -functional.max_pool2d(-known, side, 1, REACH)
        apart = (gradient_size(found) - gradient_size(truth)).abs() * sure
        return terms | {"gradient": Term(apart.sum(), sure.sum(), self.gradient)}


def _pixel_losses(kind: str, logits: Tensor, truth: Tensor) -> Tensor:
    """(N, 1, H, W) losses of a mask "s8", "s4" or, of stride 1, "logits"."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if kind == "s8":
        return entropy
    error = (torch.sigmoid(logits) - truth).abs()
    distance = error + error.square()
    return 0.5 * entropy + 0.25 * distance if kind == "s4" else distance


def gradient_size(masks: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 1, H, W): length of Sobel's gradient of the means of 3x3 pixels.

    Sobel's kernels are divided by 4; beyond the image there are zeros.
    """
    smooth = functional.avg_pool2d(masks, 3, 1, 1)
    across = masks.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4
    both = functional.conv2d(smooth, torch.stack([across, across.T])[:, None], padding=1)
    return (both.square().sum(1, keepdim=True) + EPS).sqrt()
