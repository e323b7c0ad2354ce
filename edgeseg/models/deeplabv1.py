"""DeepLab-LargeFOV, DeepLab's first version (Chen et al., ICLR 2015, arXiv 1412.7062).

VGG-16 whose last two poolings lost their stride, conv5 dilated by 2, and fc6 as a 3x3 dilated by 12
with 1024 channels. The dense CRF behind it is a step of its own, no part of the network.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.blocks import keep_outputs, last_conv, start, thin
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.vgg import VGG

WIDTH = 1024
RATE = 12


class DeepLabV1(Network):
    """Scores at 1/8; `norm` takes VGG-16-BN, which also trains without ImageNet."""

    divisor = 8
    HEAD = ("classifier", "upsample")

    def __init__(
        self, outputs: int, norm: bool = False, dropout: float = 0.5, width: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = VGG(norm=norm, dilated=True, width=width)
        wide = thin(WIDTH, width)
        self.classifier = nn.Sequential(
            nn.AvgPool2d(3, 1, 1),
            nn.Conv2d(self.encoder.channels, wide, 3, padding=RATE, dilation=RATE),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(wide, wide, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(wide, outputs, 1),
        )
        self.upsample = Bilinear(8)
        start(self.classifier)
        nn.init.normal_(last_conv(self.classifier).weight, std=0.01)

    def features(self, image: torch.Tensor) -> Maps:
        """conv1 to conv3 at 1/1, 1/2 and 1/4, conv4 and pool5 at 1/8."""
        maps: Maps = self.encoder(image)
        return {name: maps[name] for name in ("conv1", "conv2", "conv3", "conv4", "pool5")}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 8, W / 8)."""
        scores: torch.Tensor = self.classifier(features["pool5"])
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
