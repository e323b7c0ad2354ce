"""ENet (Paszke et al. 2016, arXiv 1606.02147).

Bottlenecks of a quarter of the width: plain, dilated or with 5x5 as two vectors; the encoder pads
channels where it pools, the decoder unpools to where the maxima were. The last layer is the
authors' deconvolution 2x2 with stride 2. PReLU in the encoder, ReLU in the decoder, as theirs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edgeseg.models.blocks import conv_norm, keep_outputs
from edgeseg.models.network import Maps, Network
from edgeseg.models.unpool import Choice, choose, pool, unpool

INITIAL, FIRST, SECOND = 16, 64, 128
ASYMMETRIC = 0
PLAN = (1, 2, ASYMMETRIC, 4, 1, 8, ASYMMETRIC, 16)
"""Dilations of stages 2 and 3; 5x1 and 1x5 in place of a 3x3 where it is ASYMMETRIC."""
NARROWING = 4


def _act(channels: int, decoder: bool) -> nn.Module:
    return nn.ReLU() if decoder else nn.PReLU(channels)


class Bottleneck(nn.Module):
    """1x1 to a quarter, a convolution, 1x1 back, dropout of channels; a sum with the input."""

    def __init__(
        self, channels: int, dropout: float, dilation: int = 1, decoder: bool = False
    ) -> None:
        super().__init__()
        narrow = channels // NARROWING
        middle = conv_norm(narrow, narrow, 3, dilation=max(dilation, 1))
        if dilation == ASYMMETRIC:
            tall = nn.Conv2d(narrow, narrow, (5, 1), padding=(2, 0), bias=False)
            wide = nn.Conv2d(narrow, narrow, (1, 5), padding=(0, 2), bias=False)
            middle = nn.Sequential(tall, wide, nn.BatchNorm2d(narrow))
        self.body = nn.Sequential(
            *conv_norm(channels, narrow, 1), _act(narrow, decoder),
            *middle, _act(narrow, decoder),
            *conv_norm(narrow, channels, 1), nn.Dropout2d(dropout),
        )  # fmt: skip
        self.act = _act(channels, decoder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        result: torch.Tensor = self.act(x + self.body(x))
        return result


class Down(nn.Module):
    """A bottleneck that starts with 2x2 of stride 2, beside pooling with channels of zeros."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        narrow = outputs // NARROWING
        first = nn.Conv2d(inputs, narrow, 2, 2, bias=False)
        self.body = nn.Sequential(
            first, nn.BatchNorm2d(narrow), nn.PReLU(narrow),
            *conv_norm(narrow, narrow), nn.PReLU(narrow),
            *conv_norm(narrow, outputs, 1), nn.Dropout2d(dropout),
        )  # fmt: skip
        self.more = outputs - inputs
        self.act = nn.PReLU(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        padded = functional.pad(pool(x), (0, 0, 0, 0, 0, self.more))
        result: torch.Tensor = self.act(padded + self.body(x))
        return result


class Up(nn.Module):
    """A bottleneck with a deconvolution 3x3, beside a 1x1 and unpooling."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        narrow = outputs // NARROWING
        self.main = conv_norm(inputs, outputs, 1)
        self.body = nn.Sequential(
            *conv_norm(inputs, narrow, 1), nn.ReLU(),
            nn.ConvTranspose2d(narrow, narrow, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm2d(narrow), nn.ReLU(),
            *conv_norm(narrow, outputs, 1), nn.Dropout2d(dropout),
        )  # fmt: skip

    def forward(self, x: torch.Tensor, choice: Choice) -> torch.Tensor:
        """(N, inputs, h, w) -> (N, outputs, 2 h, 2 w)."""
        return torch.relu(unpool(self.main(x), choice) + self.body(x))


class ENet(Network):
    """Scores at 1/2; `dropout` is that of the later bottlenecks, the first have a tenth of it."""

    divisor = 8
    HEAD = ("up4", "stage4", "up5", "stage5", "upsample")

    def __init__(self, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.initial = nn.Conv2d(3, INITIAL - 3, 3, 2, 1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(INITIAL), nn.PReLU(INITIAL))
        early = dropout / 10
        self.stage1 = nn.Sequential(
            Down(INITIAL, FIRST, early), *(Bottleneck(FIRST, early) for _ in range(4))
        )
        self.stage2 = nn.Sequential(
            Down(FIRST, SECOND, dropout), *(Bottleneck(SECOND, dropout, d) for d in PLAN)
        )
        self.stage3 = nn.Sequential(*(Bottleneck(SECOND, dropout, d) for d in PLAN))
        self.up4 = Up(SECOND, FIRST, dropout)
        self.stage4 = nn.Sequential(*(Bottleneck(FIRST, dropout, decoder=True) for _ in range(2)))
        self.up5 = Up(FIRST, INITIAL, dropout)
        self.stage5 = Bottleneck(INITIAL, dropout, decoder=True)
        self.upsample = nn.ConvTranspose2d(INITIAL, outputs, 2, 2)

    def features(self, image: torch.Tensor) -> Maps:
        """initial, stage1 and stage3 at 1/2, 1/4 and 1/8."""
        initial = self.norm(torch.cat([self.initial(image), pool(image)], 1))
        stage1 = self.stage1(initial)
        return {
            "initial": initial, "stage1": stage1, "stage3": self.stage3(self.stage2(stage1))
        }  # fmt: skip

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, 16, H / 2, W / 2)."""
        x = self.stage4(self.up4(features["stage3"], choose(features["stage1"])))
        x = self.up5(x, choose(features["initial"]))
        result: torch.Tensor = self.stage5(x)
        return result

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the deconvolution."""
        assert isinstance(self.upsample, nn.ConvTranspose2d)
        keep_outputs(self.upsample, outputs)
