"""ICNet (Zhao et al., ECCV 2018, arXiv 1704.08545).

One PSPNet-50 sees the image at 1/2 up to the first block of layer2, and from there on at 1/4; three
light convolutions see it whole. Cascade feature fusion joins them from coarse to fine, and each
coarser result is told the labels too (0.16 and 0.4, the paper's weights). The pyramid is summed, as
in the authors' release, whose channels are half of a ResNet's: that is `width` 0.5.
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
    resize,
    resize_like,
    start,
    thin,
)
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.pooling import adaptive_pool
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.supervised import Supervised

BINS = (1, 2, 3, 6)
FINE = (32, 32, 64)
FUSED, DEEP = 128, 256


class Fusion(nn.Module):
    """Cascade feature fusion: the coarse map, doubled, by a dilated 3x3; the fine one by a 1x1."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.coarse = conv_norm(coarse, width, 3, dilation=2)
        self.fine = conv_norm(fine, width, 1)

    def forward(self, doubled: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Two maps of one size -> (N, width, h, w)."""
        return torch.relu(self.coarse(doubled) + self.fine(fine))


class ICNet(Supervised):
    """Scores at 1/4."""

    divisor = 32
    HEAD = ("deep", "low_fusion", "high_fusion", "classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"low": 0.16, "middle": 0.4}

    def __init__(
        self, outputs: int, depth: int = 50, auxiliary: bool = True, width: float = 0.5
    ) -> None:
        super().__init__()
        self.encoder = ResNet(depth, 8, "deep", width=width)
        channels = channels_of(depth, width)
        # The lighter parts are the release's at width 0.5.
        wide, deep = thin(FUSED, min(1.0, 2 * width)), thin(DEEP, min(1.0, 2 * width))
        fine = tuple(thin(c, min(1.0, 2 * width)) for c in FINE)
        self.fine = nn.Sequential(
            *conv_norm_relu(3, fine[0], 3, 2),
            *conv_norm_relu(fine[0], fine[1], 3, 2),
            *conv_norm_relu(fine[1], fine[2], 3, 2),
        )
        self.deep = conv_norm_relu(channels[3], deep, 1)
        self.low_fusion = Fusion(deep, channels[1], wide)
        self.high_fusion = Fusion(wide, fine[2], wide)
        self.classifier = nn.Conv2d(wide, outputs, 1)
        self.upsample = Bilinear(4)
        if auxiliary:
            self.auxiliary = nn.ModuleDict(
                {"low": nn.Conv2d(deep, outputs, 1), "middle": nn.Conv2d(wide, outputs, 1)}
            )
        for part in (self.fine, self.deep, self.low_fusion, self.high_fusion):
            start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """sub1, sub2 and sub4 at 1/8, 1/16 and 1/32: of the image whole, at 1/2 and at 1/4.

        Halving bilinearly with half-pixel centres is the mean of 2x2 pixels.
        """
        encoder = self.encoder
        x = encoder.maxpool(encoder.stem(nn.functional.avg_pool2d(image, 2)))
        first, *rest = encoder.stage("layer2")
        sub2 = first(encoder.stage("layer1")(x))
        x = nn.functional.avg_pool2d(sub2, 2)
        for block in rest:
            x = block(x)
        for name in ("layer3", "layer4"):
            x = encoder.stage(name)(x)
        return {"sub1": self.fine(image), "sub2": sub2, "sub4": x}

    def decode(self, features: Maps) -> Maps:
        """Scores at 1/4; "low" at 1/16 and "middle" at 1/8, before each fusion."""
        x = features["sub4"]
        for bins in BINS:
            pooled = adaptive_pool(features["sub4"], (bins, bins))
            x = x + resize_like(pooled, features["sub4"])
        low = resize_like(self.deep(x), features["sub2"])
        middle = resize_like(self.low_fusion(low, features["sub2"]), features["sub1"])
        high = self.high_fusion(middle, features["sub1"])
        size = (2 * int(high.shape[2]), 2 * int(high.shape[3]))
        return {"scores": self.classifier(resize(high, size)), "low": low, "middle": middle}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 4, W / 4)."""
        return self.decode(features)["scores"]

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(self.classifier, outputs)
