"""FCN on a dilated ResNet, as torchvision has it: a 3x3, a 1x1 and bilinear upsampling.

After Long et al. (CVPR 2015, arXiv 1411.4038). The plainest head on these encoders, and so the host
of DUNet: `fcn_r50+dupsample`. torchvision's files (`edgeseg convert`) need stride = 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from edgeseg.models.blocks import keep_outputs, last_conv, start
from edgeseg.models.network import Bilinear, Maps
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.supervised import Supervised, auxiliary_head


class FCNResNet(Supervised):
    """Output stride 8, 16 or 32."""

    HEAD = ("classifier", "upsample")
    AUXILIARY: ClassVar[Mapping[str, float]] = {"layer3": 0.5}

    def __init__(
        self,
        outputs: int,
        depth: int,
        stride: int = 8,
        dropout: float = 0.1,
        auxiliary: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.divisor = stride
        self.encoder = ResNet(depth, stride, width=width)
        channels = channels_of(depth, width)
        self.classifier = auxiliary_head(channels[3], channels[3] // 4, outputs, dropout)
        self.upsample = Bilinear(stride)
        if auxiliary:
            head = auxiliary_head(channels[2], channels[2] // 4, outputs, dropout)
            self.auxiliary = nn.ModuleDict({"layer3": head})
        for part in (self.classifier, self.auxiliary or nn.Identity()):
            start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """The encoder's stem, and layer1 to layer4."""
        maps: Maps = self.encoder(image)
        return maps

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / stride, W / stride)."""
        scores: torch.Tensor = self.classifier(features["layer4"])
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)
