"""Global Convolutional Network (Peng et al., "Large Kernel Matters", CVPR 2017, arXiv 1703.02719).

Each of layer1 to layer4 becomes class scores by a k x k convolution made of separable pairs, (k, 1)
then (1, k) beside (1, k) then (k, 1), without a non-linearity between; boundary refinement follows,
and learned upsamplings from coarse to fine, refined again, to the size of the image.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import bilinear_deconvolution, keep_outputs, start
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.resnet import STAGES, ResNet, channels_of


class LargeKernel(nn.Module):
    """(N, inputs, H, W) -> (N, outputs, H, W) by the sum of two separable pairs of k x k."""

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        self.tall = nn.Sequential(
            nn.Conv2d(inputs, outputs, (k, 1), padding=(k // 2, 0)),
            nn.Conv2d(outputs, outputs, (1, k), padding=(0, k // 2)),
        )
        self.wide = nn.Sequential(
            nn.Conv2d(inputs, outputs, (1, k), padding=(0, k // 2)),
            nn.Conv2d(outputs, outputs, (k, 1), padding=(k // 2, 0)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both orders."""
        result: torch.Tensor = self.tall(x) + self.wide(x)
        return result


class Refine(nn.Module):
    """Boundary refinement: scores plus 3x3, ReLU, 3x3 of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape, or fewer channels after `keep_outputs(second)`."""
        residual: torch.Tensor = self.second(torch.relu(self.first(x)))
        kept = self.second.out_channels
        return (x if kept == x.shape[1] else x[:, :kept]) + residual


class GCN(Network):
    """Kernels of k x k on ResNet; scores at the size of the image."""

    divisor = 32
    HEAD = ("kernels", "refine", "ups", "refine_sums", "upsample")

    def __init__(self, outputs: int, depth: int, k: int = 15, width: float = 1.0) -> None:
        super().__init__()
        if k % 2 == 0 or k < 1:
            raise UsageError(f"k is {k}; a kernel has a middle, so expected an odd number")
        self.encoder = ResNet(depth, width=width)
        channels = channels_of(depth, width)
        self.kernels = nn.ModuleList(LargeKernel(c, outputs, k) for c in channels)
        self.refine = nn.ModuleList(Refine(outputs) for _ in channels)
        # From 1/32 to 1/16, 1/8, 1/4, and on to 1/2 and the size of the image.
        self.ups = nn.ModuleList(bilinear_deconvolution(outputs, 2) for _ in range(5))
        self.refine_sums = nn.ModuleList(Refine(outputs) for _ in range(5))
        self.upsample = Bilinear(1)
        # By the fan-out of some 20 classes the first scores would be sure of anything: the kernels,
        # between which there is no ReLU, keep the size of what they see, and the refinements, which
        # add up, begin as next to nothing (ours; the paper says nothing of it).
        for conv in self.kernels.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        for refine in (*self.refine, *self.refine_sums):
            start(refine)
            nn.init.normal_(cast("Refine", refine).second.weight, std=0.01)

    def features(self, image: torch.Tensor) -> Maps:
        """layer1 to layer4 of the encoder at 1/4 to 1/32."""
        maps: Maps = self.encoder(image)
        return {name: maps[name] for name in STAGES}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H, W)."""
        stages = zip(features.values(), self.kernels, self.refine, strict=True)
        maps: list[torch.Tensor] = [refine(kernel(x)) for x, kernel, refine in stages]
        *scores, x = maps
        for up, refine in zip(self.ups, self.refine_sums, strict=True):
            x = up(x)
            x = refine(x + scores.pop() if scores else x)
        return x

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last refinement."""
        last = self.refine_sums[-1]
        assert isinstance(last, Refine)
        keep_outputs(last.second, outputs)
