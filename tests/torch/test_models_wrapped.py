"""Wrapped networks keep the contract of plain ones."""

from __future__ import annotations

import pytest
from model_contract import ModelContract

pytestmark = pytest.mark.torch


class TestESPNetDSRL(ModelContract):
    name = "espnet_q3+dsrl"


class TestESPNetv2DSRL(ModelContract):
    name = "espnetv2_s0.5+dsrl"


class TestDFANetDSRL(ModelContract):
    name = "dfanet_b+dsrl"


class TestESPNetDUpsample(ModelContract):
    name = "espnet_q3+dupsample"
    frozen = ("upsample.weight",)


class TestDFANetDUpsample(ModelContract):
    name = "dfanet_b+dupsample"
    frozen = ("upsample.weight",)


class TestDUpsampleDSRL(ModelContract):
    name = "espnetc_q3+dupsample+dsrl"
    frozen = ("host.upsample.weight",)
