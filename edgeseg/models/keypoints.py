"""Keypoints as heatmaps on any host's encoder (Xiao et al., Simple Baselines, ECCV 2018).

It is no model of the list, for the runtime knows labels only. It shows that a wrapper such as DSRL
asks nothing of a host but what every `Network` promises, whatever its outputs mean.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.models.blocks import conv_norm_relu, keep_outputs
from edgeseg.models.network import Bilinear, Maps, Network, build_model
from edgeseg.models.wrapper import find_features

STRIDE = 4
"""Of the heatmaps before the last, bilinear upsampling."""


class Keypoints(Network):
    """A model's encoder, deconvolutions up to 1/4 and a 1x1 to `outputs` heatmaps."""

    HEAD = ("narrow", "ups", "heatmaps", "upsample")

    def __init__(self, outputs: int, host: str, width: int = 32) -> None:
        super().__init__()
        self.host = build_model(ModelSpec(host), outputs)
        self.host.deploy()
        for name in self.host.HEAD:
            delattr(self.host, name)
        self.divisor = self.host.divisor
        known = find_features(self.host)
        self.deepest = list(known)[-1]
        deep = known[self.deepest]
        self.narrow = conv_norm_relu(deep.channels, width, 1)
        self.ups = nn.Sequential()
        for _ in range((deep.stride // STRIDE).bit_length() - 1):
            up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
            self.ups.extend((up, nn.BatchNorm2d(width), nn.ReLU()))
        self.heatmaps = nn.Conv2d(width, outputs, 1)
        self.upsample = Bilinear(STRIDE)

    def features(self, image: torch.Tensor) -> Maps:
        """The host's."""
        return self.host.features(image)

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 4, W / 4)."""
        heatmaps: torch.Tensor = self.heatmaps(self.ups(self.narrow(features[self.deepest])))
        return heatmaps

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last 1x1."""
        keep_outputs(self.heatmaps, outputs)
