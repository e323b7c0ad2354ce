"""`edgeseg quickstart` with the shipped weights: one size, few frames, everything else as it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgeseg.cli import main
from edgeseg.pipeline.model import shipped
from edgeseg.pipeline.plan import DEFAULT_MODEL

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    if DEFAULT_MODEL not in shipped():
        pytest.skip(f"no weights are shipped for {DEFAULT_MODEL}")
    out = tmp_path_factory.mktemp("quick") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeseg.pipeline.quickstart.SIZES", ((256, 512),))
        patch.setattr("edgeseg.pipeline.quickstart.EMBEDDED", "synthetic:size=256x512,count=80")
        patch.setattr("edgeseg.pipeline.quickstart.FRAMES", 6)
        patch.setattr("edgeseg.pipeline.quickstart.CALIBRATION_FRAMES", 8)
        start = time.monotonic()
        assert main(["quickstart", "--out", str(out), "--json", str(out.parent / "q.json")]) == 0
        assert time.monotonic() - start < 600
    return out


def test_float_and_int8_on_both_engines(quick):
    results = json.loads((quick / "results.json").read_text())
    assert results == json.loads((quick.parent / "q.json").read_text())
    assert results["failed"] == []
    rows = {(r["target"], r["precision"]): r for r in results["results"]}
    assert set(rows) == {(t, p) for t in ("onnxruntime", "openvino") for p in ("fp32", "int8")}
    for row in rows.values():
        assert row["size"] == [256, 512]
        assert row["gate"] == "passed"
        assert row["latency_ms"]["p50"] > 0
        assert row["macs"] > 500_000_000
        assert row["seen_in_training"] is False


def test_the_shipped_weights_have_learnt(quick):
    """Chance is below 5; INT8 keeps what float has."""
    rows = json.loads((quick / "results.json").read_text())["results"]
    scores = {(r["target"], r["precision"]): r["miou"] for r in rows}
    assert min(scores.values()) > 25
    assert max(scores.values()) - min(scores.values()) < 2.5


def test_the_report_is_one_file(quick):
    report = (quick / "report.html").read_text()
    assert len(report) > 50_000
    assert "data:image/" in report
    assert sorted(p.name for p in quick.iterdir()) == ["engines", "report.html", "results.json"]


def test_quickstart_of_what_is_not_there(tmp_path, capsys):
    assert main(["quickstart", "--out", str(tmp_path / "out"), "--model", "espnet_q9"]) == 2
    assert capsys.readouterr().err.startswith("edgeseg: 'espnet_q9' is no model folder")
    assert list(tmp_path.iterdir()) == []
