"""The MACs that `edgeseg models` lists without counting are those that are counted."""

from __future__ import annotations

import pytest

from edgeseg.bundle import ModelSpec
from edgeseg.models import WORK
from edgeseg.models.work import count_work
from edgeseg.pipeline.model import MACS_AT

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("name", WORK)
def test_the_listed_macs_are_those_counted(name):
    assert count_work(ModelSpec(name), 19, MACS_AT)[1:] == WORK[name][1:]
