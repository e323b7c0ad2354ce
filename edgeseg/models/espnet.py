"""ESPNet and ESPNet-C (Mehta et al., ECCV 2018, arXiv 1803.06815, sections 3 and 4.1).

ESPNet-C is the encoder with a 1x1 classifier at 1/8; ESPNet adds the light decoder, which learns
its upsampling. Batch normalisation has eps 1e-3 and PReLU one slope per channel, as in the
published weights.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.network import Bilinear, Maps, Network

EPS = 1e-3
BRANCHES = 5
FEATURES = ("stem", "level1", "level2", "level3")
"""Names of the encoder's maps at 1/2, 1/2, 1/4 and 1/8."""
SKIPS = {"stem": 16, "join": 19}
"""What the decoder's last convolution sees of 1/2: the stem alone, or joined with the image."""


def norm_act(channels: int) -> nn.Sequential:
    """Batch normalisation and PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, eps=EPS), nn.PReLU(channels))


def conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, PReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, *norm_act(outputs))


class ESP(nn.Module):
    """Efficient spatial pyramid: reduce, five dilated 3x3 branches, hierarchical feature fusion.

    Branch i has dilation 2**i; the first takes the channels that remain of outputs / 5. `stride` 2
    makes the strided variant, which reduces by a 3x3 and has no residual.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        n = outputs // BRANCHES
        kernel = 3 if stride == 2 else 1
        self.residual = residual and stride == 1 and inputs == outputs
        self.reduce = nn.Conv2d(inputs, n, kernel, stride, kernel // 2, bias=False)
        widths = [outputs - (BRANCHES - 1) * n] + [n] * (BRANCHES - 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(n, width, 3, padding=2**i, dilation=2**i, bias=False)
            for i, width in enumerate(widths)
        )
        self.post = norm_act(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        reduced = self.reduce(x)
        first, *dilated = (branch(reduced) for branch in self.branches)
        sums = [dilated[0]]
        for branch in dilated[1:]:
            sums.append(sums[-1] + branch)
        joined = torch.cat([first, *sums], 1)
        result: torch.Tensor = self.post(joined + x if self.residual else joined)
        return result


class Encoder(nn.Module):
    """Levels 1 to 3: (N, 3, H, W) -> 1/2 (19 channels), 1/4 (131), 1/8 (256).

    The image itself, average-pooled, is joined to levels 1 and 2 (input reinforcement).
    """

    def __init__(self, p: int, q: int) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 16, 3, stride=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.join1 = norm_act(16 + 3)
        self.down2 = ESP(16 + 3, 64, stride=2)
        self.stage2 = nn.Sequential(*(ESP(64, 64) for _ in range(p)))
        self.join2 = norm_act(128 + 3)
        self.down3 = ESP(128 + 3, 128, stride=2)
        self.stage3 = nn.Sequential(*(ESP(128, 128) for _ in range(q)))
        self.join3 = norm_act(256)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Stem output (16 channels at 1/2), then the joined outputs of levels 1, 2 and 3."""
        half = self.pool(image)
        stem = self.stem(image)
        level1 = self.join1(torch.cat([stem, half], 1))
        down2 = self.down2(level1)
        level2 = self.join2(torch.cat([self.stage2(down2), down2, self.pool(half)], 1))
        down3 = self.down3(level2)
        level3 = self.join3(torch.cat([down3, self.stage3(down3)], 1))
        return stem, level1, level2, level3


class ESPNetC(Network):
    """The encoder and a 1x1 classifier at 1/8, bilinear x8 behind it."""

    HEAD = ("classifier", "upsample")

    def __init__(self, outputs: int, q: int, p: int = 2) -> None:
        super().__init__()
        self.encoder = Encoder(p, q)
        self.classifier = nn.Conv2d(256, outputs, 1, bias=False)
        self.upsample = Bilinear(8)

    def features(self, image: torch.Tensor) -> Maps:
        """The maps of FEATURES."""
        return dict(zip(FEATURES, self.encoder(image), strict=True))

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 8, W / 8)."""
        result: torch.Tensor = self.classifier(features["level3"])
        return result

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the classifier."""
        self.classifier.weight = nn.Parameter(self.classifier.weight[:outputs].detach())
        self.classifier.out_channels = outputs


class ESPNet(Network):
    """ESPNet-C with the light decoder.

    `skip` is one of SKIPS: the published Cityscapes files were trained with "stem", the CamVid file
    with "join". The decoder is as wide as there are outputs, and at least as wide as an ESP block
    has branches.
    """

    HEAD = ("project3", "norm3", "up3", "project2", "join", "fuse", "up2", "last", "upsample")

    def __init__(self, outputs: int, q: int, p: int = 2, skip: str = "join") -> None:
        super().__init__()
        if skip not in SKIPS:
            raise UsageError(f"skip is '{skip}'; expected one of {', '.join(SKIPS)}")
        self.skip = skip
        self.encoder = Encoder(p, q)
        width = max(outputs, BRANCHES)
        self.project3 = nn.Conv2d(256, width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width, eps=EPS)
        self.up3 = nn.ConvTranspose2d(width, width, 2, stride=2, bias=False)
        self.project2 = nn.Conv2d(128 + 3, width, 1, bias=False)
        self.join = norm_act(2 * width)
        self.fuse = ESP(2 * width, width, residual=False)
        self.up2 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2, bias=False), *norm_act(width)
        )
        self.last = conv_norm_act(width + SKIPS[skip], width, 3)
        self.upsample: nn.ConvTranspose2d = nn.ConvTranspose2d(
            width, outputs, 2, stride=2, bias=False
        )

    def features(self, image: torch.Tensor) -> Maps:
        """The maps of FEATURES."""
        return dict(zip(FEATURES, self.encoder(image), strict=True))

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 2, W / 2), before the last deconvolution."""
        stem, level1, level2, level3 = (features[name] for name in FEATURES)
        coarse = self.up3(self.norm3(self.project3(level3)))
        joined = self.fuse(self.join(torch.cat([self.project2(level2), coarse], 1)))
        skip = stem if self.skip == "stem" else level1
        result: torch.Tensor = self.last(torch.cat([self.up2(joined), skip], 1))
        return result

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the last deconvolution."""
        self.upsample.weight = nn.Parameter(self.upsample.weight[:, :outputs].detach())
        self.upsample.out_channels = outputs
