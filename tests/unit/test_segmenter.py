"""Frames in, labels out, with an engine whose answers are known."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from engine_folders import MANIFEST, SIZE, TABLE, expected, fake_folder, onnxruntime_folder

import edgeseg
from edgeseg.bundle import Bundle, Gate, InputSpec, OutputSpec, Target
from edgeseg.errors import BundleError, EngineError, FrameError, UsageError
from edgeseg.runtime import engine as engines
from edgeseg.runtime.engine import open_engine
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter, Stages, load

pytestmark = pytest.mark.unit


def segmenter(**options) -> Segmenter:
    return Segmenter.of(FakeEngine(answer=expected), TABLE, **{"size": SIZE, **options})


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_labels_have_the_frames_size():
    frame = noise(*SIZE)
    labels = segmenter().segment(frame)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected(frame))
    assert segmenter().segment(noise(30, 41)).shape == (30, 41)


def test_the_order_of_the_callers_frames_is_respected():
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[..., 0] = 200  # red for one, blue for the other
    assert (segmenter(frames="rgb").segment(frame) == 0).all()
    assert (segmenter(frames="bgr").segment(frame) == 2).all()
    assert (segmenter(frames="bgr", order="bgr").segment(frame) == 0).all()


def test_the_fit_of_the_manifest_is_used():
    """A 4x4 frame in 8x16: padded, the network sees it 8x8 between black bars."""
    seen = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return expected(images)

    frame = np.full((4, 4, 3), 100, np.uint8)
    for fit, columns in (("pad", 8), ("stretch", 16), ("crop", 16)):
        opened = Segmenter.of(FakeEngine(answer=watch), TABLE, size=SIZE, fit=fit)
        labels = opened.segment(frame)
        assert seen[-1].shape == (1, *SIZE, 3)
        assert (seen[-1][0, 0, :, 0] == 100).sum() == columns
        assert (labels == 255).sum() == (8 if fit == "crop" else 0)


def test_labels_at_the_network():
    frame = noise(4, 4)
    labels = segmenter().segment(frame, at="network")
    assert labels.shape == SIZE
    out = np.zeros(SIZE, np.uint8)
    assert segmenter().segment(frame, out, at="network") is out
    assert np.array_equal(out, labels)


def test_out_is_written_and_returned():
    frame, out = noise(5, 7), np.full((5, 7), 99, np.uint8)
    opened = segmenter()
    assert opened.segment(frame, out) is out
    assert np.array_equal(out, opened.segment(frame))


def test_an_out_that_can_not_be_written():
    frame, out = noise(5, 7), np.full((5, 7), 9, np.uint8)
    out.flags.writeable = False
    with pytest.raises(FrameError, match="out is read-only; expected an array that may be"):
        segmenter().segment(frame, out)
    with pytest.raises(FrameError, match=r"out is a list; expected a numpy array of shape"):
        segmenter().segment(frame, [[0] * 7] * 5)  # type: ignore[arg-type]
    assert (out == 9).all()


@pytest.mark.parametrize("out", [np.zeros((5, 8), np.uint8), np.zeros((5, 7), np.int64)])
@pytest.mark.parametrize("at", ["frame", "network"])
def test_an_out_that_does_not_fit(out, at):
    with pytest.raises(FrameError, match=r"out is .*; expected uint8 of shape"):
        segmenter().segment(noise(5, 7), out, at=at)


def test_labels_are_the_callers_own():
    opened = segmenter()
    frame = noise(*SIZE)
    first = opened.segment(frame)
    kept = first.copy()
    second = opened.segment(255 - frame)
    assert not np.shares_memory(first, second)
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(opened.segment(frame), kept)


def test_scores_are_decoded(tmp_path: Path):
    """Scores at half the size: the first class wins on the left, the last one on the right."""

    def scores(images: np.ndarray) -> np.ndarray:
        made = np.zeros((1, 3, 4, 8), np.float32)
        made[:, 0, :, :4] = made[:, 2, :, 4:] = 1
        return made

    spec = OutputSpec("scores", 2, "bilinear", 2)
    bundle = Bundle(tmp_path, dataclasses.replace(MANIFEST, output=spec))
    labels = Segmenter(FakeEngine(answer=scores), bundle, frames="rgb").segment(noise(*SIZE))
    assert labels.tolist() == [[0] * 8 + [2] * 8] * 8


def test_a_deconvolution_is_read_from_the_folder(tmp_path: Path):
    """Kernel 2x2: its upper row says class 0, its lower row class 1."""
    weight = np.zeros((1, 3, 2, 2), np.float32)
    weight[0, 0, 0] = weight[0, 1, 1] = 1
    np.savez(tmp_path / "decode.npz", weight=weight, bias=np.zeros(3, np.float32))
    spec = OutputSpec("scores", 2, "deconvolution", 2)
    manifest = dataclasses.replace(MANIFEST, output=spec, files={"decode.npz": ""})
    fake = FakeEngine(answer=lambda images: np.ones((1, 1, 4, 8), np.float32))
    labels = Segmenter(fake, Bundle(tmp_path, manifest), frames="rgb").segment(noise(*SIZE))
    assert labels[:, 0].tolist() == [0, 1] * 4


def test_stages_are_milliseconds_of_the_call():
    labels, stages = segmenter().timed(noise(*SIZE))
    assert labels.shape == SIZE
    assert min(stages.prepare, stages.engine, stages.decode) >= 0
    assert Stages(1.0, 2.0, 4.0).total == 7.0


def test_a_network_of_any_size():
    spec = InputSpec("rgb", (0.0,) * 3, (1.0,) * 3, size=None)
    bundle = Bundle(Path(), dataclasses.replace(MANIFEST, input=spec))
    opened = Segmenter(FakeEngine(answer=expected), bundle, frames="rgb")
    for size in ((5, 7), (8, 3)):
        assert np.array_equal(opened.segment(noise(*size)), expected(noise(*size)))


def test_several_threads_share_one():
    opened, answers = segmenter(), {}
    sizes = [(6 + i, 9 + i) for i in range(8)]

    def work(index: int) -> None:
        for _ in range(20):
            answers[index] = opened.segment(noise(*sizes[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for index, size in enumerate(sizes):
        assert np.array_equal(answers[index], segmenter().segment(noise(*size)))


# Refusals


def test_what_is_no_frame():
    with pytest.raises(FrameError, match="frame is a list"):
        segmenter().segment([[0]])
    with pytest.raises(ValueError, match="frame is float64"):
        segmenter().segment(np.zeros((4, 4, 3)))


def test_an_unknown_place_for_labels():
    with pytest.raises(UsageError, match="at is 'input'; expected one of frame, network"):
        segmenter().segment(noise(4, 4), at="input")


def test_an_unknown_order_of_frames():
    with pytest.raises(UsageError, match=r"unknown format of frames 'yuv'. Did you mean 'yuyv'"):
        segmenter(frames="yuv")


def test_a_closed_one_refuses_frames():
    with segmenter() as opened:
        opened.segment(noise(*SIZE))
    opened.close()
    with pytest.raises(EngineError, match=r"this Segmenter is closed; open the folder again"):
        opened.segment(noise(*SIZE))


def test_a_batch_is_no_frame(tmp_path: Path):
    spec = dataclasses.replace(MANIFEST.input, batch=4)
    bundle = Bundle(tmp_path, dataclasses.replace(MANIFEST, input=spec))
    with pytest.raises(UsageError, match=r"batches of 4 frames; .*export with --batch 1"):
        Segmenter(FakeEngine(), bundle, frames="rgb")


def test_no_engine_is_opened_for_batches(tmp_path: Path, monkeypatch):
    spec = dataclasses.replace(MANIFEST.input, batch=4)
    onnxruntime_folder(tmp_path / "engine", input=spec)
    monkeypatch.setattr("edgeseg.runtime.segmenter.open_engine", None)
    with pytest.raises(UsageError, match="batches of 4 frames"):
        edgeseg.load(tmp_path / "engine", frames="rgb")


# load


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "threads is 0; expected 1 or more, or None for all cores"),
        ({"inference_precision": "fp16"}, "unknown inference precision 'fp16'. Did you mean 'f16'"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options, said):
    fake_folder(tmp_path / "engine")
    with pytest.raises(UsageError, match=said):
        edgeseg.load(tmp_path / "engine", frames="rgb", **options)


def test_load(tmp_path: Path):
    folder = onnxruntime_folder(tmp_path / "engine").folder
    frame = noise(*SIZE)
    with edgeseg.load(folder, frames="bgr", threads=1) as opened:
        assert opened.engine.threads == 1
        assert opened.classes == TABLE
        assert np.array_equal(opened.segment(frame), expected(frame[..., ::-1]))
    with edgeseg.load(str(folder), frames="rgb") as opened:
        assert np.array_equal(opened.segment(frame), expected(frame))


def test_the_order_of_frames_must_be_said(tmp_path: Path):
    with pytest.raises(TypeError, match="frames"):
        load(tmp_path)  # type: ignore[call-arg]


@pytest.mark.parametrize("gate", [None, Gate("not run"), Gate("failed")])
def test_an_ungated_folder_is_refused_unless_told(tmp_path: Path, gate: Gate | None):
    folder = fake_folder(tmp_path / "engine", gate=gate).folder
    state = gate.state if gate else "not run"
    with pytest.raises(BundleError, match=f"gate: {state}; .*allow_ungated=True"):
        load(folder, frames="rgb")
    assert load(folder, frames="rgb", allow_ungated=True).segment(noise(4, 4)).shape == (4, 4)


def test_a_folder_without_engine(tmp_path: Path):
    folder = fake_folder(tmp_path / "engine", target=None).folder
    with pytest.raises(BundleError, match="has no engine; build one with 'edgeseg export'"):
        load(folder, frames="rgb")


def test_a_tampered_folder(tmp_path: Path):
    folder = fake_folder(tmp_path / "engine").folder
    (folder / "network.fake").write_bytes(b"other")
    with pytest.raises(BundleError, match="was changed after export"):
        load(folder, frames="rgb")


def test_an_unknown_engine(tmp_path: Path):
    folder = fake_folder(tmp_path / "engine", target=Target("openvno", "1", "x")).folder
    with pytest.raises(EngineError, match=r"unknown engine 'openvno'. Did you mean 'openvino'\?"):
        load(folder, frames="rgb")


def library(tmp_path: Path, monkeypatch, content: str) -> None:
    """An engine 'abacus' whose module has that content."""
    (tmp_path / "abacus_engine.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(engines.ENGINES, "abacus", "abacus_engine:Engine")
    monkeypatch.setitem(engines.NEEDS, "abacus", ("abacus", "pip install 'edgeseg[abacus]'"))
    monkeypatch.delitem(sys.modules, "abacus_engine", raising=False)


def test_a_missing_library_says_what_to_type(tmp_path: Path, monkeypatch):
    library(tmp_path, monkeypatch, "import abacus.beads")
    bundle = Bundle(tmp_path, MANIFEST)
    with pytest.raises(EngineError) as raised:
        open_engine("abacus", bundle)
    said = "engine 'abacus' needs 'abacus'. Install it: pip install 'edgeseg[abacus]'"
    assert str(raised.value) == said


def test_another_missing_module_is_our_bug(tmp_path: Path, monkeypatch):
    library(tmp_path, monkeypatch, "import nothing_of_the_kind")
    with pytest.raises(ModuleNotFoundError):
        open_engine("abacus", Bundle(tmp_path, MANIFEST))


def test_a_broken_library_says_why(tmp_path: Path, monkeypatch):
    library(tmp_path, monkeypatch, "raise ImportError('libfoo.so.1: cannot open')")
    with pytest.raises(
        EngineError, match=r"can't be loaded \(libfoo.so.1: cannot open\); 'edgeseg"
    ):
        open_engine("abacus", Bundle(tmp_path, MANIFEST))
