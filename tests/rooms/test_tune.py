"""--tune: what is tried, which one is kept, and that a broken or repeated run goes on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from engine_folders import SIZE, onnxruntime_folder

from edgeseg.bundle import Bundle, read_bundle
from edgeseg.cli import main
from edgeseg.errors import EngineError, GateError, UsageError
from edgeseg.pipeline import tune as tuning
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.pipeline.tune import candidates, choose, tune

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

SOURCE = Source("espnet_q3", SIZE)


def test_int8_is_not_padded():
    assert [c.name for c in candidates(SOURCE, Plan("openvino", "int8"))] == ["labels", "scores"]
    floats = list(candidates(SOURCE, Plan("openvino", "fp32")))
    assert [(c.name, c.source.scores, c.plan.pad) for c in floats] == [
        ("labels", False, 0), ("labels-padded16", False, 16),
        ("scores", True, 0), ("scores-padded16", True, 16),
    ]  # fmt: skip
    some = candidates(SOURCE, Plan("openvino", "fp32"), ("scores",))
    assert [c.name for c in some] == ["scores", "scores-padded16"]


def entry(low: float, middle: float, high: float) -> dict[str, object]:
    return {"p50_ms": 5 * middle, "ratio": [low, middle, high]}


def test_only_what_is_surely_faster_is_preferred():
    first = entry(1, 1, 1)
    assert choose({"a": first, "b": entry(0.7, 0.8, 1.01)}) == "a"
    assert choose({"a": first, "b": entry(0.7, 0.8, 0.9), "c": entry(0.6, 0.7, 1.2)}) == "b"
    assert choose({"a": first, "b": entry(0.7, 0.8, 0.9), "c": entry(0.6, 0.7, 0.8)}) == "c"


class Exports:
    """Writes a real folder of ONNX Runtime for each candidate, and notes which; some it refuses."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.seen: list[str] = []
        self.refused = refused

    def __call__(self, source: Source, plan: Plan, out: Path) -> Bundle:
        self.seen.append(out.name)
        if out.name in self.refused:
            raise GateError("gate failed")
        return onnxruntime_folder(out, with_frames=True, history=(f"export {out.name}",))


PLAN = Plan("onnxruntime", "fp32")


def test_the_fastest_is_copied_and_says_why(tmp_path, monkeypatch):
    times = {
        "labels": entry(1, 1, 1), "labels-padded16": entry(0.8, 0.9, 0.95),
        "scores": entry(0.4, 0.5, 0.6), "scores-padded16": entry(0.9, 1, 1.1),
    }  # fmt: skip
    monkeypatch.setattr(tuning, "time_folders", lambda folders: {n: times[n] for n in folders})
    said: list[str] = []
    bundle = tune(SOURCE, PLAN, tmp_path / "out", Exports(), said.append)
    assert bundle.folder == tmp_path / "out"
    read = read_bundle(tmp_path / "out").manifest
    assert read.history == (
        "export scores",
        "--tune: scores of labels 5 ms, labels-padded16 4.5 ms, scores 2.5 ms, "
        "scores-padded16 5 ms",
    )
    assert "scores: 2.50 ms, 0.50 [0.40, 0.60] of the first" in said


def test_folders_are_timed_and_a_second_run_asks_no_clock(tmp_path, monkeypatch):
    export = Exports(refused=("scores",))
    said: list[str] = []
    tune(SOURCE, PLAN, tmp_path / "out", export, said.append)
    assert "candidate scores is out: gate failed" in said
    assert export.seen == ["labels", "labels-padded16", "scores", "scores-padded16"]
    monkeypatch.setattr(tuning, "time_folders", None)
    shutil.rmtree(tmp_path / "out")
    tune(SOURCE, PLAN, tmp_path / "out", export, said.append)
    assert export.seen[4:] == ["scores"]  # what was built is there
    assert any(line.startswith("times are those of") for line in said)
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_run_without_candidates_says_the_first_reason(tmp_path):
    names = tuple(c.name for c in candidates(SOURCE, PLAN))
    with pytest.raises(EngineError, match="no candidate could be built: gate failed"):
        tune(SOURCE, PLAN, tmp_path / "out", Exports(names), print)


def test_what_can_not_be_timed_is_refused(tmp_path, monkeypatch, capsys):
    batch = dataclasses.replace(SOURCE, batch=4)
    with pytest.raises(UsageError, match="--tune times single frames; --batch is 4"):
        tune(batch, PLAN, tmp_path / "out", Exports(), print)
    monkeypatch.setattr(tuning, "why_ungated", lambda _: "this machine has none")
    words = ["export", "espnet_q3", "--target", "tensorrt-rtx", "--tune"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "--tune times tensorrt-rtx on this machine: this machine has none" in (
        capsys.readouterr().err
    )
