"""A wrapped network through the whole walk: folder, float graph, gate, engine, frames, words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edgeseg.benchmarks.accuracy import _pair
from edgeseg.bundle import InputSpec, Manifest, ModelSpec, OutputSpec, read_manifest
from edgeseg.cli import main
from edgeseg.cli.inspect import _model, _output
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import UsageError
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import build_model
from edgeseg.pipeline.bench import _as_torch
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.floats import make_float
from edgeseg.pipeline.model import find_model, open_model
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.segmenter import load

pytestmark = pytest.mark.torch

TABLE = CLASS_TABLES["camvid11"]
SIZE = (32, 64)
NAME = "espnetc_q3+dsrl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    spec = ModelSpec(NAME, {"dsrl": {"taps": ["level2", "level3"]}}, void_outputs=1)
    inputs = InputSpec("rgb", (110.0, 100.0, 90.0), (60.0, 61.0, 62.0), size=SIZE)
    manifest = Manifest("checkpoint", NAME, TABLE.to_dict(), inputs, model=spec)
    folder = tmp_path_factory.mktemp("wrapped") / "model"
    save_checkpoint(folder, build_model(spec, 12), manifest)
    return folder


def square(index: int) -> Sample:
    """A frame that is padded left and right: 32 of 64 columns, from column 16."""
    generator = np.random.default_rng(index)
    image = generator.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    return Sample(f"{index}", image, generator.integers(0, 11, (24, 24)).astype(np.uint8))


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """The float network, an engine folder in each form, and what was said."""
    names = tuple(str(i) for i in range(20))
    data = Dataset("tiny:x", "train", TABLE, names, square)
    lines: list[str] = []
    engines = {}
    out = tmp_path_factory.mktemp("engines")
    for form in ("labels", "scores"):
        source = Source(str(folder), None, None, None, 1, form == "scores")
        network = make_float(source, data, lines.append)
        plan = Plan("onnxruntime", "fp32")
        engines[form] = export_network(network, None, plan, out / form, lines.append)
    return network, engines, lines


def test_what_training_alone_needed_is_said(made):
    lines = made[2]
    left_out = [line for line in lines if line.startswith("left out")]
    assert len(left_out) == 2
    assert left_out[0].startswith("left out sisr and transform: ")
    assert left_out[0].endswith(" M MACs saved at 32x64")
    assert "ONNX agrees with torch on 100.000 % of labels (20 frames)" in lines


def test_the_gate_sees_labels_of_twice_the_input(made):
    gate = made[0].gate
    assert gate.labels.shape == gate.truth.shape == (20, 64, 128)
    assert (gate.labels[:, :, :32] == IGNORE).all()
    assert (gate.labels[:, :, 96:] == IGNORE).all()
    assert (gate.labels[:, :, 32:96] < 11).all()
    assert (gate.truth[:, :, :32] == IGNORE).all()
    truth = square(3).labels
    assert np.array_equal(gate.truth[3, ::8, 32:96:8], truth[::3, ::3])
    assert gate.images.shape == (20, 32, 64, 3)


@pytest.mark.parametrize("form", ["labels", "scores"])
def test_engines_say_what_torch_says(made, folder, form):
    bundle = made[1][form]
    assert bundle.manifest.output.scale == 2
    assert bundle.manifest.gate.agreement >= 99.99
    frame = square(5).image
    reference = open_model(str(folder), size=None, fit=None, options=EngineOptions())
    with load(bundle.folder, frames="rgb") as engine, reference as torchs:
        for at, shape in (("network", (64, 128)), ("frame", (24, 24))):
            ours, theirs = engine.segment(frame, at=at), torchs.segment(frame, at=at)
            assert ours.shape == shape
            assert (ours == theirs).mean() >= 0.999
        for segmenter in (engine, torchs):
            truth, labels = _pair(segmenter, frame, square(5).labels, "network")
            assert truth.shape == labels.shape == (64, 128)


def test_the_manifest_knows_the_scale_before_any_export(folder):
    manifest = read_manifest(folder)
    assert manifest.output == OutputSpec(scale=2)
    assert _output(manifest.output) == "labels at 2x the input"
    assert _model(manifest) == f"{NAME} (dsrl.taps ['level2', 'level3']), checkpoint"


def test_inspect_of_scores():
    output = OutputSpec("scores", 8, "bilinear", 16, 2)
    assert _output(output) == (
        "scores at 1/8 of the input, decoded by bilinear x16 and argmax; labels at 2x the input"
    )
    assert _output(dataclasses.replace(output, scale=1)).endswith("x16 and argmax")


def test_a_scale_below_one():
    with pytest.raises(ValueError, match="output scale is 0; expected 1 or more"):
        OutputSpec(scale=0)


def test_names_with_a_plus_are_known_and_not_shipped():
    with pytest.raises(UsageError, match=r"no weights are shipped for 'espnet_q8\+dsrl'\. Train"):
        find_model("espnet_q8+dsrl")
    with pytest.raises(UsageError, match=r"unknown wrapper 'dslr' in 'espnet_q8\+dslr'\. Did"):
        find_model("espnet_q8+dslr")


def test_models_says_what_may_follow_a_plus(capsys, monkeypatch):
    row = {"name": "x", "params": 1, "macs": {"1x1": 1}, "weights": None, "source": "y"}
    monkeypatch.setattr("edgeseg.cli.models.list_models", lambda: [row])
    assert main(["models"]) == 0
    (line,) = (w for w in capsys.readouterr().out.splitlines() if w.startswith("Behind"))
    assert line.startswith("Behind each name may follow +dupsample (Tian et al., ")
    assert line.endswith("CVPR 2020): such as espnet_q3+dsrl.")


def test_a_torch_row_of_the_bench_counts_what_the_engines_compute(made, folder):
    row = _as_torch(read_manifest(folder), SIZE)
    exported = made[1]["labels"].manifest
    assert (row.params, row.macs) == (exported.params, exported.macs)
