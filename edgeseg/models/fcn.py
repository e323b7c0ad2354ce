"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell, CVPR 2015, arXiv 1411.4038).

VGG-16 with its fully connected layers as convolutions, scores of pool4 and pool3 added on the way
up. Upsampling between the stages is learned and starts bilinear; the last one is bilinear, as in
the authors' journal version (PAMI 2017, 4.3). They pad the image by 100 and crop; here the 7x7 is
padded by 3, which keeps all sizes, and sides are multiples of 32. Scores start small, not at zero,
and the three nets are trained at once, not in stages.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.blocks import bilinear_deconvolution, keep_outputs, start, thin
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.models.vgg import STAGES, VGG

WIDTH = 4096
STRIDES = (8, 16, 32)


class FCN(Network):
    """Scores at 1/`stride`; `norm` takes VGG-16-BN, which also trains without ImageNet."""

    divisor = 32
    HEAD = ("fc6", "fc7", "score", "skips", "ups", "dropout", "upsample")

    def __init__(
        self,
        outputs: int,
        stride: int,
        norm: bool = False,
        dropout: float = 0.5,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise UsageError(f"stride is {stride}; expected one of {', '.join(map(str, STRIDES))}")
        self.encoder = VGG(norm=norm, width=width)
        wide = thin(WIDTH, width)
        self.fc6 = nn.Conv2d(self.encoder.channels, wide, 7, padding=3)
        self.fc7 = nn.Conv2d(wide, wide, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(wide, outputs, 1)
        names = {32: (), 16: ("pool4",), 8: ("pool4", "pool3")}[stride]
        self.skips = nn.ModuleDict(
            {n: nn.Conv2d(thin(STAGES[int(n[-1]) - 1][0], width), outputs, 1) for n in names}
        )
        self.ups = nn.ModuleDict({name: bilinear_deconvolution(outputs, 2) for name in names})
        self.upsample = Bilinear(stride)
        start(self.fc6)
        start(self.fc7)
        for conv in (self.score, *self.skips.values()):
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def features(self, image: torch.Tensor) -> Maps:
        """pool3, pool4 and pool5 at 1/8, 1/16 and 1/32."""
        maps: Maps = self.encoder(image)
        return {name: maps[name] for name in ("pool3", "pool4", "pool5")}

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, H / stride, W / stride)."""
        x = self.dropout(torch.relu(self._fc6(features["pool5"])))
        x = self.dropout(torch.relu(self.fc7(x)))
        scores: torch.Tensor = self.score(x)
        for name, skip in self.skips.items():
            scores = self.ups[name](scores) + skip(features[name])
        return scores

    def _fc6(self, x: torch.Tensor) -> torch.Tensor:
        """`fc6`, in training on a CPU as one product of matrices: by itself its backward is slow.

        oneDNN without AVX-512 takes tens of times as long for 4096 kernels of 512x7x7.
        """
        if not self.training or x.device.type != "cpu":
            return cast("torch.Tensor", self.fc6(x))
        assert self.fc6.bias is not None
        patches = nn.functional.unfold(x, 7, padding=3)
        flat: torch.Tensor = self.fc6.weight.flatten(1) @ patches + self.fc6.bias[:, None]
        return flat.view(*flat.shape[:2], *x.shape[2:])

    def cut(self, outputs: int) -> None:
        """Keep the first outputs of what is summed last."""
        if not self.skips:
            keep_outputs(self.score, outputs)
            return
        name = list(self.skips)[-1]
        for last in (self.skips[name], self.ups[name]):
            assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
            keep_outputs(last, outputs)
