"""`edgeseg data check` and `edgeseg data show`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.cli import main
from edgeseg.dataset import list_frames, read_image
from edgeseg.dataset.check import count_contents

pytestmark = pytest.mark.unit


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Two frames of 2x4 pixels: in the first a sky, a building and two void pixels; else road."""
    root = tmp_path / "camvid"
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    for name, row in (("0001TP_1", (0, 1, 11, 11)), ("0006R0_1", (3, 3, 3, 3))):
        labels = np.full((2, 4), 3, np.uint8)
        labels[0] = row
        Image.fromarray(labels).save(root / "trainannot" / f"{name}.png")
        Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(root / "train" / f"{name}.png")
    return root


def test_contents_are_counted_by_hand(camvid: Path) -> None:
    steps: list[tuple[int, int]] = []
    contents = count_contents(
        list_frames(f"camvid:{camvid}", "train"), lambda *step: steps.append(step)
    )
    # 16 pixels: 1 sky, 1 building, 2 void, 12 road.
    assert (contents.share(0), contents.share(3), contents.share(255)) == (6.25, 75.0, 12.5)
    assert contents.frames[[0, 1, 3, 255]].tolist() == [1, 1, 2, 1]
    assert dict(contents.sizes) == {(2, 4): 2}
    assert steps == [(1, 2), (2, 2)]


def test_check_prints_shares_and_classes_in_no_frame(
    camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", f"camvid:{camvid}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"camvid:{camvid} train: 2 frames, 2x4"
    assert lines[2].split() == ["class", "pixels", "%", "in", "frames"]
    assert lines[3].split()[:3] == ["sky", "6.25", "1"]
    assert lines[6].split() == ["road", "75.00", "2", 24 * "█"]
    assert lines[14].split()[:3] == ["void", "12.50", "1"]
    assert lines[16].startswith("in no frame: pole, pavement, tree")
    assert lines[-1] == "no problems found"


def test_check_finds_all_problems_and_ends_with_2(
    camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((2, 4), 12, np.uint8)).save(camvid / "trainannot" / "0001TP_1.png")
    (camvid / "train" / "0006R0_1.png").write_bytes(b"broken")
    (camvid / "trainannot" / "lone.png").write_bytes(b"")
    assert main(["data", "check", f"camvid:{camvid}"]) == 2
    out = capsys.readouterr().out
    assert f"camvid:{camvid} train: 0 frames\n" in out
    assert "in no frame" not in out
    tail = out[out.index("3 problems:") :].splitlines()
    assert tail[1] == f"  {camvid / 'trainannot' / 'lone.png'}: label file without an image"
    assert "0001TP_1.png: holds label id 12, which the class table does not have" in tail[2]
    assert "0006R0_1.png: broken or unknown image" in tail[3]


def test_check_lists_the_sizes(camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        for folder, shape in (("train", (3, 4 + i, 3)), ("trainannot", (3, 4 + i))):
            Image.fromarray(np.zeros(shape, np.uint8)).save(camvid / folder / f"x{i}.png")
    assert main(["data", "check", f"camvid:{camvid}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith("8 frames, 2 of 2x4, 1 of 3x4, 1 of 3x5, 1 of 3x6, 3 more sizes")


def test_check_writes_json(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    assert main(["data", "check", f"camvid:{camvid}", "--json", str(file)]) == 0
    assert "no problems found" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert (content["data"], content["split"], content["frames"]) == (
        f"camvid:{camvid}",
        "train",
        2,
    )
    assert content["sizes"] == {"2x4": 2}
    assert content["classes"][3] == {"name": "road", "pixels_percent": 75.0, "frames": 2}
    assert content["void"] == {"pixels_percent": 12.5, "frames": 1}
    assert content["problems"] == []
    assert main(["data", "check", f"camvid:{camvid}", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_show_puts_frames_beside_labels_over_a_legend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    source = "synthetic:size=64x128,count=9"
    assert main(["data", "show", source, "--count", "4", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 4 frames of {source} train\n"
    height, width, _ = read_image(out).shape
    assert width > 2 * 2 * 128
    assert height > 2 * 64 + 20


def test_show_makes_wide_frames_smaller(camvid: Path, tmp_path: Path) -> None:
    for folder, shape in (("train", (20, 2000, 3)), ("trainannot", (20, 2000))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(camvid / folder / "0006R0_1.png")
    out = tmp_path / "sheet.jpg"
    assert main(["data", "show", f"camvid:{camvid}", "--out", str(out)]) == 0
    assert 1280 <= read_image(out).shape[1] < 1400


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "synthetic:count=1", "--out", "x.gif"], "unknown image suffix '.gif'"),
        (["show", "synthetic:count=1", "--out", "x.png", "--count", "0"], "no positive integer"),
        (["show", "synthetic:count=1"], "--out"),
        (["check", "camvit:x"], "Did you mean 'camvid'?"),
        ([], "check|show"),
    ],
)
def test_what_is_typed_wrong_ends_with_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["data", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
