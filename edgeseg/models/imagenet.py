"""Encoders and ImageNet: torchvision's weights into them, and what they cost as classifiers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgeseg.errors import WeightsError
from edgeseg.models import mobilenetv2, resnet, vgg
from edgeseg.models.blocks import conv_norm, mean_pixel
from edgeseg.models.mobilenetv2 import MobileNetV2
from edgeseg.models.pooling import adaptive_pool
from edgeseg.models.published import read_state
from edgeseg.models.resnet import ResNet
from edgeseg.models.vgg import VGG

CLASSES = 1000
LEFT_OUT: dict[type[nn.Module], tuple[str, ...]] = {
    ResNet: resnet.LEFT_OUT,
    VGG: vgg.LEFT_OUT,
    MobileNetV2: mobilenetv2.LEFT_OUT,
}
"""What a classifier's state dict holds besides the encoder: keys that start so."""


def read_encoder(path: Path, encoder: nn.Module) -> None:
    """Fill `encoder` from a classifier's .pth file in torchvision's naming."""
    fill_encoder(encoder, read_state(path), str(path))


def fill_encoder(encoder: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Fill `encoder` from a classifier's state dict in torchvision's naming, strictly.

    Its classifier is left out by name; any other key that is missing, left over or of another shape
    is a WeightsError.
    """
    if type(encoder) not in LEFT_OUT:
        raise WeightsError(
            f"{where}: torchvision has no weights for the encoder "
            f"{type(encoder).__module__.rpartition('.')[2]}.{type(encoder).__name__}; it has them "
            f"for {', '.join(kind.__name__ for kind in LEFT_OUT)}"
        )
    given = {k: v for k, v in state.items() if not k.startswith(LEFT_OUT[type(encoder)])}
    own = encoder.state_dict()
    given = {k: _with_masks(v, own[k]) if k in own else v for k, v in given.items()}
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    foreign = [k for k in given if k not in own]
    if missing or foreign:
        first = (missing or foreign)[0]
        raise WeightsError(
            f"{where}: is no {type(encoder).__name__} as the model has it: {len(missing)} keys "
            f"missing, {len(foreign)} unknown (first: '{first}'). Take torchvision's file of the "
            "same depth, with or without normalisation as the model"
        )
    for key, tensor in given.items():
        if tensor.shape != own[key].shape:
            raise WeightsError(
                f"{where}: '{key}' has shape {tuple(tensor.shape)}; the encoder expects "
                f"{tuple(own[key].shape)}"
            )
    encoder.load_state_dict(own | given)


def _with_masks(given: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A kernel for the image's three channels -> one for more, of which the others weigh nothing.

    So CascadePSP starts (Cheng et al. 2020, their code).
    """
    if given.ndim != 4 or given.shape[1] != 3 or own.shape[1] <= 3:
        return given
    return torch.cat([given, given.new_zeros(len(given), own.shape[1] - 3, *given.shape[2:])], 1)


class Classifier(nn.Module):
    """An encoder with ImageNet's classifier behind it, as it was published."""

    def __init__(self, encoder: ResNet | VGG | MobileNetV2) -> None:
        super().__init__()
        self.encoder = encoder
        channels = encoder.channels
        self.side = 7 if isinstance(encoder, VGG) else 1
        self.last: nn.Module = nn.Identity()
        if isinstance(encoder, VGG):
            self.fc: nn.Module = nn.Sequential(
                nn.Linear(7 * 7 * channels, 4096), nn.ReLU(),
                nn.Linear(4096, 4096), nn.ReLU(),
                nn.Linear(4096, CLASSES),
            )  # fmt: skip
            return
        if isinstance(encoder, MobileNetV2):
            self.last = conv_norm(channels, 1280, 1).append(nn.ReLU6())
            channels = 1280
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1000)."""
        deepest = self.last(list(self.encoder(image).values())[-1])
        side = (self.side, self.side)
        pooled = mean_pixel(deepest) if self.side == 1 else adaptive_pool(deepest, side)
        result: torch.Tensor = self.fc(pooled.flatten(1))
        return result
