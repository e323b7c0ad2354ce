"""Fast-SCNN (Poudel et al., BMVC 2019, arXiv 1902.04502).

Learning to downsample to 1/8, shared by both branches; inverted residuals and pyramid pooling at
1/32; a sum of both; two separable convolutions. No non-linearity stands between the two halves of a
separable convolution. Auxiliary heads on both branches' ends, with the paper's weight 0.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.models.blocks import (
    conv_norm,
    conv_norm_relu,
    keep_outputs,
    last_conv,
    resize_like,
    start,
)
from edgeseg.models.mobilenetv2 import Inverted
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.pspnet import PyramidPooling
from edgeseg.models.supervised import Supervised

DOWN = (32, 48, 64)
# fmt: off
GLOBAL = (
    # channels, blocks, stride
    ( 64, 3, 2),
    ( 96, 3, 2),
    (128, 3, 1),
)
# fmt: on
EXPANSION = 6
WIDTH = 128
RATE = 4
"""Dilation of the depthwise 3x3 that smooths the upsampled map: its factor."""


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and 1x1, each normalised, and one ReLU at the end."""
    return nn.Sequential(
        *conv_norm(inputs, inputs, 3, stride, groups=inputs), *conv_norm_relu(inputs, outputs, 1)
    )


class FastSCNN(Supervised):
    """Scores at 1/8."""

    divisor = 32
    least_batch = 2
    HEAD = ("smooth", "detail", "classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"down": 0.4, "deep": 0.4}

    def __init__(self, outputs: int, dropout: float = 0.1, auxiliary: bool = True) -> None:
        super().__init__()
        first, second, third = DOWN
        self.down = nn.Sequential(
            *conv_norm_relu(3, first, 3, 2),
            *separable(first, second, 2),
            *separable(second, third, 2),
        )
        self.stages = nn.ModuleList()
        inputs = third
        for channels, repeats, stride in GLOBAL:
            stage = nn.Sequential()
            for i in range(repeats):
                step = 1 if i else stride
                stage.append(Inverted(inputs, channels, step, EXPANSION, act=nn.ReLU))
                inputs = channels
            self.stages.append(stage)
        self.pyramid = nn.Sequential(PyramidPooling(inputs), *conv_norm_relu(2 * inputs, WIDTH, 1))
        self.smooth = nn.Sequential(
            *conv_norm_relu(WIDTH, WIDTH, 3, dilation=RATE, groups=WIDTH),
            *_biased(WIDTH, WIDTH),
        )
        self.detail = _biased(third, WIDTH)
        self.classifier = nn.Sequential(
            *separable(WIDTH, WIDTH),
            *separable(WIDTH, WIDTH),
            nn.Dropout(dropout),
            nn.Conv2d(WIDTH, outputs, 1),
        )
        self.upsample = Bilinear(8)
        if auxiliary:
            self.auxiliary = nn.ModuleDict(
                {"down": _head(third, outputs), "deep": _head(WIDTH, outputs)}
            )
        start(self)

    def features(self, image: torch.Tensor) -> Maps:
        """Maps down at 1/8, stage1 and stage2 at 1/16 and 1/32, deep at 1/32."""
        x = self.down(image)
        maps = {"down": x}
        for i, stage in enumerate(self.stages, 1):
            x = maps[f"stage{i}"] = stage(x)
        maps["deep"] = self.pyramid(x)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 8, W / 8)."""
        deep = self.smooth(resize_like(features["deep"], features["down"]))
        scores: torch.Tensor = self.classifier(torch.relu(deep + self.detail(features["down"])))
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)


def _biased(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm_relu(inputs, 32), nn.Conv2d(32, outputs, 1))
