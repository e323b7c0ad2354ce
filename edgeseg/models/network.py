"""What every network promises, and the one door that builds them by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.errors import UsageError, guess
from edgeseg.models import MODELS


class Network(nn.Module, ABC):
    """(N, 3, H, W) float32 normalised -> (N, outputs, H, W) float32 logits.

    `forward` is `upsample(scores(x))`: `upsample` is the last linear layer, which can be taken out
    of the exported graph and fused with argmax.
    """

    divisor = 8
    """Height and width must be multiples of this."""
    upsample: nn.Module

    @abstractmethod
    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, h, w): everything before the last linear upsampling."""

    @abstractmethod
    def cut(self, outputs: int) -> None:
        """Keep only the first `outputs` outputs of the last layer (void is behind the classes)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits at the size of the input."""
        return cast("torch.Tensor", self.upsample(self.scores(image)))


class Bilinear(nn.Module):
    """Bilinear upsampling by a factor: half-pixel centres, or corners on corners."""

    def __init__(self, factor: int, align_corners: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.align_corners = align_corners

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, C, h * factor, w * factor)."""
        size = (scores.shape[2] * self.factor, scores.shape[3] * self.factor)
        return nn.functional.interpolate(
            scores, size, mode="bilinear", align_corners=self.align_corners
        )


def build_model(spec: ModelSpec, outputs: int) -> Network:
    """The network of that name with fresh weights and `outputs` output channels."""
    if spec.name not in MODELS:
        raise UsageError(f"unknown model '{spec.name}'.{guess(spec.name, MODELS)}")
    entry = MODELS[spec.name]
    module, _, name = entry.builder.partition(":")
    builder = getattr(importlib.import_module(module), name)
    try:
        return cast("Network", builder(outputs=outputs, **entry.arguments, **spec.options))
    except TypeError as error:
        raise UsageError(f"model '{spec.name}' does not take {spec.options}: {error}") from error
