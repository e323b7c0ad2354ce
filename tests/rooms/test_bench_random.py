"""Networks that nobody trained are timed, and every result says so."""

from __future__ import annotations

import json

import pytest
import torch
from networks import one_cpu

from edgeseg.bundle import InputSpec, Manifest, ModelSpec, read_manifest
from edgeseg.cli import main
from edgeseg.errors import BundleError, UsageError
from edgeseg.labels import CLASS_TABLES
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.models.fresh import save_fresh, settle
from edgeseg.models.network import build_model
from edgeseg.pipeline.random_weights import make_random

pytestmark = pytest.mark.rooms

TABLE = CLASS_TABLES["camvid11"]


def test_random_weights_are_timed_and_say_so(tmp_path, capsys):
    typed = [
        "bench", "espnetc_q3", "--weights", "random", "--data", "synthetic:size=64x128,count=60",
        "--sizes", "64x128", "--targets", "onnxruntime", "--precisions", "fp32",
        "--samples", "5", "--seconds", "0", "--limit", "2", "--threads", "1",
        "--out", str(tmp_path / "bench"),
    ]  # fmt: skip
    with one_cpu():
        assert main(typed) == 0
    results = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert results["failed"] == []
    assert [r["precision"] for r in results["results"]] == ["fp32"]
    assert {r["model"] for r in results["results"]} == {"espnetc_q3 (random weights)"}
    assert all(r["macs"] > 0 and r["latency_ms"]["max"] > 0 for r in results["results"])
    assert "trained on nothing: random weights" in capsys.readouterr().out


def test_the_folder_says_it(tmp_path):
    folder = make_random("enet", TABLE, (64, 128), tmp_path)
    manifest = read_manifest(folder)
    assert folder == tmp_path / "enet"
    assert manifest.name == "enet (random weights)"
    assert manifest.weights.data == "nothing: random weights"
    assert manifest.weights.licence == "none"
    assert manifest.input.size == (64, 128)


def test_random_weights_are_the_same_each_time(tmp_path):
    states = [
        load_checkpoint(make_random("espnetc_q3", TABLE, (64, 64), tmp_path / n))[0].state_dict()
        for n in ("a", "b")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_a_deep_network_computes_stays_small():
    """Without statistics ResNet-101's activations grow from block to block."""
    torch.manual_seed(0)
    model = build_model(ModelSpec("fcn_r101", {"width": 0.125}), 5).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model.encoder(image)["layer4"].abs().max()
        settle(model)
        after = model.encoder(image)["layer4"].abs().max()
    assert before > 10_000
    assert after < 100
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
    assert not model.training


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"unknown model 'enett'\. Did you mean 'enet'\?"):
        make_random("enett", TABLE, (64, 64), tmp_path)


def test_a_manifest_without_a_model_is_refused(tmp_path):
    manifest = Manifest("checkpoint", "x", TABLE.to_dict(), InputSpec("rgb", (0, 0, 0), (1, 1, 1)))
    with pytest.raises(BundleError, match="x: the manifest names no model"):
        save_fresh(tmp_path / "x", manifest)
