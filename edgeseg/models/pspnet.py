"""PSPNet (Zhao et al., CVPR 2017, arXiv 1612.01105) on ResNet with the deep stem.

Output stride 8. The map's means over 1x1, 2x2, 3x3 and 6x6 bins join it, each with a quarter of its
channels. Bins are those of torch's adaptive pooling, made of plain pooling for one size, so that
every engine takes them. Upsampling is half-pixel and sizes are multiples of 8 (the authors align
corners and take 8 k + 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.models.blocks import conv_norm_relu, keep_outputs, last_conv, resize_like, start
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.pooling import adaptive_pool
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.supervised import Supervised, auxiliary_head

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """(N, C, H, W) -> (N, 2 C, H, W): the map and its means in grids of BINS."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_norm_relu(channels, channels // len(BINS), 1) for _ in BINS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map first, then from coarse to fine."""
        maps = [x]
        for bins, conv in zip(BINS, self.convs, strict=True):
            maps.append(resize_like(conv(adaptive_pool(x, (bins, bins))), x))
        return torch.cat(maps, 1)


class PSPNet(Supervised):
    """PSPNet on ResNet of that depth."""

    least_batch = 2
    HEAD = ("pyramid", "classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"layer3": 0.4}

    def __init__(
        self,
        outputs: int,
        depth: int,
        stride: int = 8,
        stem: str = "deep",
        dropout: float = 0.1,
        auxiliary: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.divisor = stride
        self.encoder = ResNet(depth, stride, stem, width=width)
        channels = channels_of(depth, width)
        self.pyramid = PyramidPooling(channels[3])
        wide = channels[3] // 4
        self.classifier = nn.Sequential(
            *conv_norm_relu(2 * channels[3], wide),
            nn.Dropout(dropout),
            nn.Conv2d(wide, outputs, 1),
        )
        self.upsample = Bilinear(stride)
        if auxiliary:
            head = auxiliary_head(channels[2], channels[2] // 4, outputs, dropout)
            self.auxiliary = nn.ModuleDict({"layer3": head})
        for part in (self.pyramid, self.classifier, self.auxiliary or nn.Identity()):
            start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """The encoder's stem, and layer1 to layer4."""
        maps: Maps = self.encoder(image)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / stride, W / stride)."""
        scores: torch.Tensor = self.classifier(self.pyramid(features["layer4"]))
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
