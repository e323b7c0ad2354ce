"""What a network computes: the count is a pencil's, and the list of `edgeseg models` is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeseg.bundle import ModelSpec
from edgeseg.models import MODELS, REFINERS, WORK
from edgeseg.models.network import build_model
from edgeseg.models.work import count_macs, count_work
from edgeseg.pipeline.model import list_models

pytestmark = pytest.mark.torch


def test_every_model_is_listed_with_its_work():
    assert list(WORK) == [*MODELS, *REFINERS]
    rows = {row["name"]: row for row in list_models()}
    assert rows["dfanet_b"]["params"] == 1_097_819
    assert rows["dfanet_b"]["macs"] == {"256x512": 257_585_152, "512x1024": 1_028_036_608}


@pytest.mark.parametrize("name", WORK)
def test_the_listed_params_are_the_networks(name):
    """tests/golden/test_listed_macs.py counts the MACs, which takes longer."""
    assert count_work(ModelSpec(name), 19, ())[0] == WORK[name][0]


@pytest.mark.parametrize("name", ["espnet_q3", "dfanet_b", "enet"])
def test_both_counters_agree(name):
    """fvcore's on a network that runs, torch's on one of shapes alone."""
    spec, size = ModelSpec(name), (64, 96)
    network = build_model(spec, 19).eval()
    assert count_work(spec, 19, (size,))[1] == count_macs(network, size)[0] > 0


class Every(nn.Module):
    """One of each operator that has a rule, and a mean, which has none."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, stride=2, padding=2, dilation=2, groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(x))
        mixed = self.linear(x.mean((2, 3)))
        return torch.bmm(mixed[:, None], mixed[:, :, None])


def test_the_count_is_the_pencils():
    """8x10 -> grouped 4x5 -> up 8x10."""
    macs, uncounted = count_macs(Every(), (8, 10))
    grouped = 6 * 1 * 9 * (4 * 5)
    up = 6 * 2 * 9 * (4 * 5)
    assert macs == grouped + up + 4 * 5 + 5
    assert uncounted == {"mean": 1}
