"""Who makes, measures or runs an engine reads what its weights were trained on, and how free."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engine_folders import onnxruntime_folder

from edgeseg.bundle import WeightsSpec, read_bundle
from edgeseg.cli import main
from edgeseg.picture import save_image

pytestmark = pytest.mark.rooms

WEIGHTS = WeightsSpec("CamVid train", "CC-BY-NC-4.0", "here")
TERMS = "trained on CamVid train; licence CC-BY-NC-4.0 -- NON-COMMERCIAL use only"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine folder whose weights are not free."""
    return onnxruntime_folder(tmp_path / "engine", weights=WEIGHTS).folder


def test_export(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("edgeseg.pipeline.export.export", lambda *_, **__: read_bundle(folder))
    file = tmp_path / "out.json"
    typed = ["export", str(folder), "--target", "onnxruntime", "--out", "x", "--json", str(file)]
    assert main(typed) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"weights of {folder}: {TERMS}"
    assert json.loads(file.read_text())["weights"] == dataclasses.asdict(WEIGHTS)


def test_bench(folder: Path, monkeypatch, capsys):
    monkeypatch.setattr("edgeseg.pipeline.bench.bench", lambda *_: {"results": [], "failed": []})
    typed = ["bench", str(folder), "espnet_q3", "--data", "synthetic:", "--out", "x"]
    assert main(typed) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3] == f"weights of {folder}: {TERMS}"
    assert said[-2].startswith("weights of espnet_q3: trained on synthetic train")
    assert said[-2].endswith("licence Apache-2.0")


def test_run(folder: Path, tmp_path: Path, capsys):
    save_image(tmp_path / "frame.png", np.zeros((8, 16, 3), np.uint8))
    file = tmp_path / "out.json"
    typed = ["run", str(folder), "--source", str(tmp_path / "frame.png"), "--json", str(file)]
    assert main(typed) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"weights of {folder}: {TERMS}"
    assert json.loads(file.read_text())["weights"] == dataclasses.asdict(WEIGHTS)


def test_inspect(folder: Path, capsys):
    assert main(["inspect", str(folder)]) == 0
    assert TERMS in " ".join(capsys.readouterr().out.split())
