"""Networks with auxiliary heads: in training, inner maps are told the labels too.

Lee et al. 2015, Deeply-Supervised Nets; in the form of PSPNet (Zhao et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.models.blocks import conv_norm_relu, resize_like
from edgeseg.models.network import Maps, Network


class Supervised(Network):
    """A network that gives logits of inner maps in training, as "aux_NAME"."""

    BRANCHES = ("auxiliary",)
    AUXILIARY: ClassVar[Mapping[str, float]] = {}
    """Weight of each auxiliary loss by the name of the map that it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: nn.ModuleDict | None = None
        """Heads by the names of the maps: (N, C, h, w) -> (N, outputs, h, w)."""

    def decode(self, features: Maps) -> Maps:
        """Features -> "scores", and inner maps of the head that auxiliary heads look at."""
        return {"scores": self.head(features)}

    def outputs(self, image: torch.Tensor) -> Maps:
        """Logits and scores, and each auxiliary head's logits at the size of the labels."""
        features = self.features(image)
        decoded = self.decode(features)
        logits = self.upsample(decoded["scores"])
        result = {"logits": logits, **self.seen(features, decoded["scores"])}
        seen = features | decoded
        for name, head in ({} if self.auxiliary is None else self.auxiliary).items():
            result[f"aux_{name}"] = resize_like(head(seen[name]), logits)
        return result


def auxiliary_head(inputs: int, width: int, outputs: int, dropout: float = 0.1) -> nn.Sequential:
    """3x3 with normalisation and ReLU, dropout, 1x1 to the classes."""
    return nn.Sequential(
        *conv_norm_relu(inputs, width), nn.Dropout(dropout), nn.Conv2d(width, outputs, 1)
    )
