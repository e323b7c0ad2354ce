"""CascadePSP's refinement module (Cheng et al., CVPR 2020, arXiv 2005.02551) on ResNet.

It makes a finer mask of a coarse one, whatever class that is of. A PSPNet of output stride 8 sees
the frame and three masks, and has heads at stride 8, 4 and 1 (section 3.1). It runs three times
with the same weights (the cascade, 3.2.1): on the coarse mask alone; with its own mask of stride 8
in two of the three places; with those of stride 8 and 4. Masks are -1 outside and 1 inside; what
goes back in is enlarged bilinearly and squashed by tanh.

In detail as the authors' code has it, which is on ResNet-50: plain 7x7 stem; the bins' convolutions
keep all channels and have no normalisation; blocks on the way up begin with the normalisation.
Channels on the way up are 1/2, 1/4 and 1/8 of the encoder's and 32, so on ResNet-18 a quarter of
those on ResNet-50.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import last_conv, resize_like, start, thin
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.pooling import adaptive_pool
from edgeseg.models.pspnet import BINS
from edgeseg.models.resnet import ResNet, channels_of

SEEN = 6
"""Channels that the encoder sees: the frame's three, the coarse mask, those of stride 8 and 4."""


class WholePyramid(nn.Module):
    """(N, C, H, W) -> (N, outputs, H, W): the map and its means in grids of BINS, all C wide."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in BINS)
        self.bottleneck = nn.Conv2d((len(BINS) + 1) * channels, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From coarse to fine, the map last."""
        maps = [
            resize_like(conv(adaptive_pool(x, (bins, bins))), x)
            for bins, conv in zip(BINS, self.convs, strict=True)
        ]
        return torch.relu(self.bottleneck(torch.cat([*maps, x], 1)))


class Up(nn.Module):
    """(N, inputs, h, w) and a finer map of `skip` channels -> (N, outputs, H, W) of its size."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.first = _pair(inputs + skip, outputs)
        self.second = _pair(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        """Bilinear, then two residual pairs of convolutions."""
        x = resize_like(x, finer)
        x = self.first(torch.cat([x, finer], 1)) + self.shortcut(x)
        finest: torch.Tensor = x + self.second(x)
        return finest


class CascadePSP(Network):
    """(N, 4, H, W), a normalised frame and its coarse mask -> (N, 1, H, W) logits of a finer mask.

    `features` and `head` are one pass, which sees SEEN channels.
    """

    mask = True
    HEAD = ("pyramid", "up4", "up2", "up1", "head8", "head4", "head1", "upsample")

    def __init__(self, outputs: int, depth: int, width: float = 1.0) -> None:
        super().__init__()
        if outputs != 1:
            raise UsageError(f"a refiner has one output, the mask; {outputs} were asked for")
        self.encoder = ResNet(depth, stride=8, width=width, inputs=SEEN)
        channels = channels_of(depth, width)
        half, quarter, eighth = (channels[3] // part for part in (2, 4, 8))
        last = thin(32, width)
        self.pyramid = WholePyramid(channels[3], half)
        self.up4 = Up(half, channels[0], quarter)
        self.up2 = Up(quarter, thin(64, width), eighth)
        self.up1 = Up(eighth, 3, last)
        self.head8 = _mask_head(half, thin(32, width))
        self.head4 = _mask_head(quarter, thin(32, width))
        self.head1 = _mask_head(last + 3, last)
        self.upsample = Bilinear(1)
        for name in self.HEAD:
            start(getattr(self, name))
        for head in (self.head8, self.head4, self.head1):
            # By a fan-out of one the first masks would be sure of anything.
            nn.init.normal_(last_conv(head).weight, std=0.01)

    def features(self, image: torch.Tensor) -> Maps:
        """(N, SEEN, H, W) -> the frame itself, and the encoder's stem, layer1 and layer4."""
        maps = self.encoder(image)
        return {"image": image[:, :3]} | {k: maps[k] for k in ("stem", "layer1", "layer4")}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, 1, H, W): the finest mask of one pass."""
        return self.masks(features, 1)["s1"]

    def masks(self, features: Maps, finest: int) -> Maps:
        """Logits of the masks "s8", "s4" and "s1" up to stride `finest`, at the frame's size."""
        image = features["image"]
        x = self.pyramid(features["layer4"])
        found = {"s8": resize_like(self.head8(x), image)}
        if finest < 8:
            x = self.up4(x, features["layer1"])
            found["s4"] = resize_like(self.head4(x), image)
        if finest < 4:
            x = self.up1(self.up2(x, features["stem"]), image)
            found["s1"] = self.head1(torch.cat([x, image], 1))
        return found

    def outputs(self, image: torch.Tensor) -> Maps:
        """(N, 4, H, W) -> logits of all passes: "s8_1", then what `finish` gives."""
        frame, coarse = image[:, :3], image[:, 3:]
        first = self._look(frame, coarse, coarse, coarse, finest=8)["s8"]
        return {"s8_1": first} | self.finish(frame, coarse, torch.tanh(first))

    def finish(self, frame: torch.Tensor, mask: torch.Tensor, s8: torch.Tensor) -> Maps:
        """The second and third pass: "s8_2", "s4_2", "s8_3", "s4_3" and, finest, "logits".

        `s8` is the mask of stride 8, brought to the frame's size, from -1 to 1.
        """
        second = self._look(frame, mask, s8, s8, finest=4)
        coarser = (torch.tanh(second["s8"]), torch.tanh(second["s4"]))
        third = self._look(frame, mask, *coarser, finest=1)
        return {
            "s8_2": second["s8"],
            "s4_2": second["s4"],
            "s8_3": third["s8"],
            "s4_3": third["s4"],
            "logits": third["s1"],
        }

    def _look(
        self,
        frame: torch.Tensor,
        mask: torch.Tensor,
        s8: torch.Tensor,
        s4: torch.Tensor,
        finest: int,
    ) -> Maps:
        return self.masks(self.features(torch.cat([frame, mask, s8, s4], 1)), finest)

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 4, H, W) -> (N, 1, H, W): the whole cascade."""
        return self.outputs(image)["logits"]

    def forward(self, image: torch.Tensor) -> torch.Tensor | Maps:
        """Logits of the finest mask; in training those of all passes."""
        return self.outputs(image) if self.training else self.scores(image)

    def cut(self, outputs: int) -> None:
        """A mask has no outputs of void."""

    @torch.no_grad()
    def deploy(self) -> None:
        """Two scores of a pixel, outside and inside, whose softmax is the logit's sigmoid.

        They are minus and plus half the logit, by the weights of the last layer.
        """
        last = last_conv(self.head1)
        two = nn.Conv2d(last.in_channels, 2, 1, device=last.weight.device)
        assert last.bias is not None and two.bias is not None
        two.weight.copy_(torch.cat([-last.weight, last.weight]) / 2)
        two.bias.copy_(torch.cat([-last.bias, last.bias]) / 2)
        self.head1[-1] = two


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    """Twice: normalisation, ReLU, 3x3."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1),
    )  # fmt: skip


def _mask_head(inputs: int, width: int) -> nn.Sequential:
    """1x1, ReLU, 1x1 to one logit."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(), nn.Conv2d(width, 1, 1))
