"""The guard against slower code: what counts as worse, by hand."""

from __future__ import annotations

import copy
import json

import pytest

from edgeseg.benchmarks.guard import guard, main, summarise, worse
from edgeseg.errors import ComparisonError, UsageError

pytestmark = pytest.mark.unit


def race(ours: list[float], alone: list[float], machine: str = "m", reorders: int = 2) -> dict:
    rows = [
        {"name": "edgeseg int8", "rounds_ms": ours},
        {"name": "engine alone int8", "rounds_ms": alone},
        {"name": "torch eager", "rounds_ms": alone},
    ]
    nodes = {"Convolution i8": 5, "Reorder f32": reorders - 1, "Reorder bf16": 1}
    return {
        "model": "espnet_q3", "size": [256, 512], "contestants": rows,
        "machine": {"fingerprint": machine, "cpu": "C", "libraries": {}},
        "roofline": {"networks": [{"precision": "int8", "nodes": nodes}]},
    }  # fmt: skip


BASE = race([2.0, 2.1, 2.2, 2.3], [2.0, 2.0, 2.0, 2.0])


def test_a_baseline_keeps_ratios_and_counts():
    kept = summarise(BASE)
    assert list(kept["ratios"]) == ["edgeseg int8 / engine alone int8"]
    low, middle, high = kept["ratios"]["edgeseg int8 / engine alone int8"]
    assert 1.0 <= low < middle == 1.075 < high <= 1.15
    assert kept["nodes"] == {"int8": {"all": 7, "reorders": 2}}


def test_noise_is_no_regression():
    assert worse(summarise(BASE), summarise(race([2.1, 2.2, 2.3, 2.4], [2.0] * 4))) == []
    assert worse(summarise(BASE), summarise(race([1.0] * 4, [2.0] * 4))) == []


def test_a_slower_call_and_more_nodes_are_named():
    slow = summarise(race([3.0] * 4, [2.0] * 4, reorders=3))
    assert [line.split(": ")[0] for line in worse(summarise(BASE), slow)] == [
        "int8", "int8", "edgeseg int8 / engine alone int8",
    ]  # fmt: skip
    assert "int8: 8 nodes (all), 7 before" in worse(summarise(BASE), slow)
    assert "int8: 3 nodes (reorders), 2 before" in worse(summarise(BASE), slow)
    assert worse(summarise(BASE), slow)[2].startswith(
        "edgeseg int8 / engine alone int8: 1.50 [1.50, 1.50], before 1.07 ["
    )


def test_ratios_of_another_machine_are_not_compared(tmp_path):
    baseline, other = tmp_path / "perf.json", tmp_path / "race.json"
    other.write_text(json.dumps(BASE))
    assert guard(baseline, other, write=True) == f"{baseline}: 1 ratios of espnet_q3"
    assert guard(baseline, other, write=False).startswith("nothing is slower than")
    other.write_text(json.dumps(race([9.0] * 4, [2.0] * 4, machine="n")))
    assert "ratios are not compared: it was made on another machine (C)" in guard(
        baseline, other, write=False
    )
    other.write_text(json.dumps(race([9.0] * 4, [2.0] * 4)))
    with pytest.raises(ComparisonError, match=r"^slower than the baseline: edgeseg int8 / engine"):
        guard(baseline, other, write=False)


def test_another_model_is_refused(tmp_path, capsys):
    baseline, other = tmp_path / "perf.json", tmp_path / "race.json"
    other.write_text(json.dumps(BASE))
    guard(baseline, other, write=True)
    changed = copy.deepcopy(BASE) | {"model": "unet"}
    other.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match=r"is of unet at \[256, 512\], .* of espnet_q3 at"):
        guard(baseline, other, write=False)
    assert main([str(tmp_path / "no.json"), str(other)]) == 2
    assert "no.json: no such file; 'make perf WRITE=1' writes it" in capsys.readouterr().err
