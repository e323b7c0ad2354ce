"""A refiner's way through export: from the checkpoint to labels refined without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import one_cpu
from PIL import Image
from refiners import refiner_checkpoint

from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.dataset import open_dataset, read_ids
from edgeseg.export.gate import Budget, read_frames
from edgeseg.labels import IGNORE
from edgeseg.pipeline.export import choose_frames, export_network
from edgeseg.pipeline.floats import make_float
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate
from edgeseg.runtime.refiner import load_refiner
from edgeseg.training.perturb import spoilt
from edgeseg.training.refiner import open_refiner

pytestmark = pytest.mark.rooms

STREETS = "synthetic:size=64x96,count=60"
ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refiner") / "checkpoint"
    refiner_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory) -> dict[str, Path]:
    """Engine folders by name and precision; they take BGR, the checkpoint RGB."""
    where, said = tmp_path_factory.mktemp("engines"), []
    with one_cpu():
        frames = choose_frames(STREETS, None, calibration=12)
        source = Source(str(checkpoint), (64, 96), order="bgr")
        network = make_float(source, frames.gate, said.append)
        table = calibrate(network, frames.calibration, "mse", said.append)
        for name in ENGINES:
            for precision, given in (("fp32", None), ("int8", Quantiser(network, table))):
                plan = Plan(name, precision, budget=Budget(100.0, 100.0))
                export_network(network, given, plan, where / f"{name}-{precision}", said.append)
    return {path.name: path for path in where.iterdir()}


@pytest.mark.parametrize("name", ENGINES)
def test_engines_give_the_masks_of_torch(name, checkpoint, folders):
    """Of frames of the network's size, pixel for pixel; masks of which neither side is all."""
    in_torch, _ = open_refiner(checkpoint)
    with load_refiner(folders[f"{name}-fp32"], frames="rgb") as refiner:
        for sample in spoilt(open_dataset(STREETS, "val")).spread(3):
            image, inside = sample.image[..., :3], sample.image[..., 3] > 127
            expected, found = (r.mask(image, inside) for r in (in_torch, refiner))
            assert np.abs(found - expected).max() < 1e-3
            assert 0.02 < (found > 0.5).mean() < 0.98
            assert found.std() > 0.05
            other = refiner.mask(image, ~inside)
            assert np.abs(other - found).max() > 0.05  # it does look at the mask
            turned = refiner.mask(image[..., ::-1], inside)
            assert np.abs(turned - found).max() > 1e-2  # and at the colours


