"""XceptionA and XceptionB as classifiers: how DFANet's backbones are trained first.

DFANet's "fc attention" is the 1000-way layer that named ImageNet's classes (Li et al. 2019, 3.2):
so that layer is the classifier here, and goes into the attention as it is. It stays 1000 wide for
fewer classes, of which only the first outputs are then used: a further layer on top would leave in
the attention what was never trained to name anything.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import UsageError
from edgeseg.models.dfanet import IMAGENET, Attention, Xception
from edgeseg.models.network import Maps, Network


class XceptionClassifier(Network):
    """(N, 3, H, W) -> (N, outputs, 1, 1): the label of a whole image is a label map of 1x1.

    Tensors are named as in `Xception`; what turns the layer's scores into weights of channels is
    left out, for it sees no gradient here.
    """

    divisor = Xception.divisor

    def __init__(self, outputs: int, kind: str) -> None:
        super().__init__()
        if outputs > IMAGENET:
            raise UsageError(
                f"xception_{kind} has {IMAGENET} outputs, the data {outputs} classes; DFANet's "
                f"attention needs a layer {IMAGENET} wide, so take at most as many classes"
            )
        xception = Xception(kind)
        self.used = outputs
        self.kind = kind
        self.stem = xception.stem
        self.stages = xception.stages
        self.attention.weigh = nn.Identity()
        self.upsample = nn.Identity()

    @property
    def attention(self) -> Attention:
        """The layer that classifies."""
        attention = self.stages.attention
        assert isinstance(attention, Attention)
        return attention

    def features(self, image: torch.Tensor) -> Maps:
        """enc2, enc3 and enc4 at 1/4, 1/8 and 1/16."""
        maps = self.stages.encode(self.stem(image))
        return dict(zip(("enc2", "enc3", "enc4"), maps, strict=True))

    def head(self, features: Maps) -> torch.Tensor:
        """-> (N, outputs, 1, 1)."""
        logits = self.attention.classify(features["enc4"])
        return logits[:, : self.used, None, None]

    def cut(self, outputs: int) -> None:
        """Use the first outputs only."""
        self.used = outputs
