"""Parameters -> groups -> optimizer; the learning rate comes from the schedule at each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeseg.training import plan


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_shares: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Two groups: kernels and matrices with decay; norms, biases and PReLU (1-D) without.

    `lr_share` multiplies the scheduled learning rate of a group. A parameter named in `lr_shares`
    is a group of its own, without decay.
    """
    shares = lr_shares or {}
    trained = [p for n, p in model.named_parameters() if p.requires_grad and n not in shares]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr_share": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_share": 1.0},
        *(
            {"params": [model.get_parameter(name)], "weight_decay": 0.0, "lr_share": share}
            for name, share in shares.items()
        ),
    ]


def build_optimizer(
    choice: plan.Optimizer, groups: list[dict[str, Any]]
) -> torch.optim.SGD | torch.optim.AdamW:
    """SGD or AdamW over parameter groups."""
    if choice.name == "adamw":
        return torch.optim.AdamW(groups, lr=choice.lr, betas=choice.betas)
    return torch.optim.SGD(groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.nesterov)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]