@pytest.mark.parametrize("name", ENGINES)
def test_the_gate_shows_frames_with_spoilt_masks(name, folders):
    bundle = read_bundle(folders[f"{name}-fp32"])
    gate, spec, frames = bundle.manifest.gate, bundle.manifest.input, read_frames(bundle)
    assert gate.state == "passed"
    assert gate.agreement > 99.9
    assert bundle.manifest.table.names == ("outside", "inside")
    assert (spec.mask, spec.size) == (True, (64, 96))
    assert frames.images.shape == (24, 64, 96, 4)
    masks = frames.images[..., 3]
    assert set(np.unique(masks)) == {0, 255}
    seen = frames.truth != IGNORE
    wrong = (masks // 255 != frames.truth) & seen
    assert 0 < wrong.mean() < 0.1
    assert 0.02 < frames.labels[seen].mean() < 0.98


@pytest.mark.parametrize("name", ENGINES)
def test_int8_keeps_most_pixels(name, folders):
    """Of a network that has learnt nothing; no convolution of the three passes is in float."""
    manifest = read_bundle(folders[f"{name}-int8"]).manifest
    assert manifest.gate.agreement > 90
    assert manifest.quantisation.convolutions > 100
    assert not manifest.quantisation.float_layers


def test_labels_are_refined_without_torch(folders, tmp_path):
    """By the command line in a process that has no torch; what it writes is what Python gives."""
    frames, labels = tmp_path / "frames", tmp_path / "labels"
    frames.mkdir()
    labels.mkdir()
    (sample,) = open_dataset(STREETS, "val").spread(1)
    coarse = np.where(sample.labels == IGNORE, IGNORE, sample.labels % 11).astype(np.uint8)
    Image.fromarray(sample.image).save(frames / "a.png")
    Image.fromarray(coarse).save(labels / "a.png")
    line = ["refine", str(folders["onnxruntime-fp32"]),
            "--frames", str(frames), "--labels", str(labels), "--table", "camvid11",
            "--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]  # fmt: skip
    program = (
        "import sys; sys.modules['torch'] = None; from edgeseg.cli import main; "
        f"sys.exit(main({line!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    finer = read_ids(tmp_path / "out" / "a.png")
    with load_refiner(folders["onnxruntime-fp32"], frames="rgb") as refiner:
        assert (finer == refiner.labels(sample.image, coarse)).all()
    assert (finer != coarse).any()
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["refiner"]["engine"].startswith("onnxruntime ")
    assert found["refiner"]["size"] == [64, 96]
    assert found["side"] is None


def test_doctor_and_parity_take_a_refiner(folders, tmp_path, capsys):
    assert main(["doctor", str(folders["onnxruntime-fp32"])]) == 0
    a, b = (str(folders[f"{name}-fp32"]) for name in ENGINES)
    assert main(["debug-parity", a, b, "--frames", "2", "--out", str(tmp_path)]) == 0
    assert main(["inspect", a]) == 0
    assert "BGR and a mask, uint8" in capsys.readouterr().out


def test_bench_times_a_mask(folders, tmp_path, capsys):
    """Frame and mask to mask, without accuracy and without a CRF."""
    both = [str(folders[f"{name}-int8"]) for name in ENGINES]
    words = ["--data", STREETS, "--samples", "2", "--seconds", "0", "--warm-up-calls", "1"]
    with one_cpu():
        assert main(["bench", *both, *words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["failed"] == []
    assert [row["target"] for row in found["results"]] == list(ENGINES)
    for row in found["results"]:
        assert row["miou"] is None
        assert row["decode"] == "softmax: numpy"
        assert row["timing"]["warm_up_calls"] == 1
        stages = row["stages_ms"]
        assert 0 < stages["engine"]["max"] < stages["call"]["max"]
    with one_cpu():
        assert main(["bench", both[0], *words, "--crf", "--out", str(tmp_path)]) == 1
    assert "--crf is behind what labels frames; leave it away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("export {c} --target onnxruntime --precision fp32 --gate {d}",
         "checkpoint names no input size; give --size HEIGHTxWIDTH"),
        ("export {c} --target onnxruntime --precision fp32 --gate {d} --size 60x96",
         "multiples of 8; 60x96 is not. The nearest is 64x96"),
        ("export {c} --target onnxruntime --precision fp32 --gate {d} --size 64x96 --output labels",
         "classes are merged by them. Leave --output labels away"),
        ("export {c} --target onnxruntime --precision fp32 --gate {d} --size 64x96 --tune",
         "Leave --tune away"),
        ("eval {e} --data {d}", "labels no frames: it refines masks that another network made"),
        ("eval {c} --data {d} --size 64x96", "labels no frames: it refines masks that another"),
        ("eval {c} --data {d} --size 64x96 --crf", "labels no frames: it refines masks that anoth"),
        ("run {e} --source {t} --out {t}/o", "labels no frames: it refines masks"),
        ("refine {e} --data {d} --model dfanet_b_camvid --side 200", "of 64x96; --side and --fast"),
        ("refine {e} --data {d} --model dfanet_b_camvid --fast", "for checkpoints: leave them"),
        ("refine {c} --data {d} --model {e}", "labels no frames: it refines masks that another"),
        ("refine {c} --frames {t}/x --model none --out {t}/o", "/x: no such folder; --frames exp"),
        ("refine {c} --data {d} --labels {t}/x", "/x: no such folder; --labels expects"),
        ("bench {c} --data {d} --out {t}/o --sizes 64x96 --targets torch",
         "refines masks: leave torch out of --targets"),
    ],
)  # fmt: skip
def test_what_is_refused(typed, said, checkpoint, folders, tmp_path, capsys):
    words = typed.format(c=checkpoint, e=folders["onnxruntime-fp32"], d=STREETS, t=tmp_path)
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
