"""BiSeNet (Yu et al., ECCV 2018, arXiv 1808.00897) on ResNet-18 or Xception39.

A spatial path of three strided convolutions; a context path whose maps at 1/16 and 1/32 are weighed
by attention and joined with the mean of the whole; feature fusion with attention. Two auxiliary
heads on the context path, with the paper's weight 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import (
    conv_norm,
    conv_norm_relu,
    keep_outputs,
    last_conv,
    mean_pixel,
    resize_like,
    start,
    thin,
)
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.supervised import Supervised, auxiliary_head
from edgeseg.models.xception import Xception39

ENCODERS = ("r18", "x39")
CONTEXT, FUSED = 128, 256
SPATIAL = (64, 64, 64, 128)


class Refine(nn.Module):
    """Attention refinement: 3x3, then each channel weighed by what the whole map's mean says."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(inputs, outputs)
        self.weigh = conv_norm(outputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        x = self.conv(x)
        return x * torch.sigmoid(self.weigh(mean_pixel(x)))


class Fusion(nn.Module):
    """Feature fusion: both paths by a 1x1, plus the same weighed by its mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(inputs, outputs, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(outputs, outputs // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs // 4, outputs, 1, bias=False),
        )

    def forward(self, spatial: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Two maps of one size -> (N, outputs, H, W)."""
        x = self.conv(torch.cat([spatial, context], 1))
        result: torch.Tensor = x + x * torch.sigmoid(self.weigh(mean_pixel(x)))
        return result


class BiSeNetV1(Supervised):
    """Scores at 1/8."""

    divisor = 32
    least_batch = 2
    HEAD = ("refine16", "refine32", "whole", "join16", "join32", "fusion", "classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"context16": 1.0, "context32": 1.0}

    def __init__(
        self, outputs: int, encoder: str, auxiliary: bool = True, width: float = 1.0
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise UsageError(f"encoder is '{encoder}'; expected {' or '.join(ENCODERS)}")
        if encoder == "r18":
            self.encoder: ResNet | Xception39 = ResNet(18, width=width)
            middle, deep = channels_of(18, width)[2:]
        else:
            self.encoder = Xception39(width)
            middle, deep = self.encoder.widths[1:]
        context, fused = thin(CONTEXT, width), thin(FUSED, width)
        a, b, c, spatial = (thin(channels, width) for channels in SPATIAL)
        self.spatial = nn.Sequential(
            *conv_norm_relu(3, a, 7, 2),
            *conv_norm_relu(a, b, 3, 2),
            *conv_norm_relu(b, c, 3, 2),
            *conv_norm_relu(c, spatial, 1),
        )
        self.refine16, self.refine32 = Refine(middle, context), Refine(deep, context)
        self.whole = conv_norm_relu(deep, context, 1)
        self.join16, self.join32 = (conv_norm_relu(context, context) for _ in range(2))
        self.fusion = Fusion(spatial + context, fused)
        self.classifier = auxiliary_head(fused, fused, outputs, 0.0)
        self.upsample = Bilinear(8)
        if auxiliary:
            self.auxiliary = nn.ModuleDict(
                {name: auxiliary_head(context, context // 2, outputs, 0.0)
                 for name in self.AUXILIARY}
            )  # fmt: skip
        for name, part in self.named_children():
            if name != "encoder":
                start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """The spatial path at 1/8, layer3 and layer4 of the encoder at 1/16 and 1/32."""
        maps: Maps = self.encoder(image)
        return {
            "spatial": self.spatial(image), "layer3": maps["layer3"], "layer4": maps["layer4"]
        }  # fmt: skip

    def decode(self, features: Maps) -> Maps:
        """Scores, and of the context path "context32" and "context16", doubled and smoothed."""
        deep = self.refine32(features["layer4"]) + self.whole(mean_pixel(features["layer4"]))
        context32 = self.join32(resize_like(deep, features["layer3"]))
        middle = self.refine16(features["layer3"]) + context32
        context16 = self.join16(resize_like(middle, features["spatial"]))
        fused = self.fusion(features["spatial"], context16)
        scores = self.classifier(fused)
        return {"scores": scores, "context16": context16, "context32": context32}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 8, W / 8)."""
        return self.decode(features)["scores"]

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
