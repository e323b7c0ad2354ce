"""SegNet (Badrinarayanan, Kendall and Cipolla, PAMI 2017, arXiv 1511.00561).

VGG-16 with normalisation and no fully connected layer; a decoder that mirrors it and unpools each
value to where the encoder's maximum was.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.blocks import conv_norm, keep_outputs, start, thin
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.unpool import choose, unpool
from edgeseg.models.vgg import STAGES, VGG


class SegNet(Network):
    """Scores at the size of the image."""

    divisor = 32
    HEAD = ("decoder", "classifier", "upsample")

    def __init__(self, outputs: int, width: float = 1.0) -> None:
        super().__init__()
        self.encoder = VGG(norm=True, width=width)
        self.decoder = nn.ModuleDict()
        inputs = self.encoder.channels
        for i in range(len(STAGES), 0, -1):
            channels, repeats = STAGES[i - 1]
            last = STAGES[max(i - 2, 0)][0]
            widths = [channels] * (repeats - 1) + ([last] if i > 1 else [])
            stage = nn.Sequential()
            for wide in widths:
                stage.extend(_conv_norm_relu(inputs, thin(wide, width)))
                inputs = thin(wide, width)
            self.decoder[f"conv{i}"] = stage
        self.classifier = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.upsample = Bilinear(1)
        start(self.decoder)
        start(self.classifier)

    def features(self, image: torch.Tensor) -> Maps:
        """conv1 to conv5 at 1/1 to 1/16 before pooling, and pool5 at 1/32."""
        maps: Maps = self.encoder(image)
        return {n: x for n, x in maps.items() if n.startswith("conv") or n == "pool5"}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H, W)."""
        x = features["pool5"]
        for name, stage in self.decoder.items():
            x = stage(unpool(x, choose(features[name])))
        scores: torch.Tensor = self.classifier(x)
        return scores

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 3x3."""
        keep_outputs(self.classifier, outputs)


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """As in the encoder, with a bias."""
    conv, norm = conv_norm(inputs, outputs)
    assert isinstance(conv, nn.Conv2d)
    conv.bias = nn.Parameter(torch.zeros(outputs))
    return nn.Sequential(conv, norm, nn.ReLU())
