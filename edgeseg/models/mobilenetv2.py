"""MobileNetV2 encoder (Sandler et al., CVPR 2018, arXiv 1801.04381); torchvision's names.

Without the last 1x1 to 1280 channels, which serves the classifier.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import conv_norm, start
from edgeseg.models.network import Maps

# fmt: off
STAGES = (
    # expansion, channels, blocks, stride
    (1,  16, 1, 1),
    (6,  24, 2, 2),
    (6,  32, 3, 2),
    (6,  64, 4, 2),
    (6,  96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# fmt: on
STEM = 32
NAMED = {3: "stage2", 6: "stage3", 13: "stage5", 17: "stage7"}
"""The last block at 1/4, 1/8, 1/16 and 1/32, and how its map is called."""
STRIDES = (8, 16, 32)
LEFT_OUT = ("features.18.", "classifier.")


def round_channels(channels: float) -> int:
    """The paper's rounding: to a multiple of 8 that is at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class Inverted(nn.Module):
    """1x1 to `expansion` times the width, depthwise 3x3, linear 1x1; a sum where shapes agree."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        dilation: int = 1,
        act: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(conv_norm(inputs, wide, 1).append(act()))
        depthwise = conv_norm(wide, wide, 3, stride, dilation, wide)
        self.conv.append(depthwise.append(act()))
        self.conv.extend(conv_norm(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        result: torch.Tensor = self.conv(x)
        return x + result if self.adds else result


class MobileNetV2(nn.Module):
    """(N, 3, H, W) -> maps "stage2" at 1/4, "stage3" at 1/8, "stage5" and "stage7".

    The last two are at 1/16 and 1/32, or at 1/`stride`, where dilation replaces the strides left.
    """

    def __init__(self, stride: int = 32, width: float = 1.0) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise UsageError(f"stride is {stride}; expected one of 8, 16, 32")
        inputs = round_channels(STEM * width)
        self.features = nn.Sequential(conv_norm(3, inputs, 3, 2).append(nn.ReLU6()))
        self.widths: dict[str, int] = {}
        reached, dilation = 2, 1
        for expansion, channels, repeats, stage_stride in STAGES:
            outputs = round_channels(channels * width)
            step, before = stage_stride, dilation
            if reached == stride and stage_stride > 1:
                step, dilation = 1, dilation * stage_stride
            reached *= step
            for i in range(repeats):
                rate = before if i == 0 else dilation
                block = Inverted(inputs, outputs, 1 if i else step, expansion, rate)
                self.features.append(block)
                inputs = outputs
            if len(self.features) - 1 in NAMED:
                self.widths[NAMED[len(self.features) - 1]] = outputs
        self.channels = inputs
        start(self)

    def forward(self, image: torch.Tensor) -> Maps:
        """The maps by name, the deepest last."""
        maps: Maps = {}
        x = image
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in NAMED:
                maps[NAMED[i]] = x
        return maps
