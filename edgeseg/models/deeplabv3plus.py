"""DeepLabv3+ (Chen et al., ECCV 2018, arXiv 1802.02611) on ResNet, MobileNetV2 or ESPNetv2.

DeepLabv3's pyramid, upsampled and joined with a low-level map at 1/4 that is narrowed to 48
channels; two 3x3. `separable` makes the pyramid's and the decoder's 3x3 separable, as in the paper.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models import espnetv2
from edgeseg.models.aspp import ASPP
from edgeseg.models.blocks import (
    conv_norm_relu,
    keep_outputs,
    last_conv,
    resize_like,
    separable,
    start,
    thin,
)
from edgeseg.models.mobilenetv2 import MobileNetV2
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.resnet import ResNet, channels_of

ENCODERS = ("r18", "r50", "r101", "mobilenetv2", "espnetv2_s2.0")
WIDTH = 256
LOW = 48


class DeepLabV3Plus(Network):
    """Output stride 16 by default, 8 on request; scores at 1/4.

    `width` scales the head and the encoder, but not ESPNetv2's, whose stride is always 16 and to
    which `init` brings the weights of a trained `espnetv2_s2.0`.
    """

    least_batch = 2
    HEAD = ("pyramid", "low", "classifier", "upsample")

    def __init__(
        self,
        outputs: int,
        encoder: str,
        stride: int = 16,
        separable: bool = False,
        dropout: float = 0.1,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise UsageError(f"encoder is '{encoder}'; expected one of {', '.join(ENCODERS)}")
        self.divisor = stride
        self.encoder, self.shallow, low, deep = _encoder(encoder, stride, width)
        wide, narrow = thin(WIDTH, width), thin(LOW, width)
        self.pyramid = ASPP(deep, wide, stride, dropout, cheap=separable)
        self.low = conv_norm_relu(low, narrow, 1)
        conv = _separable if separable else conv_norm_relu
        self.classifier = nn.Sequential(
            *conv(wide + narrow, wide),
            *conv(wide, wide),
            nn.Dropout(dropout),
            nn.Conv2d(wide, outputs, 1),
        )
        self.upsample = Bilinear(4)
        for part in (self.pyramid, self.low, self.classifier):
            start(part)

    def features(self, image: torch.Tensor) -> Maps:
        """The encoder's maps from 1/4 on; the first is the decoder's low-level map."""
        maps: Maps = self.encoder(image)
        names = list(maps)
        return {name: maps[name] for name in names[names.index(self.shallow) :]}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 4, W / 4)."""
        low = self.low(features[self.shallow])
        deep = resize_like(self.pyramid(list(features.values())[-1]), low)
        scores: torch.Tensor = self.classifier(torch.cat([deep, low], 1))
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(last_conv(self.classifier), outputs)


def _encoder(name: str, stride: int, width: float) -> tuple[nn.Module, str, int, int]:
    """The encoder, the name of its map at 1/4, and the channels of that map and the deepest."""
    if name == "mobilenetv2":
        mobile = MobileNetV2(stride, width)
        return mobile, "stage2", mobile.widths["stage2"], mobile.channels
    if name == "espnetv2_s2.0":
        if stride != espnetv2.ESPNetv2.divisor:
            raise UsageError(f"stride is {stride}; expected 16, the only one of ESPNetv2's encoder")
        widths = espnetv2.WIDTHS[2.0]
        return espnetv2.Encoder(widths), "level2", widths[1], widths[3]
    depth = int(name[1:])
    channels = channels_of(depth, width)
    return ResNet(depth, stride, width=width), "layer1", channels[0], channels[3]


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return separable(inputs, outputs)
