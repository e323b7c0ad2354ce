"""BiSeNetV2 (Yu et al., IJCV 2021, arXiv 2004.02147).

A wide and shallow detail branch at 1/8, a narrow and deep semantic branch of gather-and-expansion
layers at 1/32, and guided aggregation in both directions. Four boosters, heads on the semantic
branch, serve training alone (weight 1).
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
    mean_pixel,
    resize_like,
    start,
)
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.supervised import Supervised, auxiliary_head

DETAIL = ((64, 2), (64, 3), (128, 3))
"""Channels and convolutions of each stage; the first convolution strides."""
SEMANTIC = {"stage3": (32, 2), "stage4": (64, 2), "stage5": (128, 4)}
"""Channels and layers of each stage; the first layer strides."""
STEM = 16
EXPANSION = 6
WIDTH = 128
HEAD_WIDTH = 1024


def depthwise(inputs: int, stride: int = 1, expansion: int = 1) -> nn.Sequential:
    """Depthwise 3x3 to `expansion` times the channels, with normalisation."""
    return conv_norm(inputs, inputs * expansion, 3, stride, groups=inputs)


class Gather(nn.Module):
    """Gather and expansion: 3x3, depthwise to six times the width, 1x1; a sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = inputs * EXPANSION
        self.body = nn.Sequential(
            *conv_norm_relu(inputs, inputs), *depthwise(inputs, stride, EXPANSION)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.body.extend(depthwise(wide))
            self.shortcut = nn.Sequential(*depthwise(inputs, 2), *conv_norm(inputs, outputs, 1))
        self.body.append(nn.ReLU())
        self.body.extend(conv_norm(wide, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Stem(nn.Module):
    """A strided 3x3; a narrowing path and a pooling side by side; joined at 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_norm_relu(3, STEM, 3, 2)
        self.narrow = nn.Sequential(
            *conv_norm_relu(STEM, STEM // 2, 1), *conv_norm_relu(STEM // 2, STEM, 3, 2)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.join = conv_norm_relu(2 * STEM, STEM)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 16, H / 4, W / 4)."""
        x = self.first(image)
        result: torch.Tensor = self.join(torch.cat([self.narrow(x), self.pool(x)], 1))
        return result


class Context(nn.Module):
    """Context embedding: the mean of the whole map is added to each pixel, then a 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.whole = conv_norm_relu(channels, channels, 1)
        self.last = conv_norm_relu(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        result: torch.Tensor = self.last(x + self.whole(self.norm(mean_pixel(x))))
        return result


class Aggregate(nn.Module):
    """Bilateral guided aggregation: each branch gates the other at its own resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = nn.Sequential(*depthwise(channels), nn.Conv2d(channels, channels, 1))
        self.detail_down = nn.Sequential(
            *conv_norm(channels, channels, 3, 2), nn.AvgPool2d(3, 2, 1)
        )
        self.gate_up = conv_norm(channels, channels)
        self.gate = nn.Sequential(*depthwise(channels), nn.Conv2d(channels, channels, 1))
        self.last = conv_norm_relu(channels, channels)

    def forward(self, detail: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        """Maps at 1/8 and 1/32 -> one at 1/8."""
        fine = self.detail(detail) * torch.sigmoid(resize_like(self.gate_up(semantic), detail))
        coarse = self.detail_down(detail) * torch.sigmoid(self.gate(semantic))
        result: torch.Tensor = self.last(fine + resize_like(coarse, detail))
        return result


class BiSeNetV2(Supervised):
    """Scores at 1/8."""

    divisor = 32
    least_batch = 2
    HEAD = ("aggregate", "classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {
        "stem": 1.0,
        "stage3": 1.0,
        "stage4": 1.0,
        "stage5": 1.0,
    }

    def __init__(
        self,
        outputs: int,
        dropout: float = 0.1,
        auxiliary: bool = True,
        head_width: int = HEAD_WIDTH,
    ) -> None:
        super().__init__()
        self.detail = nn.Sequential()
        inputs = 3
        for channels, repeats in DETAIL:
            for i in range(repeats):
                self.detail.extend(conv_norm_relu(inputs, channels, 3, 1 if i else 2))
                inputs = channels
        self.stem = Stem()
        self.semantic = nn.ModuleDict()
        inputs = STEM
        for name, (channels, repeats) in SEMANTIC.items():
            rest = (Gather(channels, channels, 1) for _ in range(repeats - 1))
            self.semantic[name] = nn.Sequential(Gather(inputs, channels, 2), *rest)
            inputs = channels
        self.context = Context(inputs)
        self.aggregate = Aggregate(WIDTH)
        self.classifier = auxiliary_head(WIDTH, head_width, outputs, dropout)
        self.upsample = Bilinear(8)
        if auxiliary:
            widths = {"stem": STEM} | {name: row[0] for name, row in SEMANTIC.items()}
            self.auxiliary = nn.ModuleDict(
                {n: auxiliary_head(c, head_width // 8, outputs, dropout)
                 for n, c in widths.items()}
            )  # fmt: skip
        start(self)

    def features(self, image: torch.Tensor) -> Maps:
        """The stem at 1/4; detail, stage3 (1/8), stage4 (1/16), stage5 and semantic (1/32)."""
        x = self.stem(image)
        maps = {"stem": x, "detail": self.detail(image)}
        for name, stage in self.semantic.items():
            x = maps[name] = stage(x)
        maps["semantic"] = self.context(x)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 8, W / 8)."""
        joined = self.aggregate(features["detail"], features["semantic"])
        scores: torch.Tensor = self.classifier(joined)
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
