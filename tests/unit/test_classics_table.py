"""The page of the classic systems: its rows, its latencies, and that the stored one is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.benchmarks.classics_table import PAGE, classics, page
from edgeseg.errors import ComparisonError, UsageError
from edgeseg.models import MODELS, WORK
from edgeseg.models.figures import FIGURES

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def row(model: str, target: str, p50: float) -> dict:
    return {
        "model": model, "target": target, "precision": "int8", "inference_precision": "f32",
        "size": [256, 512], "threads": 2, "latency_ms": {"p50": p50}, "peak_rss_mib": 321.4,
        "miou": None, "machine": {"cpu": "a cpu"},
    }  # fmt: skip


RESULT = {
    "command": "edgeseg bench enet --weights random",
    "results": [
        row("enet (random weights)", "openvino", 12.34),
        row("enet (random weights)", "onnxruntime", 9.0),
    ],
    "failed": [],
}


def test_every_classic_has_its_row():
    assert classics()[0] == "enet"
    assert set(FIGURES) <= set(classics()) <= set(MODELS)
    lines = page([]).splitlines()
    for name in classics():
        (line,) = [x for x in lines if x.startswith(f"| `{name}` |")]
        assert f"| {WORK[name][0] / 1e6:.2f} |" in line
    assert "No result yet" in page([])


def test_published_stands_beside_counted():
    (line,) = [x for x in page([]).splitlines() if x.startswith("| `bisenetv1_r18` |")]
    assert line.endswith("| 13.24 | 7.40 | 29.58 | 13.3 | 13.2 | 118 | 1024x2048 | 118.3 |")


def test_latencies_are_those_of_the_result():
    text = page([RESULT])
    size = "256\N{MULTIPLICATION SIGN}512"
    assert (
        f"| enet (random weights) | OpenVINO | INT8 | {size} | 2 | 12.3 | 321 | \N{EN DASH} |"
    ) in text
    assert text.index("| 9.0 |") < text.index("| 12.3 |")
    assert "On a cpu:" in text
    assert "edgeseg bench enet --weights random" in text


def test_the_stored_page_is_current():
    PAGE.update(ROOT / "benchmarks" / "CLASSICS.md", [], check=True)


def test_a_page_that_is_not_current_is_an_error(tmp_path):
    path = tmp_path / "PAGE.md"
    path.write_text("old")
    with pytest.raises(ComparisonError, match=r"PAGE\.md is not what the results say"):
        PAGE.update(path, [], check=True)
    assert PAGE.main([str(path)]) == 0
    PAGE.update(path, [], check=True)


def test_what_is_no_result_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(UsageError, match="is no result of 'edgeseg bench': 'command' is missing"):
        PAGE.update(tmp_path / "PAGE.md", [path], check=False)
