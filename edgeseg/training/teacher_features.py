"""What a student's inner map is told by a teacher's, whatever their widths and sizes.

Both kinds need no parameters, so nothing is trained that is not deployed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeseg.errors import TrainingError, guess
from edgeseg.frame import Size
from edgeseg.models.network import Maps, Network
from edgeseg.training.batches import Batch
from edgeseg.training.branches import affinity
from edgeseg.training.losses import Term
from edgeseg.training.plan_losses import FeaturePlan

CELL = 8
"""Side, in pixels of the input, of the smallest cells that are compared."""


def watch(network: Network, name: str, whose: str) -> None:
    """Let training see that map of `network`; empty is the deepest feature.

    TrainingError for a name that is none of its maps.
    """
    known = network.watchable()
    if name and name not in known:
        raise TrainingError(
            f"[teacher.features] {whose} is '{name}', which is no map of the {whose}."
            f"{guess(name, known)}"
        )
    network.watched = name or known[-2]


def feature_term(plan: FeaturePlan, found: Maps, taught: Maps, batch: Batch) -> Term:
    """The watched maps compared over cells of the coarser one, and of CELL pixels at least."""
    maps = []
    for whose, outputs in (("student", found), ("teacher", taught)):
        feature = outputs["feature"].float()
        if feature.ndim != 4:
            raise TrainingError(
                f"[teacher.features] the map of the {whose} has shape {tuple(feature.shape)}; "
                "expected (frames, channels, height, width): name another"
            )
        maps.append(feature)
    own, wanted = maps
    height, width = (
        max(1, min(batch.images.shape[axis] // CELL, own.shape[axis], wanted.shape[axis]))
        for axis in (2, 3)
    )
    with torch.autocast(batch.images.device.type, enabled=False):
        total, count = KINDS[plan.kind](own, wanted, (height, width))
    return Term(total, total.new_tensor(count), plan.weight)


def affinity_error(own: Tensor, wanted: Tensor, size: Size) -> tuple[Tensor, int]:
    """Squared difference of the cosines of every two cells; their number. Liu et al. 2019, 3.2."""
    mine, others = (affinity(functional.adaptive_avg_pool2d(x, size)) for x in (own, wanted))
    error = (mine - others).square()
    return error.sum(), error.numel()


def attention_error(own: Tensor, wanted: Tensor, size: Size) -> tuple[Tensor, int]:
    """Squared distance of the maps of energy, each of length one; the frames.

    Zagoruyko and Komodakis 2017: the squares' sum over the channels.
    """
    energies = [x.square().mean(1, keepdim=True) for x in (own, wanted)]
    mine, others = (
        functional.normalize(functional.adaptive_avg_pool2d(x, size).flatten(1)) for x in energies
    )
    return (mine - others).square().sum(), len(own)


KINDS = {"affinity": affinity_error, "attention": attention_error}
