"""DeepLabv3 (Chen et al. 2017, arXiv 1706.05587) on ResNet.

The head is torchvision's, which puts one more 3x3 behind the pyramid and whose files `edgeseg
convert` reads; multi-grid (1, 2, 4) in layer4 is the paper's. For such a file give the options
stride = 8, grid = [] and auxiliary = true.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.models.aspp import ASPP
from edgeseg.models.blocks import conv_norm_relu, keep_outputs, last_conv, start, thin
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.supervised import Supervised, auxiliary_head

GRID = (1, 2, 4)
WIDTH = 256


class DeepLabV3(Supervised):
    """Output stride 16 by default, 8 or 32 on request; the last upsampling is bilinear."""

    least_batch = 2
    HEAD = ("classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"layer3": 0.4}

    def __init__(
        self,
        outputs: int,
        depth: int,
        stride: int = 16,
        grid: tuple[int, ...] = GRID,
        dropout: float = 0.5,
        auxiliary: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.divisor = stride
        self.encoder = ResNet(depth, stride, grid=tuple(grid), width=width)
        channels, wide = channels_of(depth, width), thin(WIDTH, width)
        self.classifier = nn.Sequential(
            ASPP(channels[3], wide, stride, dropout),
            *conv_norm_relu(wide, wide),
            nn.Conv2d(wide, outputs, 1),
        )
        self.upsample = Bilinear(stride)
        if auxiliary:
            head = auxiliary_head(channels[2], channels[2] // 4, outputs)
            self.auxiliary = nn.ModuleDict({"layer3": head})
        for part in (self.classifier, self.auxiliary or nn.Identity()):
            start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """The encoder's stem, and layer1 to layer4."""
        maps: Maps = self.encoder(image)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / stride, W / stride)."""
        scores: torch.Tensor = self.classifier(features["layer4"])
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
