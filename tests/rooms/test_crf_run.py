"""The dense CRF behind an engine: a Segmenter, `edgeseg run --crf`, and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from engine_folders import MANIFEST, SIZE, fake_folder
from PIL import Image

from edgeseg.bundle import Bundle, OutputSpec
from edgeseg.cli import main
from edgeseg.dataset import read_ids
from edgeseg.errors import UsageError
from edgeseg.runtime import engine_fake
from edgeseg.runtime.crf import CrfSpec
from edgeseg.runtime.crf_segmenter import FULL_SIZE, TIMED_FRAMES, CrfSegmenter, with_crf
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter

pytestmark = pytest.mark.rooms


def noisy(images: np.ndarray) -> np.ndarray:
    """Scores (N, 3, H, W): class 1 right of the middle, else 0, but for one pixel in each half."""
    labels = np.zeros(images.shape[:3], int)
    labels[:, :, images.shape[2] // 2 :] = 1
    labels[:, 2, 2], labels[:, 5, -3] = 2, 0
    return (labels[:, None] == np.arange(3)[:, None, None]).astype(np.float32)


def frame() -> np.ndarray:
    """Two flat halves."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[:, SIZE[1] // 2 :] = 200
    return image


CLEAN = np.repeat([[0] * 8 + [1] * 8], 8, 0)


def opened(output: OutputSpec = FULL_SIZE, **options) -> Segmenter:
    bundle = Bundle(Path(), dataclasses.replace(MANIFEST, output=output))
    return Segmenter(FakeEngine(answer=noisy), bundle, frames="bgr", **options)


def test_labels_are_smoothed_and_timed():
    plain = opened()
    assert (plain.segment(frame()) != CLEAN).sum() == 2
    smoothed = with_crf(plain, CrfSpec())
    labels, stages = smoothed.timed(frame())
    assert (labels == CLEAN).all()
    assert 0 < smoothed.crf_ms[0] <= stages.decode
    assert list(smoothed.engine_ms) == [stages.engine]
    assert smoothed.crf_ms.maxlen == smoothed.engine_ms.maxlen == TIMED_FRAMES  # no leak
    assert smoothed.frame_format == "bgr"
    assert smoothed.decode_name.startswith("bilinear x1, then dense CRF: ")


def test_labels_come_back_to_the_frame_and_into_out():
    smoothed = with_crf(opened(), CrfSpec())
    big = frame().repeat(2, 0).repeat(2, 1)
    assert (smoothed.segment(big) == CLEAN.repeat(2, 0).repeat(2, 1)).all()
    out = np.zeros(SIZE, np.uint8)
    assert smoothed.segment(frame(), out, at="network") is out
    assert (out == CLEAN).all()


def test_scores_larger_than_the_input_meet_an_image_of_their_size():
    """Super-resolution: scores of the input's size, decoded to twice of it."""
    smoothed = with_crf(opened(OutputSpec("scores", 1, "bilinear", 2, 2)), CrfSpec())
    labels = smoothed.segment(frame(), at="network")
    assert labels.shape == (16, 32)
    assert (labels == CLEAN.repeat(2, 0).repeat(2, 1)).all()


def test_an_engine_of_labels_and_confidence_are_refused():
    with pytest.raises(UsageError, match="--crf needs scores, and this engine returns labels; exp"):
        with_crf(opened(OutputSpec()), CrfSpec())
    with pytest.raises(UsageError, match="no confidence behind the dense CRF; leave --crf away"):
        with_crf(opened(), CrfSpec()).segment_with_confidence(frame())


def test_cost_is_none_before_the_first_frame():
    cost = CrfSegmenter(FakeEngine(), opened().bundle, frames="rgb").cost()
    assert cost["ms_per_frame"] is None
    assert cost["sigma_alpha"] == 67


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(engine_fake, "_all_zero", noisy)
    (tmp_path / "in").mkdir()
    Image.fromarray(frame()).save(tmp_path / "in" / "a.png")
    return str(fake_folder(tmp_path / "engine", output=FULL_SIZE).folder)


def test_run_writes_smoothed_labels_and_prints_the_cost(folder, tmp_path, capsys):
    typed = ["run", folder, "--source", str(tmp_path / "in"), "--out"]
    assert main([*typed, str(tmp_path / "plain")]) == 0
    assert "dense CRF" not in capsys.readouterr().out
    more = ["--crf", "--crf-set", "iterations=4", "--json", str(tmp_path / "run.json")]
    assert main([*typed, str(tmp_path / "smooth"), *more]) == 0
    said = capsys.readouterr().out
    assert "dense CRF (" in said
    assert " ms a frame, beside " in said
    cost = json.loads((tmp_path / "run.json").read_text())["crf"]
    assert cost["iterations"] == 4
    assert cost["ms_per_frame"] > 0
    paths = [tmp_path / name / "labels" / "a.png" for name in ("plain", "smooth")]
    wrong = [int((read_ids(path) != CLEAN).sum()) for path in paths]
    assert wrong == [2, 0]


def test_settings_without_the_crf_are_refused(folder, tmp_path, capsys):
    typed = ["run", folder, "--source", str(tmp_path / "in"), "--crf-set", "w1=2"]
    assert main(typed) == 2
    assert "--crf-set changes parameters of --crf; give --crf, too" in capsys.readouterr().err
