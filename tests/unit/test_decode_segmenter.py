"""The Segmenter's decode: labels straight to the frame's size, confidence, the name of what ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import Bundle, InputSpec, Manifest, OutputSpec
from edgeseg.errors import UsageError
from edgeseg.frame import place, restore
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.runtime import decode_native
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter

pytestmark = pytest.mark.unit

TABLE = CLASS_TABLES["camvid11"]
BY = [*decode_native.available(), "numpy"]


class ScoresEngine(FakeEngine):
    """Scores that do not depend on the frame."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__()
        self.scores = scores

    def infer(self, images: np.ndarray) -> np.ndarray:
        return self.scores


def segmenter(fit: str = "pad", scale: int = 1) -> Segmenter:
    """12x20 pixels of input, scores at a quarter."""
    scores = np.random.default_rng(0).normal(size=(1, 11, 3 * scale, 5 * scale))
    spec = InputSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit=fit, size=(12, 20))
    output = OutputSpec("scores", 4, "bilinear", 4, scale)
    manifest = Manifest("network", "fake", TABLE.to_dict(), spec, output=output)
    return Segmenter(
        ScoresEngine(scores.astype(np.float32)), Bundle(Path(), manifest), frames="rgb"
    )


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(12, 20), (31, 50), (7, 9), (24, 20), (12, 80)])
@pytest.mark.parametrize("scale", [1, 2])
def test_labels_of_the_frame_are_restored_ones(by, fit, size, scale, monkeypatch):
    monkeypatch.setenv("EDGESEG_DECODE", by)
    segment = segmenter(fit, scale)
    frame = np.zeros((*size, 3), np.uint8)
    small = segment.segment(frame, at="network")
    assert small.shape == (12 * scale, 20 * scale)
    assert len(np.unique(small)) >= 5
    expected = restore(small, place(size, (12, 20), fit))
    labels = segment.segment(frame)
    assert labels.shape == size
    assert np.array_equal(labels, expected)
    out = np.full(size, 99, np.uint8)
    assert segment.segment(frame, out) is out
    assert np.array_equal(out, expected)
    turned = np.full(size[::-1], 99, np.uint8).T
    assert np.array_equal(segment.segment(frame, turned), expected)


@pytest.mark.parametrize("by", BY)
def test_confidence_lies_beside_the_labels(by, monkeypatch):
    monkeypatch.setenv("EDGESEG_DECODE", by)
    segment = segmenter("crop")
    frame = np.zeros((12, 40, 3), np.uint8)  # the input sees columns 10 to 30
    labels, softmax = segment.segment_with_confidence(frame)
    assert np.array_equal(labels, segment.segment(frame))
    assert (labels[:, :10] == IGNORE).all()
    assert (softmax[:, :10] == 0).all()
    assert (softmax[:, 10:30] > 255 // 11).all()
    _, margin = segment.segment_with_confidence(frame, "margin")
    assert (margin < softmax)[:, 10:30].all()


def test_confidence_needs_scores():
    segment = Segmenter.of(FakeEngine(), TABLE, size=(12, 20))
    assert segment.decode_name == "in the graph"
    with pytest.raises(UsageError, match="confidence needs scores, and this engine returns labels"):
        segment.segment_with_confidence(np.zeros((12, 20, 3), np.uint8))


def test_what_decodes_has_a_name(monkeypatch):
    monkeypatch.setenv("EDGESEG_DECODE", "numpy")
    assert segmenter().decode_name == "bilinear x4, then argmax: numpy"
    monkeypatch.setenv("EDGESEG_DECODE", "c" if len(BY) > 1 else "numpy")
    assert segmenter().decode_name in (
        "bilinear x4, then argmax: native c, 1 thread",
        "bilinear x4, then argmax: numpy",
    )
