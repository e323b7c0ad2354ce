"""Networks around a host: what DSRL and DUpsample have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgeseg.errors import UsageError, guess
from edgeseg.models.network import Maps, Network


class Wrapper(Network):
    """A network that takes the features of `host`; in training it returns named outputs.

    Subclasses name a frozen dataclass as OPTIONS and are built from (host, outputs, options). The
    host's own branches are left out.
    """

    def __init__(self, host: Network) -> None:
        super().__init__()
        if not isinstance(host, Wrapper):
            host.deploy()  # a wrapper is trained by losses of its own, not by its host's branches
        self.host = host
        self.divisor = host.divisor
        self.scale = host.scale
        self.least_batch = host.least_batch

    def features(self, image: torch.Tensor) -> Maps:
        """The host's."""
        return self.host.features(image)

    def forward(self, image: torch.Tensor) -> torch.Tensor | Maps:
        """Logits at `scale` times the size of the input; in training mode `outputs`."""
        return self.outputs(image) if self.training else super().forward(image)

    def is_head(self, parameter: str) -> bool:
        """All that is not the innermost host's encoder."""
        first, _, rest = parameter.partition(".")
        return first != "host" or self.host.is_head(rest)

    def deploy(self) -> None:
        """Drop the train-only branches."""
        self.host.deploy()
        super().deploy()


def innermost(model: Network) -> Network:
    """The host inside all wrappers; `model` itself where there are none."""
    while isinstance(model, Wrapper):
        model = model.host
    return model


@dataclass(frozen=True)
class Feature:
    """One of a host's maps: its channels, and image height over its height."""

    channels: int
    stride: int


def find_features(host: Network) -> dict[str, Feature]:
    """The host's features by name, from fine to deep, read off a black image."""
    side, maps = 2 * host.divisor, host.example_features()
    return {name: Feature(int(x.shape[1]), side // int(x.shape[2])) for name, x in maps.items()}


@torch.no_grad()
def count_channels(host: Network) -> int:
    """The channels of the host's scores."""
    training = host.training
    side = 2 * host.divisor
    scores = host.eval().scores(torch.zeros(1, 3, side, side))
    host.train(training)
    return int(scores.shape[1])


def check_names(names: tuple[str, ...], known: dict[str, Feature], key: str) -> None:
    """UsageError for a name that is none of the host's features, or that comes twice."""
    for name in names:
        if name not in known:
            raise UsageError(f"{key} names no feature '{name}' of the host.{guess(name, known)}")
    if len(set(names)) != len(names):
        raise UsageError(f"{key} is {list(names)}; name each feature once")


def conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
