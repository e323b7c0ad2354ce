"""ESPNetv2 for segmentation (Mehta et al., CVPR 2019, arXiv 1811.11431).

The encoder is the paper's; the decoder is the one of the authors' EdgeNets, to which the published
weights belong: a pyramid pooling at each of 1/16, 1/8, 1/4 and 1/2, joined by cheap skips. All
upsampling aligns corners, as in that release.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from edgeseg.errors import UsageError
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.pooling import adaptive_pool, scaled

BRANCHES = 4
REPEATS = {3: 3, 4: 7}
"""EESP units at levels 3 (1/8) and 4 (1/16), behind the strided one."""
FIELDS = {2: 13, 3: 11, 4: 9}
"""Receptive-field limit of the strided unit of each level; its plain units have the next one."""
PLAIN_FIELDS = {3: 9, 4: 7}
# fmt: off
WIDTHS = {
    0.5: (16,  32,  64, 128),
    1.0: (32,  64, 128, 256),
    1.5: (32,  96, 192, 384),
    2.0: (32, 128, 256, 512),
}
# fmt: on
"""Channels at 1/2, 1/4, 1/8 and 1/16."""
DECODER = (64, 48, 32)
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
LEAST = 5
"""Pyramid scales and the least side of a pooled map (EdgeNets)."""
PYRAMID = 10
"""Width of a pyramid's branches. EdgeNets takes half the outputs, which is 10 for its Cityscapes
and PASCAL files (20 and 21 outputs); here it does not depend on the classes."""


def norm_act(channels: int) -> nn.Sequential:
    """Batch normalisation and PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def conv_norm(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_norm_act(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, PReLU."""
    return conv_norm(inputs, outputs, kernel, groups).append(nn.PReLU(outputs))


def dilations(field: int) -> list[int]:
    """One dilation per branch: 1, 2, 3, 4, those whose field exceeds the limit replaced by 1."""
    return sorted(d if 2 * d + 1 <= field else 1 for d in range(1, BRANCHES + 1))


class EESP(nn.Module):
    """Reduce in groups, depthwise dilated 3x3 branches, hierarchical fusion, expand in groups."""

    def __init__(self, inputs: int, outputs: int, field: int, stride: int = 1) -> None:
        super().__init__()
        n = outputs // BRANCHES
        self.reduce = conv_norm_act(inputs, n, 1, BRANCHES)
        self.branches = nn.ModuleList(
            nn.Conv2d(n, n, 3, stride, padding=d, dilation=d, groups=n, bias=False)
            for d in dilations(field)
        )
        self.post = norm_act(outputs)
        self.expand = conv_norm(outputs, outputs, 1, BRANCHES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride), no residual, no activation."""
        reduced = self.reduce(x)
        sums: list[torch.Tensor] = []
        for branch in self.branches:
            sums.append(branch(reduced) + sums[-1] if sums else branch(reduced))
        result: torch.Tensor = self.expand(self.post(torch.cat(sums, 1)))
        return result


class Unit(nn.Module):
    """EESP with a residual."""

    def __init__(self, channels: int, field: int) -> None:
        super().__init__()
        self.eesp = EESP(channels, channels, field)
        self.act = nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> the same shape."""
        result: torch.Tensor = self.act(self.eesp(x) + x)
        return result


class Down(nn.Module):
    """Strided unit: average pooling beside a strided EESP, plus the pooled image's own path."""

    def __init__(self, inputs: int, outputs: int, field: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.eesp = EESP(inputs, outputs - inputs, field, stride=2)
        self.image = nn.Sequential(conv_norm_act(3, 3, 3), conv_norm(3, outputs, 1))
        self.act = nn.PReLU(outputs)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) and the image at (H / 2, W / 2) -> (N, outputs, H / 2, W / 2)."""
        joined = torch.cat([self.pool(x), self.eesp(x)], 1)
        result: torch.Tensor = self.act(joined + self.image(image))
        return result


class Encoder(nn.Module):
    """Levels 1 to 4: (N, 3, H, W) -> 1/2, 1/4, 1/8, 1/16."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, *norm_act(widths[0]))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.downs = nn.ModuleList(
            Down(inputs, outputs, field)
            for (inputs, outputs), field in zip(pairwise(widths), FIELDS.values(), strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Unit(width, PLAIN_FIELDS[level]) for _ in range(REPEATS[level])))
            for width, level in zip(widths[2:], REPEATS, strict=True)
        )

    def forward(self, image: torch.Tensor) -> Maps:
        """level1 to level4 at 1/2, 1/4, 1/8 and 1/16."""
        x = self.stem(image)
        maps = {"level1": x}
        pooled = self.pool(image)
        stages = (nn.Identity(), *self.stages)
        for level, (down, stage) in enumerate(zip(self.downs, stages, strict=True), 2):
            pooled = self.pool(pooled)
            x = stage(down(x, pooled))
            maps[f"level{level}"] = x
        return maps


