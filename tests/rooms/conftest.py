"""Float networks and a range table that several rooms share: each is exported once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from networks import Networks, frames, one_cpu, silent

from edgeseg.bundle import read_bundle
from edgeseg.export.to_onnx import FloatGraph, to_onnx
from edgeseg.pipeline.quantise import Quantiser, calibrate


@pytest.fixture
def one_thread():
    """Engines take one thread: tests share the machine with others."""
    with one_cpu():
        yield


@pytest.fixture(scope="session")
def exports() -> dict[tuple[object, ...], FloatGraph]:
    """Graphs that torch has exported, by weights, size and what else was asked."""
    return {}


@pytest.fixture
def remembered(exports, monkeypatch):
    """`to_onnx` gives a copy of what it gave before: torch takes seconds, and it is tested."""

    def recall(folder: Path, **asked: object) -> FloatGraph:
        bundle = read_bundle(folder)
        key = (repr(bundle.manifest), *sorted(asked.items()))
        if key not in exports:
            exports[key] = to_onnx(folder, **asked)
        copy = onnx.ModelProto()
        copy.CopyFrom(exports[key].model)
        return dataclasses.replace(exports[key], model=copy)

    monkeypatch.setattr("edgeseg.export.to_onnx.to_onnx", recall)


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
