"""The MACs that `edgeseg models` lists without counting are those that are counted."""

from __future__ import annotations

import pytest

from edgeseg.bundle import ModelSpec
from edgeseg.models import MODELS, WORK
from edgeseg.models.network import build_model
from edgeseg.models.work import count_macs
from edgeseg.pipeline.model import MACS_AT

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("name", MODELS)
def test_the_listed_macs_are_those_counted(name):
    network = build_model(ModelSpec(name), 19).eval()
    assert tuple(count_macs(network, size)[0] for size in MACS_AT) == WORK[name][1:]
