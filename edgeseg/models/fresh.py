"""A checkpoint of weights that nobody trained: for MACs and latency alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgeseg.bundle import Bundle, Manifest
from edgeseg.errors import BundleError
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import Network, build_exportable

SEED = 0
FRAMES = 2
SIDE = 64


def save_fresh(folder: Path, manifest: Manifest) -> Bundle:
    """Write the network that `manifest.model` describes with random weights, the same each time.

    Its normalisations have the statistics of noise: without any, what a deep network computes grows
    out of the range of float16.
    """
    if manifest.model is None:
        raise BundleError(f"{manifest.name}: the manifest names no model")
    torch.manual_seed(SEED)
    network = build_exportable(manifest.model, len(manifest.table) + manifest.model.void_outputs)
    settle(network)
    return save_checkpoint(folder, network.eval(), manifest)


@torch.no_grad()
def settle(network: Network) -> None:
    """Give all normalisations the mean and variance that they see on frames of noise."""
    side = -(-SIDE // network.divisor) * network.divisor
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    channels = 4 if network.mask else 3
    network.train()(torch.randn(FRAMES, channels, 2 * side, 2 * side))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()
