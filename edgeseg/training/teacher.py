"""Distillation: a trained network's scores as a second truth, and one of its inner maps.

Hinton, Vinyals and Dean 2015 for softened scores, Liu et al. 2019 (Structured Knowledge
Distillation, 3.2) for pairs of pixels; `teacher_features` has the maps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeseg.bundle import InputSpec
from edgeseg.errors import TrainingError
from edgeseg.frame import format_size
from edgeseg.labels import ClassTable
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.models.network import Maps, Network
from edgeseg.training.batches import Batch
from edgeseg.training.branches import affinity
from edgeseg.training.losses import Term
from edgeseg.training.plan import Input, Recipe
from edgeseg.training.plan_losses import FeaturePlan
from edgeseg.training.teacher_features import CELL, feature_term, watch
from edgeseg.weights import weights_folder


class Teacher(nn.Module):
    """A network that sees the student's batch through its own normalisation.

    (N, 3, H, W) normalised as `given` says -> its outputs: "logits" (N, C, scale H, scale W), and
    "feature" where one of its inner maps is watched.
    """

    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(self, network: Network, own: InputSpec, given: Input) -> None:
        super().__init__()
        self.network = network
        self.swap = own.order != given.order
        for name, values in (("mean", given.mean), ("std", given.std),
                             ("own_mean", own.mean), ("own_std", own.std)):  # fmt: skip
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Maps:
        """To pixels, to the teacher's channel order and normalisation, through the network."""
        pixels = images * self.std + self.mean
        if self.swap:
            pixels = pixels.flip(1)
        return self.network.outputs((pixels - self.own_mean) / self.own_std)


class Distillation:
    """{name: term}: KL divergence of a teacher's softened scores and the student's.

    Per pixel, times the temperature squared so that its gradient does not depend on it. All pixels
    count, labelled or not. With `pairs`, also {"pairs": term}: the mean squared difference of the
    cosines of every two cells' scores, between student and teacher. With `features`, also
    {"features": term} of the maps that both watch.
    """

    def __init__(
        self,
        teacher: nn.Module,
        weight: float,
        temperature: float,
        pairs: float = 0.0,
        name: str = "distil",
        features: FeaturePlan | None = None,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.name, self.features = name, features or FeaturePlan()
        self.weight, self.temperature, self.pairs = weight, temperature, pairs

    def __call__(self, outputs: Tensor | Maps, batch: Batch) -> dict[str, Term]:
        """Counts are the number of pixels and of pairs."""
        with torch.no_grad():
            told = self.teacher.to(batch.images.device)(batch.images)
        terms = self._scores(_logits(outputs), _logits(told))
        if self.features.weight:
            assert isinstance(outputs, dict)  # both watch a map
            terms["features"] = feature_term(self.features, outputs, told, batch)
        return terms

    def _scores(self, found: Tensor, taught: Tensor) -> dict[str, Term]:
        found = found[:, : taught.shape[1]]
        if taught.shape[2:] != found.shape[2:]:
            taught = functional.interpolate(
                taught, found.shape[2:], mode="bilinear", align_corners=False
            )
        terms = {self.name: self._pixels(found, taught)} if self.weight else {}
        return terms | ({"pairs": self._cells(found, taught)} if self.pairs else {})

    def _pixels(self, found: Tensor, taught: Tensor) -> Term:
        wanted = functional.log_softmax(taught / self.temperature, 1)
        own = functional.log_softmax(found / self.temperature, 1)
        total = functional.kl_div(own, wanted, reduction="sum", log_target=True)
        count = total.new_tensor(found.numel() / found.shape[1])
        return Term(self.temperature**2 * total, count, self.weight)

    def _cells(self, found: Tensor, taught: Tensor) -> Term:
        height, width = (max(1, side // CELL) for side in found.shape[2:])
        own, wanted = (
            affinity(functional.adaptive_avg_pool2d(maps, (height, width)))
            for maps in (found, taught)
        )
        error = (own - wanted).square()
        return Term(error.sum(), error.new_tensor(error.numel()), self.pairs)


def _logits(outputs: Tensor | Maps) -> Tensor:
    return (outputs["logits"] if isinstance(outputs, dict) else outputs).float()


def open_teacher(
    recipe: Recipe, classes: ClassTable, student: Network, say: Callable[[str], None]
) -> tuple[Distillation, ...]:
    """The loss that `[teacher]` asks of `student`, none without a teacher.

    TrainingError for one of other classes, or that can't take the recipe's size.
    """
    plan = recipe.teacher
    if not plan.model:
        return ()
    network, bundle = load_checkpoint(weights_folder(plan.model))
    manifest = bundle.manifest
    if manifest.table.names != classes.names:
        raise TrainingError(
            f"teacher {plan.model} knows the classes of '{manifest.table.name}', the data those of "
            f"'{classes.name}'; they must be the same"
        )
    if any(side % network.divisor for side in recipe.size):
        raise TrainingError(
            f"teacher {plan.model} takes sides that are multiples of {network.divisor}; size is "
            f"{format_size(recipe.size)}"
        )
    network.cut(len(classes))
    network.deploy()
    said = f"teacher {plan.model}: {manifest.model.name if manifest.model else manifest.name}"
    if plan.features.weight:
        watch(student, plan.features.student, "student")
        watch(network, plan.features.teacher, "teacher")
        said += f"; its map '{network.watched}' teaches '{student.watched}'"
    say(said)
    teacher = Teacher(network, manifest.input, recipe.input)
    return (
        Distillation(teacher, plan.weight, plan.temperature, plan.pairs, "teacher", plan.features),
    )
