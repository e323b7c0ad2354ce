"""Parameters -> groups -> optimizer; the learning rate comes from the schedule at each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeseg.models.network import Network
from edgeseg.training import plan


def parameter_groups(
    model: Network,
    weight_decay: float,
    lr_shares: Mapping[str, float] | None = None,
    head_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """Two groups: kernels and matrices with decay; norms, biases and PReLU (1-D) without.

    `lr_share` multiplies the scheduled learning rate of a group. A parameter named in `lr_shares`
    is a group of its own, without decay. With a `head_lr` other than 1, what is behind the encoder
    has two groups more, of that share.
    """
    shares = lr_shares or {}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in shares}
    heads = {n for n in trained if head_lr != 1 and model.is_head(n)}
    groups = _groups([p for n, p in trained.items() if n not in heads], weight_decay, 1.0)
    if heads:
        groups += _groups([trained[n] for n in trained if n in heads], weight_decay, head_lr)
    for name, share in shares.items():
        groups.append(
            {"params": [model.get_parameter(name)], "weight_decay": 0.0, "lr_share": share}
        )
    return groups


def _groups(trained: list[nn.Parameter], weight_decay: float, share: float) -> list[dict[str, Any]]:
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr_share": share},
        {"params": plain, "weight_decay": 0.0, "lr_share": share},
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
