"""`edgeseg run`: images, videos, cameras; overlays; Ctrl-C; bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from engine_folders import (
    MANIFEST,
    TABLE,
    expected,
    fake_folder,
    onnxruntime_folder,
)

import edgeseg.video
from edgeseg import picture, playback
from edgeseg.bundle import Gate
from edgeseg.cli import main
from edgeseg.dataset import read_ids, read_image
from edgeseg.errors import DataError, EngineError, UsageError
from edgeseg.frame import resize_image, resize_labels
from edgeseg.runtime import engine_fake
from edgeseg.video import Video, VideoWriter, open_video

pytestmark = pytest.mark.rooms

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


def street(value: int, size: tuple[int, int] = (64, 128)) -> np.ndarray:
    """Three stripes, the first `value` pixels wide: red, green, blue."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = COLOURS[2]
    image[:, : size[1] // 2 + value] = COLOURS[1]
    image[:, : 8 + value] = COLOURS[0]
    return image


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(onnxruntime_folder(tmp_path / "engine").folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    for i in range(4):
        picture.save_image(path / f"{i}.png", street(i))
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "drive.mp4"
    with VideoWriter(path, ".mp4", Fraction(30000, 1001), (64, 128)) as writer:
        for i in range(12):
            writer.write(street(i))
    return path


def test_images_to_a_folder(folder: str, images: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(["run", folder, "--source", str(images), "--out", str(out)]) == 0
    assert sorted(p.name for p in (out / "overlay").iterdir()) == [f"{i}.jpg" for i in range(4)]
    for i in range(4):
        labels = read_ids(out / "labels" / f"{i}.png")
        assert labels.shape == (64, 128)
        assert labels[32, 2] == 0
        assert labels[32, 40] == 1
        assert labels[32, 120] == 2
        assert read_image(out / "overlay" / f"{i}.jpg").shape == (64, 128, 3)
    assert (out / "legend.png").exists()
    assert "4 frames" in capsys.readouterr().out


def test_a_folder_that_has_things_in_it_is_refused(
    folder: str, images: Path, tmp_path: Path, capsys
):
    assert main(["run", folder, "--source", str(images), "--out", str(images)]) == 2
    assert "is there already; give a new or empty folder" in capsys.readouterr().err
    assert len(list(images.iterdir())) == 4
    (tmp_path / "file").write_text("mine")
    line = ["run", folder, "--source", str(images), "--out", str(tmp_path / "file")]
    assert main(line) == 2
    assert "file is a file; --out expects a folder" in capsys.readouterr().err


def test_one_image_to_one_image(folder: str, images: Path, tmp_path: Path):
    out = tmp_path / "overlay.png"
    source = str(images / "2.png")
    assert main(["run", folder, "--source", source, "--out", str(out), "--plain"]) == 0
    drawn = read_image(out)
    assert drawn.shape == (64, 128, 3)
    half = (street(2)[32, 2].astype(int) + TABLE.palette[0] + 1) // 2
    assert drawn[32, 2].tolist() == half.tolist()


def test_many_images_to_one_image_are_refused(folder: str, images: Path, tmp_path: Path, capsys):
    out = tmp_path / "overlay.png"
    assert main(["run", folder, "--source", str(images), "--out", str(out)]) == 2
    assert "is one image; give a folder or a video (.mp4)" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_video_to_video(folder: str, video: Path, tmp_path: Path, suffix: str):
    out, answer = tmp_path / f"overlay{suffix}", tmp_path / "out.json"
    typed = ["run", folder, "--source", str(video), "--out", str(out), "--plain"]
    assert main([*typed, "--json", str(answer)]) == 0
    made = open_video(out)
    assert made.rate == pytest.approx(Fraction(30000, 1001), rel=1e-3)
    frames = list(made.frames)
    assert len(frames) == 12
    for i, frame in enumerate(frames):
        assert frame.shape == (64, 128, 3)
        mixed = (street(i).astype(int) + picture.colourise(expected(street(i)), TABLE)) / 2
        assert np.abs(frame[:, 20:50] - mixed[:, 20:50]).mean() < 12
    content = json.loads(answer.read_text())
    assert content["frames"] == 12
    assert content["dropped"] == 0
    assert content["target"] == "onnxruntime"
    assert content["stages_ms"]["engine"]["n"] == 12
    assert content["stages_ms"]["engine"]["p50"] is None  # too few samples for a percentile
    assert set(content["stages_ms"]) == {"prepare", "engine", "decode", "total"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["drive.mp4", "engine", out.name, "out.json"]
    )


def test_the_legend_is_below_the_frame_and_sides_are_even(folder: str, tmp_path: Path):
    source = tmp_path / "odd.png"
    picture.save_image(source, street(0, (63, 127)))
    out = tmp_path / "overlay.mp4"
    assert main(["run", folder, "--source", str(source), "--out", str(out)]) == 0
    (frame,) = open_video(out).frames
    assert frame.shape[0] > 64
    assert frame.shape[0] % 2 == 0
    assert frame.shape[1] == 128


def test_limit_and_rate(folder: str, video: Path, tmp_path: Path):
    out = tmp_path / "o.mp4"
    typed = ["run", folder, "--source", str(video), "--out", str(out), "--limit", "5"]
    assert main([*typed, "--frames-per-second", "5"]) == 0
    made = open_video(out)
    assert made.rate == 5
    assert len(list(made.frames)) == 5


def test_images_of_several_sizes_make_no_video(folder: str, images: Path, tmp_path: Path, capsys):
    picture.save_image(images / "9.png", street(0, (32, 64)))
    out = tmp_path / "o.mp4"
    assert main(["run", folder, "--source", str(images), "--out", str(out), "--plain"]) == 2
    assert "frame 4 is 32x64, the video is 64x128; give --out a folder" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob(".o.mp4*"))
    assert main(["run", folder, "--source", str(images), "--out", str(tmp_path / "dir")]) == 0


def test_without_out_it_only_times(folder: str, images: Path, capsys):
    assert main(["run", folder, "--source", str(images), "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["frames"] == 4
    assert content["out"] is None


def test_names_that_differ_in_the_suffix_only(folder: str, tmp_path: Path):
    for name in ("a.png", "a.jpg", "b.png"):
        picture.save_image(tmp_path / "images" / name, street(0))
    out = tmp_path / "out"
    assert main(["run", folder, "--source", str(tmp_path / "images"), "--out", str(out)]) == 0
    assert sorted(p.stem for p in (out / "labels").iterdir()) == ["a_jpg", "a_png", "b"]


# Cameras: a generator that does not wait stands for one.


def use_camera(monkeypatch, frames) -> None:
    camera = Video(iter(frames), Fraction(30), None)
    monkeypatch.setattr(edgeseg.video, "open_camera", lambda number: camera)


def test_a_fast_camera_is_dropped_and_told(tmp_path: Path, monkeypatch, capsys):
    def slow(images: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return expected(images)

    def camera():
        for i in range(60):
            time.sleep(0.002)
            yield street(i % 4)

    monkeypatch.setattr(engine_fake, "_all_zero", slow)
    use_camera(monkeypatch, camera())
    folder = str(fake_folder(tmp_path / "fake").folder)
    out, answer = tmp_path / "o.mp4", tmp_path / "out.json"
    typed = ["run", folder, "--source", "camera:0", "--out", str(out), "--json", str(answer)]
    assert main(typed) == 0
    content = json.loads(answer.read_text())
    assert content["dropped"] > 10
    assert content["dropped"] + content["frames"] == 60
    made = open_video(out)
    assert made.count == content["frames"]
    assert f"{content['dropped']} frames of the camera were dropped" in capsys.readouterr().out


def test_a_cameras_overlay_plays_at_the_cameras_pace(tmp_path: Path, monkeypatch):
    def camera():
        for i in range(6):
            yield street(i)
            time.sleep(0.1)

    use_camera(monkeypatch, camera())
    folder, out = str(fake_folder(tmp_path / "fake").folder), tmp_path / "o.mp4"
    assert main(["run", folder, "--source", "camera:0", "--out", str(out)]) == 0
    assert float(open_video(out).rate) == pytest.approx(10, rel=0.3)


def test_limit_ends_a_camera(tmp_path: Path, monkeypatch):
    use_camera(monkeypatch, (street(0) for _ in itertools.count()))
    folder, answer = str(fake_folder(tmp_path / "fake").folder), tmp_path / "out.json"
    typed = ["run", folder, "--source", "camera:0", "--limit", "7", "--json", str(answer)]
    assert main(typed) == 0
    content = json.loads(answer.read_text())
    assert content["frames"] + content["dropped"] == 7


def test_a_camera_that_fails_is_opened_again(tmp_path: Path, monkeypatch):
    def unplugged():
        yield street(0)
        raise DataError("camera:0: gone")

    cameras = [unplugged(), iter([street(1)])]
    opened = lambda number: Video(cameras.pop(0), Fraction(30), None)  # noqa: E731
    monkeypatch.setattr(edgeseg.video, "open_camera", opened)
    folder, answer = str(fake_folder(tmp_path / "fake").folder), tmp_path / "out.json"
    assert main(["run", folder, "--source", "camera:0", "--json", str(answer)]) == 0
    content = json.loads(answer.read_text())
    assert content["frames"] + content["dropped"] == 2
    assert cameras == []


def test_a_missing_camera(folder: str, capsys):
    assert main(["run", folder, "--source", "camera:97"]) == 2
    assert "camera:97: no such camera (/dev/video97)" in capsys.readouterr().err


def test_a_camera_that_is_no_number(folder: str, capsys):
    assert main(["run", folder, "--source", "camera:front"]) == 2
    assert "'front' is no camera number; type camera:0" in capsys.readouterr().err


# Ctrl-C


def typed_in_a_process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgeseg", "run", *arguments]


def test_ctrl_c_leaves_a_playable_overlay(folder: str, tmp_path: Path):
    source, out = tmp_path / "images", tmp_path / "o.mp4"
    for i in range(400):
        picture.save_image(source / f"{i:03}.png", street(i % 40))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        typed_in_a_process(folder, "--source", str(source), "--out", str(out)),
        stdout=subprocess.PIPE, stderr=follower, text=True,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while b" fps, p50 prepare" not in shown:  # the live line: it works
        shown += os.read(leader, 1000)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    os.close(leader)
    assert process.returncode == 130
    assert "interrupted" in printed
    frames = int(re.search(r"(\d+) frames, ", printed).group(1))
    assert 0 < frames < 400
    assert len(list(open_video(out).frames)) == frames
    assert not list(tmp_path.glob(".o.mp4*"))


def test_ctrl_c_before_the_first_frame_leaves_nothing(tmp_path: Path, monkeypatch, capsys):
    def camera():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(0.6)
        yield street(0)

    use_camera(monkeypatch, camera())
    folder, out = str(fake_folder(tmp_path / "fake").folder), tmp_path / "o.mp4"
    assert main(["run", folder, "--source", "camera:0", "--out", str(out)]) == 130
    assert "interrupted" in capsys.readouterr().out
    assert not out.exists()
    assert not list(tmp_path.glob(".o.mp4*"))


def test_nothing_is_shown_when_it_is_no_terminal(folder: str, images: Path, capsys):
    assert main(["run", folder, "--source", str(images)]) == 0
    assert capsys.readouterr().err == ""


# Bad input


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--source", "nothing.mp4"], "--source nothing.mp4: no such file or folder"),
        (["--source", "{images}", "--opacity", "2"], "--opacity is 2; expected a number"),
        (["--source", "{images}", "--out", "o.avi"], "unknown video suffix '.avi'; expected .mp4"),
        (["--source", "{images}", "--frames-per-second", "x"], "'x' is no number of frames per"),
        (["--source", "{images}", "--frames-per-second", "0"], "expected from 0.01 to 1000"),
        (["--source", "{images}", "--limit", "0"], "'0' is no positive integer"),
        (["--source", "{broken}"], "broken or unknown image"),
        (["--source", "{text}"], "is no video that FFmpeg can read"),
        (["--source", "{empty}"], "holds no images (.png"),
    ],
)
def test_bad_input_is_one_line(typed, said, folder: str, images: Path, tmp_path: Path, capsys):
    broken, text, empty = tmp_path / "broken", tmp_path / "text.mp4", tmp_path / "empty"
    broken.mkdir()
    empty.mkdir()
    (broken / "a.png").write_bytes((images / "0.png").read_bytes()[:60])
    text.write_text("no video")
    places = {"images": images, "broken": broken, "text": text, "empty": empty}
    arguments = [word.format(**places) for word in typed]
    try:
        code = main(["run", folder, *arguments])
    except SystemExit as left:  # argparse
        code = left.code
    shown = capsys.readouterr().err
    assert code == 2
    assert said in shown
    assert len(shown.strip().splitlines()) == 1


def test_a_truncated_video_is_told_with_its_frame(folder: str, tmp_path: Path, capsys):
    whole = tmp_path / "whole.mkv"
    random = np.random.default_rng(0)
    with VideoWriter(whole, ".mkv", Fraction(10), (64, 64)) as writer:
        for _ in range(20):
            writer.write(random.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    content = bytearray(whole.read_bytes())
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[:40])
    assert main(["run", folder, "--source", str(cut)]) == 2
    assert "cut.mp4: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "network.onnx"])
def test_what_is_no_engine_folder(name: str, images: Path, tmp_path: Path, capsys):
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"onnx")
    assert main(["run", str(path), "--source", str(images)]) == 2
    said = capsys.readouterr().err
    assert "engine folder" in said
    assert f"edgeseg export {path} " in said


def test_a_file_is_no_engine_folder(video: Path, images: Path, capsys):
    assert main(["run", str(video), "--source", str(images)]) == 2
    assert "drive.mp4 is a file; FOLDER is an engine folder" in capsys.readouterr().err


def test_real_frames(camvid: Path, tmp_path: Path):
    spec = dataclasses.replace(MANIFEST.input, size=(180, 240))
    folder = str(onnxruntime_folder(tmp_path / "engine", input=spec).folder)
    out = tmp_path / "out"
    typed = ["run", folder, "--source", str(camvid / "val"), "--limit", "2", "--out", str(out)]
    assert main(typed) == 0
    paths = sorted((out / "labels").iterdir())
    assert len(paths) == 2
    for path in paths:
        frame = read_image(camvid / "val" / path.name)
        low = expected(resize_image(frame, (180, 240)))
        assert np.array_equal(read_ids(path), resize_labels(low, (360, 480)))


def test_a_checkpoint_is_told_how_to_become_an_engine(images: Path, tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", kind="checkpoint", gate=None).folder
    assert main(["run", str(folder), "--source", str(images)]) == 2
    said = capsys.readouterr().err
    assert "is a checkpoint. Make an engine folder of it: edgeseg export" in said


def test_a_model_without_engine(images: Path, tmp_path: Path, capsys):
    folder = fake_folder(tmp_path / "model", target=None).folder
    assert main(["run", str(folder), "--source", str(images)]) == 2
    assert "is a model without an engine" in capsys.readouterr().err


def test_an_ungated_folder_needs_the_word(images: Path, tmp_path: Path, capsys):
    folder = str(fake_folder(tmp_path / "model", gate=Gate("not run")).folder)
    assert main(["run", folder, "--source", str(images)]) == 2
    assert "gate: not run" in capsys.readouterr().err
    assert main(["run", folder, "--source", str(images), "--allow-ungated"]) == 0


def test_without_pyav_it_says_what_to_type(folder: str, video: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "edgeseg.video")
    assert main(["run", folder, "--source", str(video)]) == 2
    said = capsys.readouterr().err
    assert said == "edgeseg: video needs 'av'. Install it: pip install 'edgeseg[video]'\n"


def test_a_full_disk_while_encoding(folder: str, video: Path, tmp_path: Path):
    """A limit on file size stands for the full disk: one line, code 2, no half file."""
    out = tmp_path / "o.mp4"
    program = (
        "import resource, signal, sys; from edgeseg.cli import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", folder, "--source", str(video), "--out", str(out)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "o.mp4" in done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert not list(tmp_path.glob(".o.mp4*"))


# The library below the verb


def test_phone_videos_are_turned_upright():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(edgeseg.video._upright(image, 0), image)
    assert np.array_equal(edgeseg.video._upright(image, 90), np.rot90(image))
    assert np.array_equal(edgeseg.video._upright(image, -90), np.rot90(image, 3))
    assert edgeseg.video._upright(image, 90).flags.c_contiguous


def test_frames_have_their_own_memory(video: Path):
    first, second, *_ = open_video(video).frames
    assert not np.shares_memory(first, second)


def test_colours_survive_a_video(video: Path):
    first = next(open_video(video).frames)
    for x, colour in ((3, COLOURS[0]), (40, COLOURS[1]), (100, COLOURS[2])):
        assert np.abs(first[32, x].astype(int) - colour).max() < 12


def test_colours_are_written_as_bt_709(tmp_path: Path):
    """Luma of (220, 40, 40): 16 + 219/255 * (0.2126 * 220 + 0.7152 * 40 + 0.0722 * 40) = 83."""
    path = tmp_path / "red.mp4"
    with VideoWriter(path, ".mp4", Fraction(5), (64, 64)) as writer:
        writer.write(np.full((64, 64, 3), COLOURS[0], np.uint8))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert abs(int(frame.to_ndarray()[32, 32]) - 83) <= 2
    assert frame.colorspace == edgeseg.video.BT709


@pytest.mark.parametrize(("live", "times"), [(False, [0, 0.2, 0.4, 0.6]), (True, [0, 1, 2, 3])])
def test_only_a_cameras_overlay_keeps_when_frames_came(live: bool, times, tmp_path: Path):
    """One a second; a video's frames that take so long to segment still last a fifth of one."""
    path = tmp_path / "o.mp4"
    with VideoWriter(path, ".mp4", Fraction(5), (64, 64), live) as writer:
        for second in range(4):
            writer.write(np.zeros((64, 64, 3), np.uint8), second)
    with av.open(str(path)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times)


def test_a_missing_video(tmp_path: Path):
    with pytest.raises(DataError, match="no such video"):
        open_video(tmp_path / "no.mp4")


def test_without_an_encoder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(edgeseg.video, "ENCODERS", {"nothing": {}})
    with pytest.raises(EngineError, match="this FFmpeg has no encoder of nothing"):
        VideoWriter(tmp_path / "o.mp4", ".mp4", Fraction(5), (4, 4))


def test_mpeg4_where_there_is_no_h264(tmp_path: Path, monkeypatch):
    options = edgeseg.video.ENCODERS["mpeg4"]
    monkeypatch.setattr(edgeseg.video, "ENCODERS", {"mpeg4": options})
    with VideoWriter(tmp_path / "o.mp4", ".mp4", Fraction(30000, 1001), (64, 128)) as writer:
        for i in range(5):
            writer.write(street(i))
    assert len(list(open_video(tmp_path / "o.mp4").frames)) == 5


def test_a_folder_with_a_videos_suffix(images: Path, tmp_path: Path):
    (tmp_path / "o.mp4").mkdir()
    source = playback.open_source(str(images))
    with pytest.raises(UsageError, match=r"o\.mp4 is a folder"):
        playback.open_sink(str(tmp_path / "o.mp4"), source, playback.Drawing(TABLE))
