"""The benchmark of preparation, on small frames, with a double of OpenCV."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgeseg.benchmarks import prepare_speed
from edgeseg.errors import EngineError
from edgeseg.frame import place
from edgeseg.runtime import prepare_native

pytestmark = pytest.mark.rooms


def double() -> SimpleNamespace:
    """Enough of cv2: colours stay, sizes and borders are right."""
    return SimpleNamespace(
        __version__="double", COLOR_BGR2RGB=0, COLOR_YUV2RGB_NV12=1, COLOR_YUV2RGB_YUY2=2,
        COLOR_GRAY2RGB=3, INTER_AREA=0, INTER_LINEAR=1, BORDER_CONSTANT=0,
        setNumThreads=lambda _: None,
        cvtColor=lambda frame, code: frame[..., ::-1] if code == 0 else frame,
        resize=lambda _, size, interpolation: np.zeros((size[1], size[0], 3), np.uint8),
        copyMakeBorder=lambda frame, top, bottom, left, right, _, value: np.pad(
            frame, ((top, bottom), (left, right), (0, 0))
        ),
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch) -> None:
    if not prepare_native.available():
        pytest.skip("prepare.c was not compiled: there was no C compiler")
    monkeypatch.setattr(prepare_speed, "CAMERAS", ((32, 48),))
    monkeypatch.setattr(prepare_speed, "NETWORK", (16, 32))
    monkeypatch.setattr(prepare_speed, "CORES", 2)


def test_all_take_part(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_speed, "opencv", double)
    assert prepare_speed.main([str(tmp_path / "speed.json"), "--rounds", "9"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "to 16x32, fit pad, RGB; OpenCV double"
    assert len(said) == 6
    content = json.loads((tmp_path / "speed.json").read_text())
    assert [case["format"] for case in content["cases"]] == ["rgb", "bgr", "nv12", "yuyv", "grey"]
    for case in content["cases"]:
        rows = {row["name"]: row for row in case["contestants"]}
        first = f"native {prepare_native.available()[0]}, 2 threads"
        assert next(iter(rows)) == first
        assert rows[first]["largest_difference"] == 0
        assert len(rows[first]["samples_ms"]) == 9
        assert len(rows["numpy"]["samples_ms"]) == 2
        assert rows["OpenCV, 1 thread"]["largest_difference"] > 0, "the double's frames are black"


def test_without_opencv_it_is_said(small, monkeypatch, capsys):
    monkeypatch.setattr(prepare_speed, "opencv", lambda: None)
    assert prepare_speed.main(["--rounds", "1"]) == 0
    said = capsys.readouterr().out
    assert "OpenCV is not here: pip install opencv-python-headless" in said
    assert "OpenCV, " not in said


def test_without_the_library_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(prepare_native, "available", lambda: ())
    with pytest.raises(EngineError, match=r"prepare\.c was not compiled; install a C compiler"):
        prepare_speed.main([])


def test_opencv_makes_an_image_of_the_networks_size():
    placement = place((32, 48), (16, 32), "pad")
    made = prepare_speed.in_opencv(double(), "bgr", np.zeros((32, 48, 3), np.uint8), placement)
    assert made.shape == (16, 32, 3)


def test_a_line_has_ratios_to_the_first():
    rows = [
        {"name": "ours", "largest_difference": 0, "samples_ms": [2.0, 1.0, 3.0]},
        {"name": "theirs", "largest_difference": 4, "samples_ms": [5.0]},
    ]
    case = {"format": "bgr", "camera": [720, 1280], "contestants": rows}
    assert prepare_speed.line_of(case) == (
        "bgr    720x1280  ours 2.00 ms, fastest 1.00 (1.00, bytes 0 apart); "
        "theirs 5.00 ms, fastest 5.00 (5.00, bytes 4 apart)"
    )
