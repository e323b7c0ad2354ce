"""One step: a batch -> gradients -> weights, the same on one process and on several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.errors import TrainingError
from edgeseg.models.network import Network
from edgeseg.training.batches import Batch, Crops, normalise
from edgeseg.training.distributed import World
from edgeseg.training.ema import Average
from edgeseg.training.losses import Loss, Term
from edgeseg.training.optimizer import build_optimizer, parameter_groups, set_rate
from edgeseg.training.plan import Input, Recipe
from edgeseg.training.schedule import share

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Measured:
    """What one step found, over all processes; `stop` if any of them was told to."""

    terms: dict[str, float]
    loss: float
    grad_norm: float
    lr: float
    stop: bool


class Stepper:
    """Network, loss, optimizer and average; network and loss come from outside.

    `stopping` is set when this process was told to stop; a step tells the others.
    """

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        model: Network,
        loss: Loss,
        lr_shares: Mapping[str, float] | None = None,
    ) -> None:
        self.recipe, self.world, self.model, self.loss = recipe, world, model, loss
        self.stopping = False
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        model.to(device=world.device, memory_format=layout)  # type: ignore[call-overload]
        self.average = Average(model, recipe.ema)
        choice = recipe.optimizer
        groups = parameter_groups(model, choice.weight_decay, lr_shares, choice.head_lr)
        self.optimizer = build_optimizer(recipe.optimizer, groups)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.amp == "fp16")
        self.body: nn.Module = model

    def connect(self) -> None:
        """Tie the model to those of the other processes, after its weights were loaded."""
        body: nn.Module = self.model
        if self.recipe.sync_bn and self.world.size > 1:
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
            body = convert(body)  # type: ignore[no-untyped-call]
        self.body = self.world.wrap(body)

    def train(self, step: int, crops: Crops) -> Measured:
        """Step number `step` (0 is the first) on this process's part of a batch.

        TrainingError where loss or gradient are not finite; the weights are then untouched.
        """
        batch = self._batch(crops)
        self._seed(step)
        lr = self.recipe.optimizer.lr * share(self.recipe.schedule, step, self.recipe.steps)
        set_rate(self.optimizer, lr)
        terms = self._forward(batch)
        stop, counts, means = self._agree(terms)
        value = sum(terms[name].weight * mean for name, mean in means.items())
        if not math.isfinite(value):
            raise self._failure(step, f"loss is {value}", batch)
        loss = sum(
            (t.weight * t.total / counts[name] for name, t in terms.items()),
            start=torch.zeros((), device=self.world.device),
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * self.world.size).backward()  # type: ignore[no-untyped-call]
        norm = self._clip()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise self._failure(step, f"the gradient's norm is {norm}", batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model)
        return Measured(means, value, norm, lr, stop)

    def _batch(self, crops: Crops) -> Batch:
        images = normalise(crops.images, self.recipe.input, self.world.device)
        if not self.recipe.channels_last:
            images = images.contiguous()
        labels = crops.labels.to(self.world.device, non_blocking=True).long()
        sharp = None
        if crops.sharp is not None:
            unit = Input(order=self.recipe.input.order)
            sharp = normalise(crops.sharp, unit, self.world.device)
        return Batch(images, labels, crops.names, sharp)

    def _seed(self, step: int) -> None:
        """Random layers draw from (seed, step, rank), so there is no generator to store."""
        words = np.random.SeedSequence((self.recipe.seed, step, self.world.rank))
        torch.manual_seed(int(words.generate_state(1)[0]))

    def _forward(self, batch: Batch) -> dict[str, Term]:
        self.body.train()
        if self.recipe.freeze_bn:
            freeze_statistics(self.body)
        kind = PRECISIONS.get(self.recipe.amp)
        with torch.autocast(self.world.device.type, kind, enabled=kind is not None):
            outputs = self.body(batch.images)
        return self.loss(outputs, batch)

    def _agree(self, terms: dict[str, Term]) -> tuple[bool, dict[str, float], dict[str, float]]:
        """Over all processes: whether to stop, the weight and the mean of each term."""
        device = self.world.device
        parts: list[Tensor] = [torch.tensor(float(self.stopping), device=device)]
        parts += [t.count for t in terms.values()] + [t.total for t in terms.values()]
        stop, *sums = self.world.sum(torch.stack([p.detach().double() for p in parts])).tolist()
        counts = {name: max(n, 1e-12) for name, n in zip(terms, sums, strict=False)}
        totals = dict(zip(terms, sums[len(terms) :], strict=True))
        return stop > 0, counts, {name: totals[name] / counts[name] for name in terms}

    def _clip(self) -> float:
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.optimizer.clip or math.inf
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        return float(nn.utils.clip_grad_norm_(parameters, limit))

    def _failure(self, step: int, what: str, batch: Batch) -> TrainingError:
        names = ", ".join(self.world.gather(", ".join(batch.names)))
        return TrainingError(
            f"step {step + 1}: {what}; frames in the batch: {names}. Look at these frames, lower "
            "optimizer.lr or set optimizer.clip; the state before it is kept"
        )


def freeze_statistics(model: nn.Module) -> None:
    """Let every batch norm use its stored mean and variance, in training too."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
