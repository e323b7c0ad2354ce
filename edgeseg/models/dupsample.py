"""DUpsampling on any host (Tian et al., CVPR 2019, arXiv 1903.02120).

The host's deepest features, with low-level ones brought to the same lowest resolution, become 64 or
128 scores per cell; one frozen matrix W turns each cell's scores into r x r pixels of class scores.
W is the basis of the training labels' patches found by PCA (`edgeseg.training.patches`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from edgeseg.errors import UsageError
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.wrapper import Wrapper, check_names, conv_norm_relu, find_features

UPSAMPLINGS = ("dupsample", "bilinear")
GATHERS = ("pool", "conv")
GATHERED = 16
"""Channels of a low-level feature before its cells are gathered by a convolution."""


@dataclass(frozen=True)
class Options:
    """Options of `+dupsample`, the table [options.dupsample] of a recipe.

    `stride` is the lowest resolution (0: that of the host's deepest feature), reached by strided
    convolutions; `low_level` names the host's features that join it, and `gather` how they are
    brought to it: "pool" averages a cell, "conv" reads all of its pixels by one convolution as
    large as the cell, so that it can tell where in the cell something is. `width` is that of the
    two convolutions before the scores. `upsampling` "bilinear" is the same head with class scores
    and bilinear upsampling, to compare with.
    """

    channels: int = 64
    stride: int = 0
    low_level: tuple[str, ...] = ()
    width: int = 128
    temperature: bool = True
    upsampling: str = "dupsample"
    gather: str = "pool"

    def __post_init__(self) -> None:
        for key, known in (("upsampling", UPSAMPLINGS), ("gather", GATHERS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} is '{getattr(self, key)}'; expected {' or '.join(known)}")
        for key in ("channels", "width"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; expected 1 or more")


class Reconstruct(nn.Module):
    """(N, C, h, w) -> (N, classes, r h, r w): each cell's scores times the frozen W, over T.

    `weight` is (C, classes, r, r), W transposed: row i is component i as a patch of class scores.
    The rows are orthonormal, random ones until labels were looked at. T is learned, 1 at first, and
    kept positive by its logarithm.
    """

    def __init__(self, channels: int, outputs: int, r: int, temperature: bool = True) -> None:
        super().__init__()
        if channels > outputs * r * r:
            raise UsageError(
                f"channels is {channels}; patches of {r}x{r} pixels and {outputs} classes have "
                f"{outputs * r * r} numbers only. Give fewer channels"
            )
        flat = nn.init.orthogonal_(torch.empty(channels, outputs * r * r))
        self.weight = nn.Parameter(flat.view(channels, outputs, r, r), requires_grad=False)
        self.log_temperature = nn.Parameter(torch.zeros(())) if temperature else None

    @property
    def factor(self) -> int:
        """The side r of a patch."""
        return self.weight.shape[2]

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Cells don't overlap: a transposed convolution with kernel = stride = r."""
        full = functional.conv_transpose2d(scores, self.weight, stride=self.factor)
        return full if self.log_temperature is None else full * torch.exp(-self.log_temperature)

    def compress(self, labels: torch.Tensor) -> torch.Tensor:
        """(N, r h, r w) int64 labels -> (N, C, h, w) float32: x = P v with P = W^T.

        Labels outside the classes (IGNORE) are zeros in v.
        """
        classes = torch.arange(self.weight.shape[1], device=labels.device)
        one_hot = (labels[:, None] == classes[:, None, None]).float()
        return functional.conv2d(one_hot, self.weight.float(), stride=self.factor)

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold T into W: the logits stay the same, and the graph is one deconvolution."""
        if self.log_temperature is not None:
            self.weight.mul_(torch.exp(-self.log_temperature))
            self.log_temperature = None

    def cut(self, outputs: int) -> None:
        """Keep the first outputs."""
        kept = self.weight[:, :outputs].detach().contiguous()
        self.weight = nn.Parameter(kept, requires_grad=False)

    def doubled(self) -> Reconstruct:
        """A fresh layer for patches of twice the size."""
        channels, outputs, r, _ = self.weight.shape
        return Reconstruct(channels, outputs, 2 * r, self.log_temperature is not None)


class DUpsample(Wrapper):
    """The host's encoder, a small head at the lowest resolution, and DUpsampling.

    F = f(concat(low-level features, deepest feature)), all at the lowest resolution; the last
    convolution has a bias, which can stand for the mean patch. Its outputs are multiplied by r, for
    compressed labels are as long as a patch of r x r one-hot pixels: weights of the usual size take
    long to reach that (60 steps of the study's recipe at 192x256: loss 1.39 with it, 2.17 without).
    """

    OPTIONS = Options

    def __init__(self, host: Network, outputs: int, options: Options) -> None:
        super().__init__(host)
        known = find_features(host)
        check_names(options.low_level, known, "low_level")
        self.deepest = list(known)[-1]
        if self.deepest in options.low_level:
            raise UsageError(f"low_level names '{self.deepest}', the deepest, which is in already")
        deep = known[self.deepest]
        self.stride = options.stride or deep.stride
        steps = _steps(self.stride, deep.stride)
        self.divisor = math.lcm(host.divisor, self.stride)
        for name in host.HEAD:
            delattr(host, name)
        self.down = nn.Sequential(
            *(conv_norm_relu(options.width if i else deep.channels, options.width, 3, 2)
              for i in range(steps))
        )  # fmt: skip
        width = options.width
        joined = width if steps else deep.channels
        self.gather = nn.ModuleDict()
        for name in options.low_level:
            channels, factor = known[name].channels, self.stride // known[name].stride
            self.gather[name] = _gather(options, channels, factor)
            joined += channels if options.gather == "pool" else width
        self.fuse = nn.Sequential(
            *conv_norm_relu(joined, width, 1), *conv_norm_relu(width, width, 3)
        )
        learned = options.upsampling == "dupsample"
        self.gain = float(self.stride) if learned else 1.0
        self.project = nn.Conv2d(options.width, options.channels if learned else outputs, 1)
        self.upsample: Reconstruct | Bilinear = (
            Reconstruct(options.channels, outputs, self.stride, options.temperature)
            if learned
            else Bilinear(self.stride)
        )

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, channels, H / stride, W / stride)."""
        maps = [self.down(features[self.deepest])]
        maps += [gather(features[name]) for name, gather in self.gather.items()]
        scores: torch.Tensor = self.project(self.fuse(torch.cat(maps, 1)))
        return scores if self.gain == 1 else scores * self.gain

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of W, or of the last convolution."""
        if isinstance(self.upsample, Reconstruct):
            self.upsample.cut(outputs)
            return
        project = self.project
        project.weight = nn.Parameter(project.weight[:outputs].detach())
        project.bias = nn.Parameter(cast("torch.Tensor", project.bias)[:outputs].detach())
        project.out_channels = outputs

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the gain into the convolution before W, and the temperature into W."""
        super().deploy()
        for parameter in self.project.parameters():
            parameter.mul_(self.gain)
        self.gain = 1.0
        if isinstance(self.upsample, Reconstruct):
            self.upsample.deploy()


def _gather(options: Options, channels: int, factor: int) -> nn.Module:
    """Cells of factor x factor pixels -> one pixel each."""
    if options.gather == "pool":
        return nn.AvgPool2d(factor) if factor > 1 else nn.Identity()
    narrow = conv_norm_relu(channels, GATHERED, 1)
    cells = nn.Conv2d(GATHERED, options.width, factor, factor, bias=False)
    return nn.Sequential(*narrow, cells, nn.BatchNorm2d(options.width), nn.ReLU())


def _steps(stride: int, deepest: int) -> int:
    """How many halvings lead from the deepest feature to `stride`."""
    ratio = stride // deepest
    if ratio * deepest != stride or ratio < 1 or ratio & (ratio - 1):
        legal = ", ".join(str(deepest << i) for i in range(3))
        raise UsageError(
            f"stride is {stride}; the host's deepest feature is at 1/{deepest}, so it can be "
            f"{legal}, ..."
        )
    return ratio.bit_length() - 1
