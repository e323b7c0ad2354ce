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
    assert {r["miou"] for r in results["results"]} == {None}
    assert "trained on nothing: random weights" in capsys.readouterr().out


def test_a_run_is_built_now_and_measured_later(tmp_path, capsys):
    """The engines of a run's checkpoint are named as the run; built.json says where they are."""
    make_random("espnetc_q3", TABLE, (64, 128), tmp_path).rename(tmp_path / "checkpoint")
    run, out = tmp_path / "my_run", tmp_path / "bench"
    run.mkdir()
    (tmp_path / "checkpoint").rename(run / "checkpoint")
    data = ["--data", "synthetic:size=64x128,count=60", "--out", str(out)]
    typed = ["bench", str(run / "checkpoint"), *data, "--sizes", "64x128", "--build-only"]
    with one_cpu():
        assert main([*typed, "--targets", "onnxruntime", "--precisions", "fp32"]) == 0
    folder = out / "engines" / "my_run-64x128-onnxruntime-fp32"
    assert capsys.readouterr().out.splitlines() == [str(folder)]
    built = json.loads((out / "built.json").read_text())
    assert (built["folders"], built["failed"]) == ([str(folder)], [])
    assert not (out / "results.json").exists()
    assert main(["bench", str(folder), *data, "--samples", "1", "--seconds", "0"]) == 0
    assert len(json.loads((out / "results.json").read_text())["results"]) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fps", "30"], "--build-only measures nothing: leave --fps and --soak away"),
        (["--soak", "90s"], "--build-only measures nothing: leave --fps and --soak away"),
        (["--precisions", "int9"], "unknown precision 'int9'"),
    ],
)
def test_what_cant_be_built_is_refused(more, said, tmp_path, capsys):
    typed = ["bench", "espnet_q3", "--data", "synthetic:size=64x128,count=60", "--build-only"]
    assert main([*typed, "--out", str(tmp_path / "o"), *more]) == 2
    assert said in capsys.readouterr().err


def test_a_refiner_is_made_too(tmp_path):
    manifest = read_manifest(make_random("cascadepsp_r18", TABLE, (64, 64), tmp_path))
    assert manifest.input.mask
    assert manifest.name == "cascadepsp_r18 (random weights)"


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
