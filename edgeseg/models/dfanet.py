"""DFANet A and B (Li et al., CVPR 2019, arXiv 1904.02216).

Three light Xceptions, each at half the resolution of the one before it and fed with its features
(sub-network and sub-stage aggregation), and a decoder that sums. Where the paper leaves a choice,
the one that meets its MACs is taken: the stride on a block's first separable convolution, a 1x1
shortcut in the first block of a stage only, a decoder 32 wide with a 3x3 fusion.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional

from edgeseg.errors import UsageError
from edgeseg.models.network import Bilinear, Maps, Network

# fmt: off
WIDTHS = {
    "a": (48, 96, 192),
    "b": (32, 64, 128),
}
# fmt: on
"""Channels of enc2, enc3 and enc4 of XceptionA and XceptionB."""
REPEATS = (4, 6, 4)
STEM = 8
DECODER = 32
BACKBONES = 3
IMAGENET = 1000
ATTENTIONS = ("fc", "none")


def conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, pointwise 1x1, batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Project(nn.Conv2d):
    """1x1 with stride 2, no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2).

        In training the pixels are picked first, for the same sums: the gradient of a strided 1x1 by
        its weight, of 8 channels in channels-last, writes outside of its memory in torch 2.13 on
        CPUs (seen at 192x256).
        """
        if self.training:
            return functional.conv2d(x[:, :, ::2, ::2], self.weight)
        return super().forward(x)


class Block(nn.Module):
    """Three separable convolutions of widths c/4, c/4 and c beside a shortcut.

    With `stride` 2 the first of them strides and the shortcut is a strided 1x1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        narrow = outputs // 4
        self.body = nn.Sequential(
            *separable(inputs, narrow, stride).append(nn.ReLU()),
            *separable(narrow, narrow).append(nn.ReLU()),
            *separable(narrow, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(Project(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def stage(inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    """`repeats` blocks, the first with stride 2."""
    rest = (Block(outputs, outputs) for _ in range(repeats - 1))
    return nn.Sequential(Block(inputs, outputs, stride=2), *rest)


class Attention(nn.Module):
    """Each channel times a weight made of the ImageNet classes' scores ("fc attention").

    No squashing of the weights, for the paper states none; they start around 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, IMAGENET)
        weigh = nn.Conv2d(IMAGENET, channels, 1)
        nn.init.ones_(weigh.bias)  # type: ignore[arg-type]
        self.weigh: nn.Module = weigh

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> (N, 1000)."""
        result: torch.Tensor = self.fc(x.mean((2, 3)))
        return result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> the same shape."""
        result: torch.Tensor = x * self.weigh(self.classify(x)[:, :, None, None])
        return result


class Stages(nn.Module):
    """enc2, enc3, enc4 and the attention: an Xception without its stem.

    `inputs` are the channels that each stage takes.
    """

    def __init__(self, inputs: tuple[int, int, int], widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.enc2, self.enc3, self.enc4 = (
            stage(*row) for row in zip(inputs, widths, REPEATS, strict=True)
        )
        self.attention: nn.Module = Attention(widths[-1])

    def forward(
        self, x: torch.Tensor, before: tuple[torch.Tensor, ...] = ()
    ) -> tuple[torch.Tensor, ...]:
        """Features at 1/2, 1/4 and 1/8 of x, and the last with attention.

        `before` are enc3 and enc4 of the backbone before this one; they join the inputs of this
        one's enc3 and enc4.
        """
        maps = self.encode(x, before)
        return (*maps, self.attention(maps[-1]))

    def encode(
        self, x: torch.Tensor, before: tuple[torch.Tensor, ...] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same without attention."""
        enc2 = self.enc2(x)
        enc3 = self.enc3(torch.cat([enc2, *before[:1]], 1))
        return enc2, enc3, self.enc4(torch.cat([enc3, *before[1:]], 1))


def stem() -> nn.Sequential:
    """(N, 3, H, W) -> (N, 8, H / 2, W / 2)."""
    return conv_norm_act(3, STEM, 3, stride=2)


class Xception(nn.Module):
    """The backbone alone: XceptionA or XceptionB, to be trained on ImageNet first."""

    divisor = 16

    def __init__(self, kind: str) -> None:
        super().__init__()
        widths = _widths(kind)
        self.stem = stem()
        self.stages = Stages((STEM, *widths[:2]), widths)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, 3, H, W) -> enc2, enc3, enc4 at 1/4, 1/8 and 1/16, and enc4 with attention."""
        result: tuple[torch.Tensor, ...] = self.stages(self.stem(image))
        return result

    def classify(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1000) logits of the attention's fully connected layer."""
        enc4 = self.stages.encode(self.stem(image))[2]
        result: torch.Tensor = self.stages.attention.classify(enc4)  # type: ignore[operator]
        return result


class DFANet(Network):
    """DFANet of `kind` "a" or "b".

    For ablations: `attention` "none" takes enc4 as it is, `backbones` 1 or 2 leaves the last ones
    out, `substages` false feeds a backbone's enc3 and enc4 from that backbone alone.
    """

    divisor = 32
    HEAD = ("low", "fuse", "high", "classifier", "upsample")

    def __init__(
        self,
        outputs: int,
        kind: str,
        attention: str = "fc",
        backbones: int = BACKBONES,
        substages: bool = True,
    ) -> None:
        super().__init__()
        first = _widths(kind)
        if attention not in ATTENTIONS:
            raise UsageError(f"attention is '{attention}'; expected {' or '.join(ATTENTIONS)}")
        if backbones not in range(1, BACKBONES + 1):
            raise UsageError(f"backbones is {backbones}; expected 1 to {BACKBONES}")
        enc2, enc3, enc4 = first
        later = (enc4 + enc2, enc2 + enc3, enc3 + enc4) if substages else (enc4 + enc2, enc2, enc3)
        self.kind = kind
        self.substages = substages
        self.stem = stem()
        self.backbones = nn.ModuleList(
            Stages((STEM, enc2, enc3) if i == 0 else later, first) for i in range(backbones)
        )
        if attention == "none":
            for backbone in self.backbones:
                backbone.attention = nn.Identity()
        self.low = nn.ModuleList(conv_norm_act(enc2, DECODER, 1) for _ in range(backbones))
        self.fuse = conv_norm_act(DECODER, DECODER, 3)
        self.high = nn.ModuleList(conv_norm_act(enc4, DECODER, 1) for _ in range(backbones))
        self.classifier = nn.Conv2d(DECODER, outputs, 1)
        self.upsample = Bilinear(4)

    def features(self, image: torch.Tensor) -> Maps:
        """enc2 of each backbone at 1/4, 1/8 and 1/16, fca of each at 1/16, 1/32 and 1/64.

        The last is rounded up where the size is no multiple of 64.
        """
        x = self.stem(image)
        before: tuple[torch.Tensor, ...] = ()
        low: Maps = {}
        high: Maps = {}
        for i, backbone in enumerate(self.backbones, 1):
            enc2, enc3, enc4, attended = backbone(x, before)
            low[f"enc2_{i}"], high[f"fca_{i}"] = enc2, attended
            x = torch.cat([resize_like(attended, enc2), enc2], 1)
            before = (enc3, enc4) if self.substages else ()
        return low | high

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / 4, W / 4)."""
        maps = list(features.values())
        low = [project(x) for project, x in zip(self.low, maps[: len(self.low)], strict=True)]
        high = [project(x) for project, x in zip(self.high, maps[len(self.low) :], strict=True)]
        fused = self.fuse(_sum_like(low, low[0]))
        result: torch.Tensor = self.classifier(fused + _sum_like(high, fused))
        return result

    def fill_backbones(self, xception: dict[str, torch.Tensor]) -> list[str]:
        """Start from a trained Xception's state dict; the names of ours that it has nothing for.

        Every backbone takes what fits: the first all of it, the later ones all but the layers
        that also see another backbone's features.
        """
        own = self.state_dict()
        fresh = []
        for name, tensor in own.items():
            theirs = xception.get(re.sub(r"^backbones\.\d+\.", "stages.", name))
            if theirs is not None and theirs.shape == tensor.shape:
                own[name] = theirs
            else:
                fresh.append(name)
        self.load_state_dict(own)
        return fresh

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the classifier."""
        classifier = self.classifier
        if classifier.bias is None:
            raise AssertionError("the classifier has a bias")
        classifier.weight = nn.Parameter(classifier.weight[:outputs].detach())
        classifier.bias = nn.Parameter(classifier.bias[:outputs].detach())
        classifier.out_channels = outputs


def resize_like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Bilinear, half-pixel centres, to the height and width of `other`."""
    size = (int(other.shape[2]), int(other.shape[3]))
    if (int(x.shape[2]), int(x.shape[3])) == size:
        return x
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def _sum_like(maps: list[torch.Tensor], other: torch.Tensor) -> torch.Tensor:
    total = resize_like(maps[0], other)
    for x in maps[1:]:
        total = total + resize_like(x, other)
    return total


def _widths(kind: str) -> tuple[int, int, int]:
    if kind not in WIDTHS:
        raise UsageError(f"kind is '{kind}'; expected one of {', '.join(WIDTHS)}")
    return WIDTHS[kind]
