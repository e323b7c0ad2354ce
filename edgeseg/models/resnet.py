"""ResNet encoders (He et al., CVPR 2016, arXiv 1512.03385), dilated where a system asks for it.

Tensors are named as in torchvision, stride on a bottleneck's 3x3. Output stride 16 or 8 replaces
the last strides by dilation (Yu et al. 2017, Dilated Residual Networks, and torchvision: what reads
the map before the lost stride keeps the dilation that it had). The "deep" stem of three 3x3 (Zhao
et al. 2017, PSPNet) stands in place of the 7x7, its tensors named as in PSPNet's release.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import conv_norm, start, thin
from edgeseg.models.dfanet import Project
from edgeseg.models.network import Maps

REPEATS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEMS = ("plain", "deep")
STRIDES = (8, 16, 32)
STAGES = ("layer1", "layer2", "layer3", "layer4")
LEFT_OUT = ("fc.",)
"""What a classifier's state dict holds besides the encoder."""


class Block(nn.Module):
    """What the two kinds of residual blocks share: the shortcut, a 1x1 where the shape changes."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        outputs = planes * self.expansion
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.downsample = nn.Sequential(Project(inputs, outputs), nn.BatchNorm2d(outputs))
        elif inputs != outputs:
            self.downsample = conv_norm(inputs, outputs, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The residual, before the sum."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, planes * expansion, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.body(x) + shortcut)


class Basic(Block):
    """Two 3x3 convolutions, the first dilated by `first` and the other by `dilation`."""

    def __init__(self, inputs: int, planes: int, stride: int, first: int, dilation: int) -> None:
        super().__init__(inputs, planes, stride)
        self.conv1, self.bn1 = conv_norm(inputs, planes, 3, stride, first)
        self.conv2, self.bn2 = conv_norm(planes, planes, 3, 1, dilation)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """3x3, ReLU, 3x3."""
        x = self.relu(self.bn1(self.conv1(x)))
        result: torch.Tensor = self.bn2(self.conv2(x))
        return result


class Bottleneck(Block):
    """1x1, 3x3 with the stride, dilated by `first`, 1x1 to four times the width."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, first: int, dilation: int) -> None:
        super().__init__(inputs, planes, stride)
        self.conv1, self.bn1 = conv_norm(inputs, planes, 1)
        self.conv2, self.bn2 = conv_norm(planes, planes, 3, stride, first)
        self.conv3, self.bn3 = conv_norm(planes, planes * self.expansion, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """1x1, ReLU, 3x3, ReLU, 1x1."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        result: torch.Tensor = self.bn3(self.conv3(x))
        return result


class ResNet(nn.Module):
    """(N, 3, H, W) -> maps "stem" at 1/2 and "layer1" to "layer4" at 1/4 to 1/`stride`.

    `grid` are the dilations of layer4's blocks, times the stage's own (multi-grid, Chen et al.
    2017, DeepLabv3); empty: none. `width` scales all channels; `inputs` are those of the image.
    """

    def __init__(
        self,
        depth: int,
        stride: int = 32,
        stem: str = "plain",
        grid: tuple[int, ...] = (),
        width: float = 1.0,
        inputs: int = 3,
    ) -> None:
        super().__init__()
        _check(depth, stride, stem, grid)
        kind: type[Basic] | type[Bottleneck] = Basic if depth < 50 else Bottleneck
        base = thin(64, width)
        if stem == "deep":
            self.conv1, self.bn1 = conv_norm(inputs, base, 3, 2)
            self.conv2, self.bn2 = conv_norm(base, base)
            self.conv3, self.bn3 = conv_norm(base, 2 * base)
            self.channels = 2 * base
        else:
            self.conv1, self.bn1 = conv_norm(inputs, base, 7, 2)
            self.channels = base
        self.deep = stem == "deep"
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        dilation, reached = 1, 4
        for i, (name, repeats) in enumerate(zip(STAGES, REPEATS[depth], strict=True)):
            strides = 1 if i == 0 or reached == stride else 2
            before, dilation = dilation, dilation * (2 if i and strides == 1 else 1)
            reached *= strides
            rates = [(before, dilation), *[(dilation, dilation)] * (repeats - 1)]
            if grid and name == STAGES[-1]:
                rates = [(dilation * rate, dilation * rate) for rate in grid]
            setattr(self, name, self._build(kind, base << i, strides, rates))
        start(self)

    def _build(
        self,
        kind: Callable[[int, int, int, int, int], Block],
        planes: int,
        stride: int,
        rates: list[tuple[int, int]],
    ) -> nn.Sequential:
        blocks = nn.Sequential()
        for i, rate in enumerate(rates):
            block = kind(self.channels, planes, 1 if i else stride, *rate)
            self.channels = planes * block.expansion
            blocks.append(block)
        return blocks

    def stage(self, name: str) -> nn.Sequential:
        """The blocks of one of STAGES."""
        return cast("nn.Sequential", getattr(self, name))

    def stem(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> 1/2, before the pooling."""
        x = torch.relu(self.bn1(self.conv1(image)))
        if self.deep:
            x = torch.relu(self.bn2(self.conv2(x)))
            x = torch.relu(self.bn3(self.conv3(x)))
        return x

    def forward(self, image: torch.Tensor) -> Maps:
        """The maps by name, the deepest last."""
        x = self.stem(image)
        maps = {"stem": x}
        x = self.maxpool(x)
        for name in STAGES:
            x = maps[name] = self.stage(name)(x)
        return maps


def channels_of(depth: int, width: float = 1.0) -> tuple[int, int, int, int]:
    """Channels of layer1 to layer4."""
    base = thin(64, width) * (1 if depth < 50 else Bottleneck.expansion)
    return base, 2 * base, 4 * base, 8 * base


def _check(depth: int, stride: int, stem: str, grid: tuple[int, ...]) -> None:
    for key, value, known in (
        ("depth", depth, tuple(REPEATS)), ("stride", stride, STRIDES), ("stem", stem, STEMS),
    ):  # fmt: skip
        if value not in known:
            raise UsageError(f"{key} is {value!r}; expected one of {', '.join(map(str, known))}")
    if grid and len(grid) != REPEATS[depth][-1]:
        raise UsageError(
            f"grid is {list(grid)}; layer4 of ResNet-{depth} has {REPEATS[depth][-1]} blocks, so "
            "give as many dilations"
        )