class PyramidPool(nn.Module):
    """Efficient pyramid pooling: one depthwise 3x3 at each scale of SCALES, shuffled and merged.

    `last` leaves the activation out and gives the last 1x1 a bias.
    """

    def __init__(self, inputs: int, width: int, outputs: int, last: bool = False) -> None:
        super().__init__()
        joined = width * len(SCALES)
        self.project = conv_norm_act(inputs, width, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in SCALES
        )
        self.post = norm_act(joined)
        self.shuffle = nn.ChannelShuffle(len(SCALES))
        self.merge = conv_norm_act(joined, width, 3, width)
        self.expand = nn.Conv2d(width, outputs, 1, bias=last)
        self.norm = nn.Identity() if last else norm_act(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        x = self.project(x)
        size = (int(x.shape[2]), int(x.shape[3]))
        maps = []
        for scale, stage in zip(SCALES, self.stages, strict=True):
            other = scaled(size, scale, LEAST)
            if scale < 1:
                maps.append(resize(stage(adaptive_pool(x, other)), size))
            elif scale > 1:
                maps.append(adaptive_pool(stage(resize(x, other)), size))
            else:
                maps.append(stage(x))
        merged = self.merge(self.shuffle(self.post(torch.cat(maps, 1))))
        result: torch.Tensor = self.norm(self.expand(merged))
        return result


class Skip(nn.Module):
    """Grouped 3x3 to the decoder's width, each channel weighted by a gate of the channel means."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.conv = conv_norm_act(inputs, outputs, 3, math.gcd(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        gate = self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        result: torch.Tensor = self.conv(x) * gate
        return result


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, corners aligned."""
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


class ESPNetv2(Network):
    """ESPNetv2 of width `s`, one of WIDTHS; `pyramid` is the width of the pyramids' branches."""

    divisor = 16
    HEAD = ("pyramids", "skips", "joins", "last", "upsample")

    def __init__(self, outputs: int, s: float, pyramid: int = PYRAMID) -> None:
        super().__init__()
        if s not in WIDTHS:
            raise UsageError(f"s is {s}; expected one of {', '.join(map(str, WIDTHS))}")
        widths = WIDTHS[s]
        self.encoder = Encoder(widths)
        self.pyramids = nn.ModuleList(
            PyramidPool(inputs, pyramid, wide) for inputs, wide in pairwise((widths[3], *DECODER))
        )
        self.skips = nn.ModuleList(
            Skip(inputs, wide) for inputs, wide in zip(widths[2::-1], DECODER, strict=True)
        )
        self.joins = nn.ModuleList(norm_act(wide) for wide in DECODER)
        self.last = PyramidPool(DECODER[-1], pyramid, outputs, last=True)
        self.upsample = Bilinear(2, align_corners=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, image: torch.Tensor) -> Maps:
        """level1 to level4 at 1/2, 1/4, 1/8 and 1/16."""
        maps: Maps = self.encoder(image)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 2, W / 2)."""
        *levels, x = features.values()
        for pyramid, skip, join in zip(self.pyramids, self.skips, self.joins, strict=True):
            level = levels.pop()
            x = join(skip(level) + resize(pyramid(x), (int(level.shape[2]), int(level.shape[3]))))
        result: torch.Tensor = self.last(x)
        return result

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        expand = self.last.expand
        if expand.bias is None:
            raise AssertionError("the last 1x1 has a bias")
        expand.weight = nn.Parameter(expand.weight[:outputs].detach())
        expand.bias = nn.Parameter(expand.bias[:outputs].detach())
        expand.out_channels = outputs
