"""The published ESPNet files give the published numbers, in float and in INT8, on real frames.

Rewritten by nothing: the numbers are those of the data's README, measured by the authors' own code.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import read_manifest
from edgeseg.cli import main
from edgeseg.dataset import open_dataset
from edgeseg.metrics import agreement
from edgeseg.runtime.segmenter import load

pytestmark = pytest.mark.golden

TARGETS = ("onnxruntime", "openvino")
FRAMES = 25
"""Val frames on which engines are compared, evenly spread."""
# fmt: off
FILES = {
    # folder       (model,        file,                                preset)
    "camvid":      ("espnet_q8",  "decoder/espnet_p_2_q_8_camvid.pth", "espnet-camvid"),
    "espnet_q3":   ("espnet_q3",  "decoder/espnet_p_2_q_3.pth",        "espnet-cityscapes"),
    "espnet_q5":   ("espnet_q5",  "decoder/espnet_p_2_q_5.pth",        "espnet-cityscapes"),
    "espnet_q8":   ("espnet_q8",  "decoder/espnet_p_2_q_8.pth",        "espnet-cityscapes"),
    "espnetc_q3":  ("espnetc_q3", "encoder/espnet_p_2_q_3.pth",        "espnet-cityscapes"),
    "espnetc_q5":  ("espnetc_q5", "encoder/espnet_p_2_q_5.pth",        "espnet-cityscapes"),
    "espnetc_q8":  ("espnetc_q8", "encoder/espnet_p_2_q_8.pth",        "espnet-cityscapes"),
}
# fmt: on


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Where checkpoints and engines of this module lie."""
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def converted(made, published_weights):
    """A function: name in FILES -> checkpoint folder."""

    def convert(name: str) -> Path:
        model, file, preset = FILES[name]
        out = made / name
        if not out.exists():
            weights = published_weights / "espnet" / file
            typed = ["convert", "--model", model, "--weights", str(weights), "--preset", preset]
            assert main([*typed, "--out", str(out)]) == 0
        return out

    return convert


@pytest.mark.parametrize("name", FILES)
def test_every_file_converts(name, converted):
    model, file, _ = FILES[name]
    manifest = read_manifest(converted(name))
    assert manifest.model.name == model
    assert manifest.model.void_outputs == 1
    assert manifest.params == {
        "camvid": 354_517, "espnet_q3": 202_649, "espnet_q5": 267_417, "espnet_q8": 364_569,
        "espnetc_q3": 187_529, "espnetc_q5": 252_297, "espnetc_q8": 349_449,
    }[name]  # fmt: skip
    assert manifest.weights.source.endswith(Path(file).name)


def scores_of(model: Path, made: Path, *more: str) -> dict:
    """What `edgeseg eval --json` says."""
    file = made / "eval.json"
    assert main(["eval", str(model), *more, "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_camvid_as_published(converted, made, camvid):
    """69.35: all 101 val frames at 360x480, 11-way argmax, void truth ignored."""
    data = ["--data", f"camvid:{camvid}", "--split", "val", "--size", "360x480"]
    found = scores_of(converted("camvid"), made, *data)
    assert found["frames"] == 101
    assert found["miou"] == pytest.approx(69.35, abs=0.02)
    assert found["seen_in_training"] is False


@pytest.mark.parametrize(
    ("name", "accuracy", "miou"),
    [("espnet_q3", 94.91, 56.14), ("espnet_q5", 95.26, 56.16), ("espnet_q8", 95.67, 58.18)],
)
def test_cityscapes_samples_as_published(name, accuracy, miou, converted, made, cityscapes_samples):
    """8 train frames at 512x1024 by the mean of 2x2 pixels, whose rounding moves mIoU a little."""
    data = ["--data", f"cityscapes:{cityscapes_samples}", "--split", "train"]
    found = scores_of(
        converted(name), made, *data, "--size", "512x1024", "--labels-at", "network"
    )  # fmt: skip
    assert found["frames"] == 8
    assert found["miou"] == pytest.approx(miou, abs=0.15)
    assert found["pixel_accuracy"] == pytest.approx(accuracy, abs=0.03)
    assert sum(iou is not None for iou in found["per_class"].values()) == 16
    assert found["seen_in_training"] is True


# INT8 on CamVid at 360x480: calibrated and gated on train frames, compared on val frames


@pytest.fixture(scope="module")
def engine(converted, made, camvid):
    """A function (target, precision) -> engine folder; the default gate has passed."""

    def build(target: str, precision: str) -> Path:
        out = made / f"{target}-{precision}"
        if not out.exists():
            typed = ["export", str(converted("camvid")), "--target", target, "--out", str(out)]
            typed += ["--precision", precision, "--size", "360x480", "--calib", f"camvid:{camvid}"]
            assert main(typed) == 0
        return out

    return build


@pytest.fixture(scope="module")
def labels(engine, camvid):
    """A function (target, precision) -> labels of FRAMES val frames, (N, 360, 480) uint8."""
    kept: dict[tuple[str, str], np.ndarray] = {}

    def segment(target: str, precision: str) -> np.ndarray:
        key = target, precision
        if key not in kept:
            dataset = open_dataset(f"camvid:{camvid}", "val").spread(FRAMES)
            with load(engine(target, precision), frames="rgb") as segmenter:
                kept[key] = np.stack([segmenter.segment(s.image) for s in dataset])
        return kept[key]

    return segment


@pytest.fixture(scope="module")
def float_miou(converted, made, camvid) -> float:
    """Torch on the same frames."""
    data = ["--data", f"camvid:{camvid}", "--size", "360x480", "--limit", str(FRAMES)]
    return scores_of(converted("camvid"), made, *data)["miou"]


@pytest.mark.parametrize("target", TARGETS)
def test_int8_passes_the_default_gate(target, engine):
    manifest = read_manifest(engine(target, "int8"))
    gate, quantisation = manifest.gate, manifest.quantisation
    assert gate.state == "passed"
    assert (gate.source, gate.against, gate.max_miou_drop) == ("camvid train", "ground truth", 0.5)
    assert gate.miou_float - gate.miou_engine <= 0.5
    assert quantisation.frames >= 100
    assert len(quantisation.float_layers) <= quantisation.convolutions / 5


@pytest.mark.parametrize("target", TARGETS)
def test_int8_keeps_miou_on_frames_that_nobody_tuned_on(target, engine, float_miou, made, camvid):
    data = ["--data", f"camvid:{camvid}", "--limit", str(FRAMES)]
    found = scores_of(engine(target, "int8"), made, *data)
    assert found["miou"] == pytest.approx(float_miou, abs=0.5)


def test_both_engines_say_the_same_of_one_quantised_network(labels):
    ours, theirs = (labels(target, "int8") for target in TARGETS)
    assert agreement(ours, theirs) >= 99


def test_int8_is_int8(labels):
    """It is not the float network under another name."""
    assert 90 < agreement(labels("onnxruntime", "int8"), labels("onnxruntime", "fp32")) < 99.9


@pytest.mark.parametrize("target", TARGETS)
def test_float_engines_have_torchs_accuracy(target, engine, float_miou, made, camvid):
    data = ["--data", f"camvid:{camvid}", "--limit", str(FRAMES)]
    found = scores_of(engine(target, "fp32"), made, *data)
    assert found["miou"] == pytest.approx(float_miou, abs=0.02)
