"""Float networks and a range table that several rooms share: each is exported once."""

from __future__ import annotations

import pytest
from networks import Networks, frames, one_cpu, silent

from edgeseg.pipeline.quantise import Quantiser, calibrate


@pytest.fixture
def one_thread():
    """Engines take one thread: tests share the machine with others."""
    with one_cpu():
        yield


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    with one_cpu():
        made = Networks(tmp_path_factory.mktemp("networks"))
        made.get()
        return made


@pytest.fixture(scope="session")
def quantiser(networks: Networks) -> Quantiser:
    network = networks.get()
    with one_cpu():
        return Quantiser(network, calibrate(network, frames(8, seed=300), "mse", silent))
