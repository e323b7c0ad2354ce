"""Xception39, the light Xception of BiSeNet (Yu et al., ECCV 2018, arXiv 1808.00897).

Its blocks are those of DFANet's Xceptions, which are made after it: three separable convolutions.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.blocks import conv_norm_relu, thin
from edgeseg.models.dfanet import stage
from edgeseg.models.network import Maps

WIDTHS = (16, 32, 64)
REPEATS = (4, 8, 4)
STEM = 8


class Xception39(nn.Module):
    """(N, 3, H, W) -> maps "layer2" at 1/8, "layer3" at 1/16 and "layer4" at 1/32."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        inputs = thin(STEM, width)
        self.stem = nn.Sequential(*conv_norm_relu(3, inputs, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.widths = tuple(thin(channels, width) for channels in WIDTHS)
        for name, outputs, repeats in zip(
            ("layer2", "layer3", "layer4"), self.widths, REPEATS, strict=True
        ):
            setattr(self, name, stage(inputs, outputs, repeats))
            inputs = outputs

    def forward(self, image: torch.Tensor) -> Maps:
        """The maps by name, the deepest last."""
        maps: Maps = {}
        x = self.stem(image)
        for name in ("layer2", "layer3", "layer4"):
            x = maps[name] = getattr(self, name)(x)
        return maps
