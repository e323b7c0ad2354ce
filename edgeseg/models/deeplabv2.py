"""DeepLabv2 (Chen et al., PAMI 2018, arXiv 1606.00915) on ResNet-101.

Output stride 8, and atrous spatial pyramid pooling: the sum of four 3x3 to the classes, dilated by
6, 12, 18 and 24. Neither the dense CRF behind it nor the paper's three input scales are part of the
network.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.blocks import keep_outputs
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.resnet import ResNet, channels_of

RATES = (6, 12, 18, 24)


class DeepLabV2(Network):
    """Scores at 1/`stride`."""

    HEAD = ("pyramid", "upsample")

    def __init__(self, outputs: int, depth: int, stride: int = 8, width: float = 1.0) -> None:
        super().__init__()
        self.divisor = stride
        self.encoder = ResNet(depth, stride, width=width)
        channels = channels_of(depth, width)[3]
        self.pyramid = nn.ModuleList(
            nn.Conv2d(channels, outputs, 3, padding=rate, dilation=rate) for rate in RATES
        )
        self.upsample = Bilinear(stride)
        for conv in self.pyramid:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def features(self, image: torch.Tensor) -> Maps:
        """The encoder's stem, and layer1 to layer4."""
        maps: Maps = self.encoder(image)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / stride, W / stride)."""
        first, *rest = (conv(features["layer4"]) for conv in self.pyramid)
        for other in rest:
            first = first + other
        scores: torch.Tensor = first
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of all four."""
        for conv in self.pyramid:
            assert isinstance(conv, nn.Conv2d)
            keep_outputs(conv, outputs)
