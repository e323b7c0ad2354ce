"""Dual super-resolution learning on any host (Wang et al., CVPR 2020).

SSSR: the host's labels at twice the size of its input. SISR: a branch on the same encoder that
reconstructs the image at that size. FA: both branches' pixel affinities are drawn together, behind
a feature transform on the side of SSSR. SISR and the transform serve training alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.wrapper import (
    Feature,
    Wrapper,
    check_names,
    conv_norm_relu,
    count_channels,
    find_features,
)

STAGES = ("sssr", "sssr+sisr", "sssr+sisr+fa")
# fmt: off
UPSAMPLINGS = {
    "doubled":       "the host's last layer, made for twice the factor: one linear layer",
    "bilinear":      "the host's logits, bilinear x2: no parameters, no MACs of its own",
    "deconvolution": "deconvolution, norm and ReLU (the paper's) before the host's last layer",
}
# fmt: on
WIDTHS = (64, 32, 16)
"""Channels of the SISR branch, at its start and after each doubling; the last one stays."""


@dataclass(frozen=True)
class Options:
    """Options of `+dsrl`, the table [options.dsrl] of a recipe.

    `stage` is one of STAGES, `upsampling` one of UPSAMPLINGS. `taps` are the host's features that
    SISR sees (none named: the deepest). A fine tap lets it copy the image past the encoder.
    `affinity` names the host's feature whose affinities FA compares (none: the scores, as in the
    paper, where they are wide; hosts whose scores are class maps already have little to give).
    """

    stage: str = STAGES[-1]
    upsampling: str = "doubled"
    taps: tuple[str, ...] = ()
    affinity: str = ""

    def __post_init__(self) -> None:
        for key, known in (("stage", STAGES), ("upsampling", tuple(UPSAMPLINGS))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} is '{getattr(self, key)}'; expected {', '.join(known)}")


class DSRL(Wrapper):
    """SSSR with the branches of `options.stage`; deployed, it is the same in every stage."""

    OPTIONS = Options
    BRANCHES = ("sisr", "transform")

    def __init__(self, host: Network, outputs: int, options: Options) -> None:
        super().__init__(host)
        self.scale = 2 * host.scale
        known = find_features(host)
        channels = count_channels(host)
        self.bilinear = Bilinear(2) if options.upsampling == "bilinear" else None
        self.stack: nn.Sequential | None = None
        if options.upsampling == "doubled":
            host.upsample = double(host.upsample)
        elif options.upsampling == "deconvolution":
            self.stack = nn.Sequential(
                nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            if isinstance(host.upsample, Bilinear):  # ReLU must not be the last word on logits
                self.stack.append(nn.Conv2d(channels, outputs, 1))
        # Train-only branches come last: the others' random start is the same in every stage.
        taps = options.taps or (list(known)[-1],)
        check_names(taps, known, "taps")
        self.sisr: Sisr | None = None
        self.transform: nn.Sequential | None = None
        self.affinity = options.affinity
        if self.affinity:
            check_names((self.affinity,), known, "affinity")
        if "sisr" in options.stage:
            self.sisr = Sisr({name: known[name] for name in known if name in taps})
        if "fa" in options.stage:
            seen = outputs if self.bilinear else channels
            if self.affinity:
                seen = known[self.affinity].channels
            self.transform = conv_norm_relu(seen, WIDTHS[-1], 1)

    @property
    def upsample(self) -> nn.Module:  # type: ignore[override]  # the host keeps the module
        """The last linear layer: the host's, or bilinear x2."""
        return self.bilinear or self.host.upsample

    def head(self, features: Maps) -> torch.Tensor:
        """-> the scores before the last upsampling, at the host's resolution."""
        scores = self.host.head(features)
        if self.bilinear:
            return cast("torch.Tensor", self.host.upsample(scores))
        return scores if self.stack is None else cast("torch.Tensor", self.stack(scores))

    def outputs(self, image: torch.Tensor) -> Maps:
        """(N, 3, H, W) -> "logits" at twice the size, "scores", and of the branches that are on:

        "image" (N, 3, 2 H, 2 W); "seg" and "sr", whose pixel affinities are compared.
        """
        features = self.features(image)
        scores = self.head(features)
        result = {"logits": self.upsample(scores), **self.seen(features, scores)}
        if self.sisr is not None:
            result["image"], structure = self.sisr(features, (image.shape[2], image.shape[3]))
            if self.transform is not None:
                seen = features[self.affinity] if self.affinity else scores
                result |= {"seg": self.transform(seen), "sr": structure}
        return result

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of the host's last layer, or of the stack's."""
        last = None if self.stack is None else self.stack[-1]
        if not isinstance(last, nn.Conv2d):
            self.host.cut(outputs)
            return
        last.weight = nn.Parameter(last.weight[:outputs].detach())
        last.bias = nn.Parameter(cast("torch.Tensor", last.bias)[:outputs].detach())
        last.out_channels = outputs


class Sisr(nn.Module):
    """Features -> the image at twice the size, by 3x3 convolutions and pixel shuffles.

    Sub-pixel convolution (Shi et al., CVPR 2016) starts at the deepest tap and doubles the size up
    to the image's; finer taps are added on the way.
    """

    def __init__(self, taps: dict[str, Feature]) -> None:
        super().__init__()
        self.deepest = max(taps, key=lambda name: taps[name].stride)
        stride = taps[self.deepest].stride
        widths = {stride: WIDTHS[0]}
        for i in range(1, stride.bit_length()):
            widths[stride >> i] = WIDTHS[min(i, len(WIDTHS) - 1)]
        self.strides = {name: tap.stride for name, tap in taps.items()}
        self.project = nn.ModuleDict(
            {name: nn.Conv2d(tap.channels, widths[tap.stride], 1) for name, tap in taps.items()}
        )
        pairs = list(widths.values())
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False),
                nn.PixelShuffle(2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for inputs, outputs in pairwise(pairs)
        )
        self.last = nn.Sequential(nn.Conv2d(pairs[-1], 4 * 3, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, features: Maps, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (N, 3, 2 H, 2 W) normalised as the input is, and the map before it, (N, 16, H, W).

        (H, W) is `size`; where a feature's size was rounded up, what exceeds it is cut off.
        """
        x = self.project[self.deepest](features[self.deepest])
        stride = self.strides[self.deepest]
        for up in self.ups:
            x, stride = up(self._join(x, stride, features)), stride // 2
            x = x[:, :, : -(-size[0] // stride), : -(-size[1] // stride)]
        x = self._join(x, stride, features)
        return self.last(x), x

    def _join(self, x: torch.Tensor, stride: int, features: Maps) -> torch.Tensor:
        for name, other in self.strides.items():
            if other == stride and name != self.deepest:
                x = x + self.project[name](features[name])
        return x


def double(last: nn.Module) -> nn.Module:
    """A last upsampling -> the same kind, fresh, for twice the factor."""
    if isinstance(last, Bilinear):
        return Bilinear(2 * last.factor, last.align_corners)
    if isinstance(last, Reconstruct):
        return last.doubled()
    if isinstance(last, nn.ConvTranspose2d) and last.kernel_size == last.stride:
        side = 2 * last.stride[0]
        bias = last.bias is not None
        return nn.ConvTranspose2d(last.in_channels, last.out_channels, side, side, bias=bias)
    raise UsageError(
        f"the host's last layer is a {type(last).__name__}, which can't be doubled; give "
        "upsampling = 'bilinear'"
    )
