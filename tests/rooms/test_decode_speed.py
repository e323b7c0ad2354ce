"""The benchmark of decode, on a few pixels; its ratios, and the page made of its result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.benchmarks import decode_speed, decode_table
from edgeseg.benchmarks.decode_speed import Case, ratio
from edgeseg.errors import UsageError
from edgeseg.runtime import decode_native

pytestmark = pytest.mark.rooms

ROOT = Path(__file__).resolve().parents[2]
SPEED = ROOT / "benchmarks" / "results" / "decode" / "speed.json"


def test_a_ratio_is_of_shared_rounds_with_an_interval():
    ours: list[float | None] = [1.0, 2.0, 1.0, 1.0]
    assert ratio([3.0, None, 3.0, 3.0], ours) == [3.0, 3.0, 3.0]
    low, value, high = ratio([2.0, 4.0, 6.0, 8.0], [1.0, 1.0, 1.0, 1.0])
    assert value == 5.0
    assert low < 5.0 < high


def test_work_is_counted():
    assert Case("bilinear", 4).gflop == 0
    assert Case("deconvolution", 2, 20).gflop == pytest.approx(2 * 20 * 19 * 512 * 1024 / 1e9)
    assert Case("dupsample", 8, 64).cells == (64, 128)


def test_scores_of_streets_hold_their_classes(monkeypatch):
    monkeypatch.setattr(decode_speed, "OUT", (64, 128))
    scores = decode_speed.make_scores(Case("bilinear", 4))
    assert scores.shape == (1, 19, 16, 32)
    assert scores.dtype == np.float32
    assert len(np.unique(scores.argmax(1))) >= 3


def test_all_take_part_and_agree(tmp_path: Path, monkeypatch, capsys):
    if not decode_native.available():
        pytest.skip("decode.c was not compiled: there was no C compiler")
    cases = (Case("bilinear", 4), Case("bilinear_corners", 2), Case("dupsample", 4, 8, "noise"))
    monkeypatch.setattr(decode_speed, "CASES", cases)
    monkeypatch.setattr(decode_speed, "OUT", (64, 128))
    monkeypatch.setattr(decode_speed, "GEMM", 32)
    path = tmp_path / "speed.json"
    assert decode_speed.main([str(path), "--threads", "2", "--rounds", "9"]) == 0
    assert "bilinear x4, 19 channels, streets" in capsys.readouterr().out
    content = json.loads(path.read_text())
    for case in content["cases"]:
        names = [row["name"] for row in case["contestants"]]
        assert names[:2] == [f"native {decode_native.available()[0]}, {n}"
                             for n in ("2 threads", "1 thread")]  # fmt: skip
        assert names[-3:] == ["numpy", "OpenVINO f32", "OpenVINO bf16"]
        for row in case["contestants"]:
            assert len(row["samples_ms"]) == 9
            if row["name"] != "OpenVINO bf16":
                assert row["labels_differing"] <= 2, row["name"]
    assert [len(case["matmul"]) for case in content["cases"]] == [0, 0, 2]
    page = decode_table.page(content)
    assert "## bilinear, aligned corners x2, streets" in page
    assert page.count("GFLOP/s") == 1


def test_the_page_of_decode_is_that_of_its_result():
    decode_table.PAGE.update(ROOT / "benchmarks" / "DECODE.md", [SPEED], check=True)
    content = decode_table.read_result(SPEED)
    assert content["command"].startswith("python -m edgeseg.benchmarks.decode_speed ")
    assert content["machine"]["cpu"]


def test_a_file_that_is_no_result(tmp_path: Path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="is no result of the speed of decode: 'title' is missing"):
        decode_table.read_result(tmp_path / "other.json")
