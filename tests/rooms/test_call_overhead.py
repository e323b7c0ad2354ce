"""What a call adds to the engine's time, counted with a clock that only engine and call move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_folders import SIZE, TABLE, expected, onnxruntime_folder

from edgeseg.benchmarks import call_overhead
from edgeseg.benchmarks.call_overhead import Overhead
from edgeseg.bundle import Bundle
from edgeseg.errors import BundleError, UsageError
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter

pytestmark = pytest.mark.rooms


def test_what_a_call_adds_is_counted_round_by_round(monkeypatch):
    """The engine takes 10 ms, ours 2 ms more."""
    now = [0.0]

    def engine(images: np.ndarray) -> np.ndarray:
        now[0] += 0.010
        return expected(images)

    opened = Segmenter.of(FakeEngine(answer=engine), TABLE, size=SIZE)
    timed = opened.timed

    def slower(*words, **options):
        now[0] += 0.002
        return timed(*words, **options)

    monkeypatch.setattr(opened, "timed", slower)
    found = call_overhead.measure(opened, 5, clock=lambda: now[0])
    assert found.engine == pytest.approx(10)
    assert found.added == pytest.approx(2)
    assert found.decode == 0


def test_the_target_is_a_share_or_a_third_of_a_millisecond():
    assert Overhead(5.0, 0.0).allowed == 0.3
    assert Overhead(100.0, 0.0).allowed == pytest.approx(3.0)


def test_a_folder_is_measured(tmp_path: Path, capsys):
    pytest.importorskip("onnxruntime", reason="the folder is for ONNX Runtime")
    onnxruntime_folder(tmp_path / "m")
    code = call_overhead.main([str(tmp_path / "m"), "--rounds", "3", "--threads", "1"])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'm'}: 1 threads, decode in the graph: 0.000 ms" in said
    assert "a call adds" in said
    assert code == (1 if "MISSED" in said else 0)


def test_a_network_of_any_size_is_refused(tmp_path: Path):
    opened = Segmenter.of(FakeEngine(answer=expected), TABLE, size=SIZE)
    opened.input = opened.input.__class__("rgb", (0.0,) * 3, (1.0,) * 3, size=None)
    with pytest.raises(UsageError, match="this network takes any size; give a folder of one size"):
        call_overhead.measure(opened, 1)
    bundle = Bundle(tmp_path, Segmenter.of(FakeEngine(), TABLE, size=SIZE).bundle.manifest)
    with pytest.raises(BundleError, match="has no engine of one size; see 'edgeseg export'"):
        call_overhead.measure_start(bundle, EngineOptions(1), "rgb")
