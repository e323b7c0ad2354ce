"""The peaks of a machine: the best of some chains; races that get others."""

from __future__ import annotations

import json

import pytest

from edgeseg.benchmarks import peaks as room
from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.peaks import Chain, Peaks, main, measure_peaks, renew
from edgeseg.benchmarks.race_page import _roofline

pytestmark = pytest.mark.rooms

PEAKS = Peaks(100.0, 200.0, "bf16", 400.0, 20.0, {"f32": 512, "half": 512, "int8": 1024})


def race(**changes):
    """With peaks as they were measured before November 2026."""
    network = {
        "precision": "fp32", "computed_in": "f32", "macs": 2_000_000_000, "arithmetic_ms": 40.0,
        "memory_ms": 3.0, "engine_ms": 50.0, "benchmark_app_ms": None, "kinds_ms": {"Conv": 50.0},
    }  # fmt: skip
    old = {"f32": 50.0, "half": None, "half_name": None, "int8": 90.0, "memory_gb_s": 10.0}
    content = {
        "roofline": {"peaks": old, "networks": [network]}, "machine": machine(), "threads": 1,
    }  # fmt: skip
    return {**content, **changes}


def test_a_chain_is_counted():
    assert Chain(4, 8, 3).macs == 3 * 4 * 4 * 64


def test_the_fastest_chain_counts(monkeypatch):
    rates = {(4, "f32", False): 3.0, (8, "f32", False): 2.0, (4, "f32", True): 5.0}
    monkeypatch.setattr(room, "CHAINS", (Chain(4, 8, 1), Chain(8, 8, 1)))
    monkeypatch.setattr(room, "half_precision", lambda _: None)
    monkeypatch.setattr(room, "_copy_rate", lambda _: 7.0)
    monkeypatch.setattr(
        room, "_gmacs", lambda chain, hint, _, quant: rates.get((chain.channels, hint, quant), 6.0)
    )
    found = measure_peaks(1)
    assert found == Peaks(3.0, None, None, 6.0, 7.0, {"f32": 4, "int8": 8})
    assert [found.rate(kind) for kind in ("f32", "int8", "bf16")] == [3.0, 6.0, 3.0]


def test_a_chain_runs(monkeypatch):
    monkeypatch.setattr(room, "REPEATS", 1)
    assert room._gmacs(Chain(16, 4, 2), "f32", 1, quantised=False) > 0
    assert room._gmacs(Chain(16, 4, 2), "f32", 1, quantised=True) > 0


def test_bounds_follow_from_other_peaks():
    """2 GMAC at 100 GMAC/s take 20 ms; twice as fast a memory takes half as long."""
    content = renew(race(), PEAKS, "2026-11-21")
    (network,) = content["roofline"]["networks"]
    assert (network["arithmetic_ms"], network["memory_ms"]) == (20.0, 1.5)
    assert network["engine_ms"] == 50.0
    text = "\n".join(_roofline(content["roofline"]))
    assert "Peaks measured again on 2026-11-21: 100 GMAC/s in f32, bf16 200, 400 in INT8" in text
    assert "(1x1 convolutions of 512, 512 and 1024 channels by OpenVINO)" in text
    old = "\n".join(_roofline(race()["roofline"]))
    assert "Peaks measured in the same run: 50 GMAC/s in f32, 90 in INT8 (1x1 convolutions" in old
    assert "convolutions of 256 channels by OpenVINO" in old


def test_races_of_this_machine_are_written_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "measure_peaks", lambda threads: PEAKS)
    path, other = tmp_path / "race.json", tmp_path / "other.json"
    path.write_text(json.dumps(race()))
    assert main([str(path)]) == 0
    peaks = json.loads(path.read_text())["roofline"]["peaks"]
    assert peaks["channels"] == {"f32": 512, "half": 512, "int8": 1024}
    assert len(peaks["measured"]) == len("2026-11-21")
    other.write_text(json.dumps(race(machine={"cpu": "Another", "fingerprint": "0"})))
    before = path.read_text()
    assert main([str(path), str(other)]) == 2
    assert "other.json was run on another machine (Another)" in capsys.readouterr().err
    assert path.read_text() == before
