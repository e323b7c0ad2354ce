"""U-Net (Ronneberger et al., MICCAI 2015, arXiv 1505.04597).

Convolutions are padded, so that labels have the size of the image (the paper's shrink by 184), and
normalised, which the paper's are not.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from edgeseg.models.blocks import conv_norm_relu, keep_outputs, start, thin
from edgeseg.models.network import Bilinear, Maps, Network

WIDTHS = (64, 128, 256, 512, 1024)


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 with normalisation and ReLU."""
    return nn.Sequential(*conv_norm_relu(inputs, outputs), *conv_norm_relu(outputs, outputs))


class UNet(Network):
    """Five levels; scores at the size of the image."""

    divisor = 16
    HEAD = ("ups", "joins", "classifier", "upsample")

    def __init__(self, outputs: int, width: float = 1.0) -> None:
        super().__init__()
        widths = tuple(thin(channels, width) for channels in WIDTHS)
        self.levels = nn.ModuleList(twice(*pair) for pair in pairwise((3, *widths)))
        rising = list(pairwise(widths[::-1]))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in rising)
        self.joins = nn.ModuleList(twice(2 * high, high) for _, high in rising)
        self.classifier = nn.Conv2d(widths[0], outputs, 1)
        self.upsample = Bilinear(1)
        start(self)

    def features(self, image: torch.Tensor) -> Maps:
        """level1 to level5 at 1/1 to 1/16."""
        maps: Maps = {}
        x = image
        for i, level in enumerate(self.levels, 1):
            x = maps[f"level{i}"] = level(x if i == 1 else nn.functional.max_pool2d(x, 2))
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H, W)."""
        *skips, x = features.values()
        for up, join in zip(self.ups, self.joins, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], 1))
        scores: torch.Tensor = self.classifier(x)
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(self.classifier, outputs)
