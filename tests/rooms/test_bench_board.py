"""`edgeseg bench` as a board and a robot use it: ready folders, no onnx, a camera, a long run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_folders import TABLE, fake_folder
from PIL import Image

from edgeseg.benchmarks.pacing import Pace
from edgeseg.cli import bench as verb
from edgeseg.cli import main

pytestmark = pytest.mark.rooms


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    """`bench` of a folder for the fake engine, on two val frames in its classes."""
    root = tmp_path / "data"
    for kind, value in (("images", 90), ("masks", 1)):
        (root / kind).mkdir(parents=True)
        for i in range(2):
            shape = (8, 16, 3) if kind == "images" else (8, 16)
            Image.fromarray(np.full(shape, value, np.uint8)).save(root / kind / f"{i}.png")
    classes = "".join(
        f'[[classes]]\nname = "{name}"\ncolour = {list(colour)}\n'
        for name, colour in zip(TABLE.names, TABLE.palette, strict=True)
    )
    (root / "dataset.toml").write_text(
        f'images = "images"\nmasks = "masks"\n{classes}[splits]\nval = "*"\n'
    )
    folder = fake_folder(tmp_path / "engine").folder
    return [
        "bench", str(folder), "--data", f"folder:{root}", "--out", str(tmp_path / "out"),
        "--samples", "20", "--seconds", "0", "--json", str(tmp_path / "out.json"),
    ]  # fmt: skip


BARE = """
import sys
for name in ("onnx", "torch", "onnxruntime", "openvino", "onnxscript", "safetensors"):
    sys.modules[name] = None
from edgeseg.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_board_needs_neither_onnx_nor_torch(typed: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", BARE, *typed], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert row["latency_ms"]["n"] >= 20
    assert row["miou"] == 0  # the fake says red, all is green
    assert (tmp_path / "out" / "report.html").exists()


def test_a_camera_and_a_long_run(typed: list[str], tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("edgeseg.benchmarks.soak.SHORTEST", 0.5)
    assert main([*typed, "--fps", "100", "--deadline-ms", "8", "--soak", "1s"]) == 0
    said = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    pace, soak = row["pace"], row["soak"]
    assert pace["frames"] == row["latency_ms"]["n"] + pace["lost"]
    assert (
        f"brightest fake fp32 8x16: {pace['missed']} of {pace['frames']} frames missed 8 ms at "
        f"100 fps ({pace['late']} late, {pace['lost']} lost), jitter p50 "
    ) in said
    assert f"soak of {soak['seconds']:.0f} s: " in said
    assert 80 < soak["calls"] + soak["pace"]["lost"] < 130  # a second of 100 frames
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="board"' in page
    assert 'id="soak"' in page


def test_a_throttled_row_is_exit_1_and_a_sentence(typed: list[str], capsys, monkeypatch):
    from edgeseg.pipeline import bench as pipeline

    real = pipeline.measure_in_process

    def hot(job: object) -> dict:
        row = real(job)
        row["timing"]["throttled"] = ["gpu-throttle-alert held it back in 3 of 9 readings"]
        return row

    monkeypatch.setattr(pipeline, "measure_in_process", hot)
    assert main(typed) == 1
    assert (
        "edgeseg: Not clean: the machine slowed itself down while it was timed (gpu-throttle"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--deadline-ms", "33"], "--deadline-ms is for frames of a camera: give --fps too"),
        (["--fps", "0"], "--fps is 0; expected frames a second"),
        (["--fps", "30", "--deadline-ms", "0"], "--deadline-ms is 0; expected more than 0"),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(typed, more, said, capsys):
    assert main([*typed, *more]) == 2
    assert said in capsys.readouterr().err


def test_a_soak_that_is_too_short_is_refused(typed, capsys):
    with pytest.raises(SystemExit):
        main([*typed, "--soak", "2s"])
    assert "--soak 2s is too short to tell drift from chance" in capsys.readouterr().err


def test_the_deadline_is_the_period_unless_given():
    def paced(*words: str) -> Pace | None:
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        return verb._pace(parser.parse_args(["m", "--data", "d", "--out", "o", *words]))

    assert paced() is None
    assert paced("--fps", "25") == Pace(25, 40)
    assert paced("--fps", "30", "--deadline-ms", "33") == Pace(30, 33)


def test_energy_is_told():
    row = {
        "model": "net", "target": "tensorrt", "precision": "int8", "size": [256, 512],
        "power": {"total_w": {"mean": 8.25}, "energy_mj_per_frame": 82.5},
    }  # fmt: skip
    assert verb.findings(row) == "net tensorrt int8 256x512: 8.25 W, 82.5 mJ a frame"
    assert verb.findings({**row, "power": None}) == ""
