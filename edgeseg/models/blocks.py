"""What the classic systems are composed of: convolutions with normalisation, resizing, cutting."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional


def thin(channels: int, width: float) -> int:
    """`channels` times `width`, at least 4: how a system's option `width` makes it narrower."""
    return channels if width == 1 else max(4, round(channels * width))


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size (over `stride`), without bias; batch normalisation."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    return conv_norm(inputs, outputs, kernel, stride, dilation, groups).append(nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1, each with normalisation and ReLU."""
    return nn.Sequential(
        *conv_norm_relu(inputs, inputs, 3, stride, dilation, inputs),
        *conv_norm_relu(inputs, outputs, 1),
    )


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, half-pixel centres, to (height, width)."""
    if (int(x.shape[2]), int(x.shape[3])) == size:
        return x
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def resize_like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Bilinear, half-pixel centres, to the height and width of `other`."""
    return resize(x, (int(other.shape[2]), int(other.shape[3])))


def mean_pixel(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def keep_outputs(conv: nn.Conv2d | nn.ConvTranspose2d, outputs: int) -> None:
    """Keep only the first output channels of an ungrouped convolution."""
    weight = conv.weight.detach()
    kept = weight[:outputs] if isinstance(conv, nn.Conv2d) else weight[:, :outputs]
    conv.weight = nn.Parameter(kept.contiguous(), requires_grad=conv.weight.requires_grad)
    if conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach()[:outputs])
    conv.out_channels = outputs


def bilinear_deconvolution(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A learned upsampling by an even `factor` that starts as the bilinear one of each channel.

    Long et al. 2015, 3.3: kernel 2 x factor, so that neighbours overlap; padding keeps the size.
    """
    deconv = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, factor // 2, bias=False)
    centres = (torch.arange(2 * factor) + 0.5) / factor - 1
    triangle = 1 - centres.abs()
    weight = torch.zeros_like(deconv.weight)
    for channel in range(channels):
        weight[channel, channel] = triangle[:, None] * triangle
    deconv.weight = nn.Parameter(weight)
    return deconv


def start(module: nn.Module) -> None:
    """He et al. 2015: normal weights by the fan-out of each convolution, biases of zero.

    Deconvolutions are left as they are.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def last_conv(sequence: nn.Module) -> nn.Conv2d:
    """The last part of a sequence, which is a convolution."""
    return cast("nn.Conv2d", list(sequence.children())[-1])
