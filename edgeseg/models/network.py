"""What every network promises, and the one door that builds them by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.errors import UsageError
from edgeseg.models import CLASSIFIERS, MODELS, REFINERS, WRAPPERS, Entry, split_name
from edgeseg.recipe import from_table

Maps = dict[str, torch.Tensor]
"""Feature maps (N, C, h, w) by name."""


class Network(nn.Module, ABC):
    """(N, 3, H, W) float32 normalised -> (N, outputs, scale H, scale W) float32 logits.

    `forward` is `upsample(scores(x))`: `upsample` is the last linear layer, which can be taken out
    of the exported graph and fused with argmax. `scores` is `head(features(x))`: what wrappers
    such as DSRL share or replace.
    """

    divisor = 8
    """Height and width must be multiples of this."""
    scale = 1
    """Height of the labels over height of the input, and the same for the width."""
    HEAD: tuple[str, ...] = ()
    """Modules that `features` does not need: a wrapper with a head of its own removes them."""
    BRANCHES: tuple[str, ...] = ()
    """Modules that only training needs; `deploy` removes them."""
    mask = False
    """Whether a fourth channel of the input is a coarse mask, -1 outside and 1 inside."""
    least_batch = 1
    """Frames that a process trains on at least: 2 where the mean of a whole frame is normalised."""
    watched = ""
    """A map of `watchable` that training gets as "feature" beside the logits."""
    upsample: nn.Module

    @abstractmethod
    def features(self, image: torch.Tensor) -> Maps:
        """(N, 3, H, W) -> the encoder's maps by name; the last is the deepest.

        Heights and widths are those of the image over powers of two, rounded up.
        """

    @abstractmethod
    def head(self, features: Maps) -> torch.Tensor:
        """Features -> (N, C, h, w): the rest of `scores`."""

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, h, w): everything before the last linear upsampling."""
        return self.head(self.features(image))

    @abstractmethod
    def cut(self, outputs: int) -> None:
        """Keep only the first `outputs` outputs of the last layer (void is behind the classes)."""

    def branches(self) -> dict[str, nn.Module]:
        """The train-only branches that are on, by name."""
        found = {name: getattr(self, name) for name in self.BRANCHES}
        return {name: branch for name, branch in found.items() if branch is not None}

    def outputs(self, image: torch.Tensor) -> Maps:
        """What the losses of `edgeseg.training.losses` ask for; "logits" is always among them."""
        features = self.features(image)
        scores = self.head(features)
        return {"logits": self.upsample(scores), **self.seen(features, scores)}

    @torch.no_grad()
    def example_features(self) -> Maps:
        """The features of a black image whose sides are twice the divisor, as in inference."""
        training, side = self.training, 2 * self.divisor
        maps = self.eval().features(torch.zeros(1, 3, side, side))
        self.train(training)
        return maps

    def watchable(self) -> tuple[str, ...]:
        """What `watched` may name: the features, from fine to deep, and "scores"."""
        return *self.example_features(), "scores"

    def seen(self, features: Maps, scores: torch.Tensor) -> Maps:
        """The scores, and the watched map if any: a part of `outputs`."""
        found = {"scores": scores}
        return found | {"feature": (features | found)[self.watched]} if self.watched else found

    def is_head(self, parameter: str) -> bool:
        """Whether a parameter of that name is behind the encoder: it may learn at another rate."""
        return parameter.partition(".")[0] in (*self.HEAD, *self.BRANCHES)

    def deploy(self) -> None:
        """Take the form that engines run: what only training needs goes; the labels stay."""
        for name in self.BRANCHES:
            setattr(self, name, None)

    def forward(self, image: torch.Tensor) -> torch.Tensor | Maps:
        """Logits at `scale` times the size of the input; in training `outputs`, with branches."""
        if self.training and (self.branches() or self.watched):
            return self.outputs(image)
        return cast("torch.Tensor", self.upsample(self.scores(image)))


class Bilinear(nn.Module):
    """Bilinear upsampling by a factor: half-pixel centres, or corners on corners.

    By 1 it is nothing: for networks whose scores have the size of the image.
    """

    def __init__(self, factor: int, align_corners: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.align_corners = align_corners

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, C, h * factor, w * factor)."""
        if self.factor == 1:
            return scores
        size = (scores.shape[2] * self.factor, scores.shape[3] * self.factor)
        return nn.functional.interpolate(
            scores, size, mode="bilinear", align_corners=self.align_corners
        )


def build_model(spec: ModelSpec, outputs: int) -> Network:
    """The network of that name with fresh weights and `outputs` output channels.

    `spec.options` are the host's; those of a wrapper are a table under its name.
    """
    host, wrappers = split_name(spec.name)
    tables = {key: value for key, value in spec.options.items() if key in WRAPPERS}
    options = {key: value for key, value in spec.options.items() if key not in WRAPPERS}
    for key in tables:
        if key not in wrappers:
            raise UsageError(f"options hold a table '{key}'; model '{spec.name}' has no '+{key}'")
    network = _build(host, MODELS[host], outputs, options)
    for key in wrappers:
        network = _wrap(key, network, outputs, tables.get(key, {}))
    return network


def build_shapes(spec: ModelSpec, outputs: int) -> Network:
    """The same without weights, on torch's meta device: for sizes and counts, in no time."""
    with torch.device("meta"):
        return build_exportable(spec, outputs)


def build_exportable(spec: ModelSpec, outputs: int) -> Network:
    """What `edgeseg export` takes: a model, or one of REFINERS.

    A refiner has one output, whatever the classes of the frames that it is trained on.
    """
    if spec.name in REFINERS:
        return _build(spec.name, REFINERS[spec.name], 1, spec.options)
    return build_model(spec, outputs)


def build_trainee(spec: ModelSpec, outputs: int) -> Network:
    """What `edgeseg train` takes: what `edgeseg export` takes, or one of CLASSIFIERS."""
    if spec.name not in CLASSIFIERS:
        return build_exportable(spec, outputs)
    return _build(spec.name, CLASSIFIERS[spec.name], outputs, spec.options)


def _build(name: str, entry: Entry, outputs: int, options: Mapping[str, Any]) -> Network:
    try:
        network: Network = _load(entry)(outputs=outputs, **entry.arguments, **options)
    except TypeError as error:
        raise UsageError(f"model '{name}' does not take {options}: {error}") from error
    return network


def _wrap(key: str, host: Network, outputs: int, table: Mapping[str, Any]) -> Network:
    """`host` inside the wrapper of that name; a table that it does not take is a RecipeError."""
    wrapper = _load(WRAPPERS[key])
    options = from_table(wrapper.OPTIONS, dict(table), f"options of '{key}'")
    return cast("Network", wrapper(host, outputs, options))


def _load(entry: Entry) -> Any:
    module, _, name = entry.builder.partition(":")
    return getattr(importlib.import_module(module), name)
