"""VGG-16 encoder (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556); torchvision's names."""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.blocks import start, thin
from edgeseg.models.network import Maps

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and 3x3 convolutions of each stage; a 2x2 pooling ends it."""
LEFT_OUT = ("classifier.",)


class VGG(nn.Module):
    """(N, 3, H, W) -> maps "conv1", "pool1", ... "conv5", "pool5" at 1/1, 1/2, ... 1/16, 1/32.

    `norm` puts batch normalisation behind each convolution (VGG-16-BN). `dilated` is DeepLab's
    (Chen et al. 2015): overlapping 3x3 poolings, the last two without stride, and conv5 with
    dilation 2, so that conv4's pooling and all behind it are at 1/8.
    """

    def __init__(self, norm: bool = False, dilated: bool = False, width: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs = 3
        for i, (channels, repeats) in enumerate(STAGES):
            outputs = thin(channels, width)
            rate = 2 if dilated and i == 4 else 1
            for _ in range(repeats):
                self.features.append(nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate))
                if norm:
                    self.features.append(nn.BatchNorm2d(outputs))
                self.features.append(nn.ReLU())
                inputs = outputs
            stride = 1 if dilated and i >= 3 else 2
            pool = nn.MaxPool2d(3, stride, 1) if dilated else nn.MaxPool2d(2)
            self.features.append(pool)
        self.channels = inputs
        start(self)

    def forward(self, image: torch.Tensor) -> Maps:
        """The maps by name, the deepest last."""
        maps: Maps = {}
        x, stage = image, 1
        for layer in self.features:
            before, x = x, layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps[f"conv{stage}"], maps[f"pool{stage}"] = before, x
                stage += 1
        return maps
