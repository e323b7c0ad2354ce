"""What wrapped networks minimise besides cross-entropy, and the loss that fits a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgeseg.labels import IGNORE
from edgeseg.models.dsrl import DSRL
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import Network
from edgeseg.models.supervised import Supervised
from edgeseg.training.batches import Asked, Batch
from edgeseg.training.losses import NO_VOID, CrossEntropy, Loss, Term
from edgeseg.training.mask_losses import MaskLoss
from edgeseg.training.plan import Recipe
from edgeseg.training.plan_losses import DsrlPlan

EPS = 1e-6
"""Keeps the affinity of a pixel without features (all zero behind a ReLU) at 0 instead of nan."""


class Joint:
    """Several losses on the same named outputs."""

    def __init__(self, parts: list[Loss]) -> None:
        self.parts = parts

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """The terms of all parts."""
        return {name: term for part in self.parts for name, term in part(outputs, batch).items()}


class Weighted:
    """A loss whose terms have another share in the whole."""

    def __init__(self, loss: Loss, weight: float) -> None:
        self.loss, self.weight = loss, weight

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """The same terms with the weight."""
        terms = self.loss(outputs, batch)
        return {k: dataclasses.replace(term, weight=self.weight) for k, term in terms.items()}


class Auxiliary:
    """Cross-entropy of auxiliary heads, {"aux_NAME": term}, with weights by the map's name."""

    def __init__(self, entropy: CrossEntropy, weights: Mapping[str, float]) -> None:
        self.entropy, self.weights = entropy, weights

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """A term for each head, over the same pixels' labels as the network's own."""
        return {
            f"aux_{name}": dataclasses.replace(
                self.entropy(outputs[f"aux_{name}"], batch)["ce"], weight=weight
            )
            for name, weight in self.weights.items()
        }


def squared_error(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
    """{"mse": term}: reconstructed against sharp images, mean over pixels and channels.

    In units of pixels normalised by ImageNet's mean and deviation (Wang et al. 2020).
    """
    if batch.sharp is None:
        raise AssertionError("SISR needs the images at the size of the labels")
    error = (outputs["image"].float() - batch.sharp).square()
    return {"mse": Term(error.sum(), error.new_tensor(error.numel()))}


class AffinityDistance:
    """{"fa": term}: mean distance of both branches' pixel affinities (Wang et al. 2020).

    S_ij is the cosine of the features of pixels i and j; the term is the mean of |S_ij^seg -
    S_ij^sr| over all pairs. Pixels are the means of `subsample` x `subsample` cells of the input,
    or those of the coarser of the two maps.
    """

    def __init__(self, subsample: int) -> None:
        self.subsample = subsample

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """The count is the number of pairs."""
        maps = (outputs["seg"].float(), outputs["sr"].float())
        height, width = (
            min(batch.images.shape[axis] // self.subsample, *(m.shape[axis] for m in maps))
            for axis in (2, 3)
        )
        size = (max(1, height), max(1, width))
        with torch.autocast(batch.images.device.type, enabled=False):
            seg, sr = (affinity(functional.adaptive_avg_pool2d(m, size)) for m in maps)
        distance = (seg - sr).abs()
        return {"fa": Term(distance.sum(), distance.new_tensor(distance.numel()))}


def affinity(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h w, h w): cosines of every two pixels' features."""
    flat = features.flatten(2)
    unit = flat * torch.rsqrt(flat.square().sum(1, keepdim=True) + EPS**2)
    return unit.transpose(1, 2) @ unit


class CompressedDistance:
    """{"compressed": term}: |F - Y'|^2 with Y' = P v (Tian et al. 2019).

    Summed over a patch's channels, divided by its pixels, averaged over the patches that are
    labelled throughout. |W F - v|^2 differs from it by a constant, for W is orthonormal.
    """

    def __init__(self, layer: Reconstruct) -> None:
        self.layer = layer

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """The count is the number of such patches."""
        r, classes = self.layer.factor, self.layer.weight.shape[1]
        known = (batch.labels < classes)[:, None].float()
        whole = (-functional.max_pool2d(-known, r))[:, 0]
        error = (outputs["scores"].float() - self.layer.compress(batch.labels)).square().sum(1)
        return {"compressed": Term((error * whole).sum() / (r * r), whole.sum())}


def branch_losses(plan: DsrlPlan, model: Network) -> list[Loss]:
    """What the branches of `+dsrl` that are on are trained by, whatever the outputs mean."""
    losses: list[Loss] = []
    if isinstance(model, DSRL) and model.sisr is not None:
        losses.append(Weighted(squared_error, plan.mse))
    if isinstance(model, DSRL) and model.transform is not None:
        losses.append(Weighted(AffinityDistance(plan.subsample), plan.fa))
    return losses


def build_loss(
    recipe: Recipe,
    model: Network,
    classes: int,
    weights: Tensor | None,
    beside: Sequence[Loss] = (),
) -> Loss:
    """Cross-entropy, what the branches and the last layer of `model` are trained by, `beside`.

    A refiner has the losses of its paper and no others.
    """
    if recipe.refines:
        return MaskLoss(recipe.refine.gradient)
    entropy = CrossEntropy(recipe.loss, classes, weights, NO_VOID if recipe.classifies else IGNORE)
    parts: list[Loss] = [entropy]
    if isinstance(model.upsample, Reconstruct):
        plan = recipe.dupsample
        parts = [Weighted(entropy, plan.cross_entropy)]
        if plan.compressed:
            parts.append(Weighted(CompressedDistance(model.upsample), plan.compressed))
    parts += branch_losses(recipe.dsrl, model)
    if isinstance(model, Supervised) and model.branches():
        share = recipe.loss.auxiliary
        given = {name: share * weight for name, weight in model.AUXILIARY.items()}
        parts.append(Auxiliary(entropy, given))
    if recipe.qat.model:
        parts = [Weighted(entropy, recipe.qat.cross_entropy)]
    parts += beside
    return entropy if parts == [entropy] else Joint(parts)


def asked_of_crops(model: Network) -> Asked:
    """What the crops of a training batch must have for `model` and its loss."""
    return Asked(model.scale, sharp=isinstance(model, DSRL) and model.sisr is not None)
