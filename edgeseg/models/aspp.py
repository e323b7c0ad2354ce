"""Atrous spatial pyramid pooling of DeepLabv3 (Chen et al. 2017, arXiv 1706.05587, 3.3)."""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import conv_norm_relu, mean_pixel, resize_like, separable

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Dilations by output stride: the paper's for 8 and 16, half of the latter for 32."""


class ImagePool(nn.Sequential):
    """The mean of the whole map through 1x1, norm and ReLU, put back at every pixel.

    A sequence whose first place is empty, for torchvision's files have the pooling there.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Identity(), *conv_norm_relu(inputs, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        pixel = mean_pixel(x)
        for layer in self:
            pixel = layer(pixel)
        return resize_like(pixel, x)


class ASPP(nn.Module):
    """1x1, three dilated 3x3 and image pooling, joined by a 1x1; dropout."""

    def __init__(
        self, inputs: int, width: int, stride: int, dropout: float, cheap: bool = False
    ) -> None:
        super().__init__()
        if stride not in RATES:
            raise UsageError(f"stride is {stride}; expected one of {', '.join(map(str, RATES))}")
        atrous = separable if cheap else _dilated
        self.convs = nn.ModuleList([conv_norm_relu(inputs, width, 1)])
        self.convs.extend(atrous(inputs, width, dilation=rate) for rate in RATES[stride])
        self.convs.append(ImagePool(inputs, width))
        self.project = conv_norm_relu(len(self.convs) * width, width, 1)
        self.project.append(nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, width, H, W)."""
        result: torch.Tensor = self.project(torch.cat([conv(x) for conv in self.convs], 1))
        return result


def _dilated(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    return conv_norm_relu(inputs, outputs, 3, dilation=dilation)
