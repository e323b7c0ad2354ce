"""The name of a board's recipe travels: from the plan into the folder, and on to what is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_folders import onnxruntime_folder
from networks import silent

from edgeseg.bundle import Target, read_bundle
from edgeseg.export.gate import Budget
from edgeseg.export.targets import PLAN, Built
from edgeseg.pipeline import build as room
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.plan import Building, Plan

pytestmark = pytest.mark.rooms


def test_a_folder_names_the_recipe_that_it_was_made_by(networks, tmp_path: Path):
    plan = Plan("onnxruntime", "fp32", budget=Budget(100, 100), recipe="orin-nano")
    export_network(networks.get(), None, plan, tmp_path / "out", silent)
    assert read_bundle(tmp_path / "out").manifest.recipe == "orin-nano"


@pytest.mark.parametrize(("typed", "named"), [("", "orin-nano"), ("thor", "thor")])
def test_what_is_built_names_its_own_or_that_of_its_source(
    tmp_path: Path, monkeypatch, typed: str, named: str
):
    source = onnxruntime_folder(tmp_path / "source", with_frames=True, recipe="orin-nano").folder

    def make(graph: Path, folder: Path) -> Built:
        (folder / PLAN).write_bytes(b"plan")
        return Built(PLAN, Target("tensorrt", "10.3.0", "Orin"))

    monkeypatch.setattr(room, "find_target", lambda *_: make)
    monkeypatch.setattr(room, "why_ungated", lambda _: "no GPU")
    room.build(source, Building("tensorrt", recipe=typed), tmp_path / "out", silent)
    assert read_bundle(tmp_path / "out").manifest.recipe == named
