"""INT8.md: what is bold, what is a dash, and why something has no numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgeseg.benchmarks.int8_table import PAGE, page, read_result
from edgeseg.errors import ComparisonError, UsageError

pytestmark = pytest.mark.unit


def engine(miou: float, lost: float, **times: Any) -> dict[str, Any]:
    latency = {"p50_ms": 5.0, "float_p50_ms": 10.0, "ratio": [0.4, 0.5, 0.6], "n": 96}
    return {
        "miou": miou,
        "per_class": {},
        "drop": {"value": lost, "low": lost - 0.1, "high": lost + 0.1},
        "worst_class": "car",
        "worst_class_drop": 2 * lost,
        "same": 99.0,
        "same_inside": 99.9,
        "latency": {**latency, "others_cores": 0.0, "cores": 2, **times},
    }


def row(method: str, **changes: Any) -> dict[str, Any]:
    content = {
        "model": "net", "method": method, "title": method, "kind": "script", "state": "done",
        "reason": "", "seconds": 99.0, "cpu_seconds": 12.4, "peak_mib": 300.2,
        "versions": {"nncf": "3.4.0"},
        "engines": {"onnxruntime": engine(69.9, 0.1), "openvino": engine(69.7, 0.3)},
        "file_mib": 0.5, "int8_convolutions": 9, "parity": {"miou_apart": 0.2, "same": 99.5},
    }  # fmt: skip
    return {**content, **changes}


FAILED = {"cpu_seconds": None, "peak_mib": None, "engines": {}, "parity": None}
RESULT: dict[str, Any] = {
    "title": "INT8", "suite": "s.toml", "command": "python -m c s.toml", "limit_seconds": 60.0,
    "machine": {
        "cpu": "CPU", "cores": 2, "features": ["avx2"], "libraries": {"openvino": "2026.4"},
    },
    "memory_cap_mib": 100, "rule": "mean over classes",
    "models": {
        "net": {
            "model": "espnet", "size": [64, 96], "data": "camvid val", "frames": 4,
            "calibration": {"frames": 3, "data": "camvid train"}, "convolutions": 10,
            "file_mib": 1.0,
            "engines": {"onnxruntime": {"miou": 70.0}, "openvino": {"miou": 70.0}},
        },
    },
    "rows": [row("ours")],
}  # fmt: skip


def lines(**changes: Any) -> list[str]:
    """The page with these changes of its one row."""
    content = copy.deepcopy(RESULT)
    content["rows"] = [row("ours", **changes)]
    return page(content).splitlines()


def test_the_tables():
    said = lines()
    assert (
        "| ours | 9 of 10 | 69.90 | **0.10** [0.00, 0.20] | 99.00 | 99.90 | 69.70 | 0.30 "
        "[0.20, 0.40] | 99.00 | 99.90 | 0.20 | car −0.60 |" in said
    )
    assert "| ours | 0.50 | 5.00 (0.50) | 5.00 (0.50) | 12 | 300 |" in said
    assert "## net: espnet, camvid val, 64x96" in said
    assert any("OpenVINO 2026.4; quantised by nncf 3.4.0." in line for line in said)
    assert any("may take 100 MiB and 60 s by the clock." in line for line in said)
    assert not any(line.startswith("Without numbers") for line in said)


def test_what_was_won_has_a_true_minus():
    said = lines(engines={"onnxruntime": engine(70.1, -0.1)})
    assert any("**−0.10** [−0.20, 0.00]" in line for line in said)
    assert any("| car +0.20 |" in line for line in said)


def test_a_disturbed_time_is_not_printed():
    busy = {"onnxruntime": engine(70, 0, others_cores=0.21), "openvino": engine(70, 0)}
    assert "| ours | 0.50 | disturbed | 5.00 (0.50) | 12 | 300 |" in lines(engines=busy)
    unknown = {"onnxruntime": engine(70, 0, others_cores=None)}
    assert "| ours | 0.50 | disturbed | – | 12 | 300 |" in lines(engines=unknown)
    none = {"onnxruntime": {**engine(70, 0), "latency": None}}
    assert "| ours | 0.50 | – | – | 12 | 300 |" in lines(engines=none)


def test_running_out_is_a_result():
    said = lines(state="out of memory", reason="more than 100 MiB", **FAILED)
    assert "| ours | out of memory | – | – | – | – | – | – | – | – | – | – |" in said
    assert "- ours: out of memory: more than 100 MiB" in said


def test_an_engine_that_fails_says_why():
    said = lines(engines={"onnxruntime": {"failed": "can't open"}, "openvino": engine(70, 0)})
    assert "- ours, ONNX Runtime: can't open" in said
    assert any(line.startswith("| ours | 9 of 10 | – | – | – | – | 70.00 |") for line in said)


def test_a_long_reason_is_told_by_its_beginning_and_its_end():
    reason = "can't run:\n" + "at some/place.cc " * 20 + "the zero point must be a scalar"
    [line] = [s for s in lines(state="failed", reason=reason, **FAILED) if "can't run" in s]
    assert line.startswith("- ours: failed: can't run: at some/place.cc at")
    assert " … " in line
    assert line.endswith("the zero point must be a scalar")
    assert len(line) < 210


def written(tmp_path: Path, content: Any = RESULT) -> Path:
    path = tmp_path / "int8.json"
    path.write_text(json.dumps(content))
    return path


def test_the_page_is_written_and_checked(tmp_path, capsys):
    result, document = written(tmp_path), tmp_path / "INT8.md"
    with pytest.raises(ComparisonError) as error:
        PAGE.update(document, [result], check=True)
    assert str(error.value) == (
        f"{document} is not what the results say; run "
        f"'python -m edgeseg.benchmarks.int8_table {document} {result}'"
    )
    assert PAGE.main([str(document), str(result)]) == 0
    assert PAGE.main([str(document), str(result), "--check"]) == 0
    document.write_text(document.read_text() + "x")
    assert PAGE.main([str(document), str(result), "--check"]) == 1
    assert "is not what the results say" in capsys.readouterr().err


def test_what_is_no_result_is_refused(tmp_path):
    for content, said in (
        ([], "is no result of the INT8 comparison: 'title' is missing"),
        ({"title": ""}, "is no result of the INT8 comparison: 'suite' is missing"),
    ):
        with pytest.raises(UsageError, match=said):
            read_result(written(tmp_path, content))
    (tmp_path / "int8.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_result(tmp_path / "int8.json")
    with pytest.raises(UsageError) as error:
        read_result(tmp_path / "none.json")
    assert str(error.value) == (
        f"{tmp_path}/none.json: no such file; 'python -m edgeseg.pipeline.int8_comparison' "
        "writes it"
    )
