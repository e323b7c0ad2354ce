"""The whole walk by the command line: train, calibrate, export, inspect, evaluate, bench, run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from networks import one_cpu
from PIL import Image

import edgeseg
from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.dataset import open_dataset
from edgeseg.frame import resize_image

pytestmark = pytest.mark.chain

STREETS = "synthetic:size=64x128,count=60"
SIZE = (64, 128)
RECIPE = f"""
model = "espnetc_q3"
data = "{STREETS}"
size = [64, 128]
steps = 3
batch = 4
seed = 1
[optimizer]
lr = 0.01
"""
# DESIGN.md, `bench`
ROW = {
    "model", "target", "precision", "inference_precision", "size", "batch", "params", "macs",
    "file_mib", "load_ms", "latency_ms", "stages_ms", "throughput_fps", "threads", "decode",
    "peak_rss_mib", "miou", "per_class", "data", "seen_in_training", "engine", "machine", "power",
}  # fmt: skip


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Where the walk's folders lie; engines take one thread."""
    with one_cpu():
        yield tmp_path_factory.mktemp("walk")


@pytest.fixture(scope="module")
def trained(walk: Path) -> Path:
    (walk / "recipe.toml").write_text(RECIPE)
    assert main(["train", str(walk / "recipe.toml"), "--out", str(walk / "run")]) == 0
    return walk / "run" / "checkpoint"


@pytest.fixture(scope="module")
def table(walk: Path, trained: Path) -> Path:
    typed = ["calibrate", str(trained), "--data", STREETS, "--out", str(walk / "ranges.json")]
    assert main(typed) == 0
    return walk / "ranges.json"


@pytest.fixture(scope="module")
def engines(walk: Path, trained: Path, table: Path) -> dict[str, Path]:
    """INT8 for both targets: one from a range table, one from frames."""
    wide = ["--max-miou-drop", "100", "--max-class-drop", "100"]
    for target, calib in (
        ("onnxruntime", [str(table), "--gate", STREETS]),
        ("openvino", [STREETS]),
    ):
        typed = ["export", str(trained), "--target", target, "--out", str(walk / target), *wide]
        typed += ["--json", str(walk / f"{target}.json"), "--calib", *calib]
        assert main(typed) == 0
    return {target: walk / target for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def bench(walk: Path, trained: Path) -> Path:
    typed = [
        "bench", str(trained), "--data", STREETS, "--sizes", "64x128,128x256",
        "--targets", "torch,onnxruntime,openvino", "--limit", "4", "--samples", "20",
        "--seconds", "0", "--threads", "1", "--out", str(walk / "bench"),
        "--json", str(walk / "bench.json"),
    ]  # fmt: skip
    assert main(typed) == 0
    return walk / "bench"


def test_the_checkpoint_is_whole(trained):
    manifest = read_bundle(trained).manifest
    assert (manifest.kind, manifest.model.name) == ("checkpoint", "espnetc_q3")
    assert manifest.weights.data.startswith("synthetic train")


def test_export_says_what_it_made(walk, engines):
    for target, folder in engines.items():
        said = json.loads((walk / f"{target}.json").read_text())
        assert {"folder", "target", "precision", "gate"} <= set(said)
        assert (said["folder"], said["target"]) == (str(folder), target)
        assert (said["precision"], said["gate"]["state"]) == ("int8", "passed")
        assert {"agreement", "miou_float", "miou_engine", "worst_class"} <= set(said["gate"])
        manifest = read_bundle(folder).manifest
        assert manifest.quantisation.source == "synthetic train"
        assert manifest.weights.data.startswith("synthetic train")
        assert manifest.history[-1] == f"export --target {target} --precision int8"


def test_both_engines_hold_one_quantised_network(engines):
    found = [read_bundle(f).manifest.quantisation for f in engines.values()]
    assert found[0].frames_sha256 == found[1].frames_sha256
    assert found[0] == found[1]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_engine_evaluates_near_its_checkpoint(target, engines, trained, walk):
    scores = {}
    for name, model in (("float", trained), (target, engines[target])):
        file = walk / f"eval-{name}.json"
        typed = ["eval", str(model), "--data", STREETS, "--limit", "3", "--json", str(file)]
        assert main(typed) == 0
        scores[name] = json.loads(file.read_text())
        keys = {"miou", "per_class", "pixel_accuracy", "frames", "rule", "fit"}
        assert keys <= set(scores[name])
        assert scores[name]["frames"] == 3
    assert scores[target]["miou"] == pytest.approx(scores["float"]["miou"], abs=5)


def test_inspect_shows_it(engines, capsys):
    assert main(["inspect", str(engines["openvino"])]) == 0
    said = capsys.readouterr().out
    assert "openvino" in said
    assert "int8" in said


def test_a_robot_loads_it(engines):
    frame = open_dataset(STREETS, "val")[0].image
    with edgeseg.load(engines["onnxruntime"], frames="rgb", threads=1) as segmenter:
        labels = segmenter.segment(np.ascontiguousarray(resize_image(frame, (50, 70))))
    assert labels.shape == (50, 70)
    assert labels.max() < 19


def test_bench_has_every_row_and_key(bench, walk):
    results = json.loads((bench / "results.json").read_text())
    assert results["failed"] == []
    assert json.loads((walk / "bench.json").read_text()) == results
    rows = results["results"]
    combinations = {(r["target"], r["precision"], tuple(r["size"])) for r in rows}
    expected = {("torch", "fp32")} | {
        (t, p) for t in ("onnxruntime", "openvino") for p in ("fp32", "int8")
    }
    sizes = ((64, 128), (128, 256))
    assert combinations == {(t, p, s) for t, p in expected for s in sizes}
    assert len(rows) == 10
    for row in rows:
        assert set(row) >= ROW
        latency = row["latency_ms"]
        assert latency["n"] == len(latency["samples"]) == 20
        assert 0 < latency["p50"] <= latency["max"]
        assert (latency["p90"], latency["p99"], latency["p999"]) == (None, None, None)
        assert row["miou"] is not None
        assert row["threads"] == 1
        assert row["seen_in_training"] is False
        assert row["peak_rss_mib"] > 10
        assert row["data"] == {"kind": "synthetic", "split": "val", "frames": 4}


def test_macs_grow_with_the_pixels_and_params_do_not(bench):
    rows = json.loads((bench / "results.json").read_text())["results"]
    assert len({r["params"] for r in rows}) == 1
    macs: dict[tuple[int, ...], set[int]] = {}
    for row in rows:
        macs.setdefault(tuple(row["size"]), set()).add(row["macs"])
    (small,), (large,) = macs[(64, 128)], macs[(128, 256)]
    assert large == 4 * small


def test_float_engines_have_torchs_accuracy(bench):
    rows = json.loads((bench / "results.json").read_text())["results"]
    torchs = {tuple(r["size"]): r["miou"] for r in rows if r["target"] == "torch"}
    for row in rows:
        if row["precision"] == "fp32":
            assert row["miou"] == pytest.approx(torchs[tuple(row["size"])], abs=0.05)


def test_the_report_shows_each_row(bench):
    report = (bench / "report.html").read_text()
    assert report.lower().startswith("<!doctype html>")
    for word in ("ONNX Runtime", "OpenVINO", "PyTorch", "INT8", "FP32", "64×128", "128×256"):
        assert word in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "<script src" not in report


def test_a_result_is_no_regression_of_itself(bench, capsys):
    file = str(bench / "results.json")
    assert main(["compare", file, file, "--fail-on", "miou<-0.5,p50>+10%"]) == 0
    assert capsys.readouterr().err == ""


def test_a_lost_point_is_a_regression(bench, walk, capsys):
    results = json.loads((bench / "results.json").read_text())
    results["results"][0]["miou"] -= 0.6
    (walk / "worse.json").write_text(json.dumps(results))
    typed = ["compare", str(bench / "results.json"), str(walk / "worse.json")]
    assert main([*typed, "--fail-on", "miou<-0.5"]) == 1
    assert main([*typed, "--fail-on", "miou<-0.7"]) == 0
    assert "miou" in capsys.readouterr().err


def test_run_draws_overlays(engines, walk):
    images = walk / "images"
    images.mkdir()
    dataset = open_dataset(STREETS, "val").spread(3)
    for index, sample in enumerate(dataset):
        Image.fromarray(sample.image).save(images / f"{index}.png")
    out = walk / "overlays"
    typed = ["run", str(engines["openvino"]), "--source", str(images), "--out", str(out)]
    assert main([*typed, "--threads", "1", "--json", str(walk / "run.json")]) == 0
    assert json.loads((walk / "run.json").read_text())["frames"] == 3
    assert len(list(out.glob("overlay/*.jpg"))) == 3
    sizes = set()
    for path in out.glob("labels/*.png"):
        with Image.open(path) as labels:
            sizes.add(labels.size)
    assert sizes == {dataset[0].labels.shape[::-1]}


def test_models_lists_shipped_weights(walk):
    assert main(["models", "--json", str(walk / "models.json")]) == 0
    models = json.loads((walk / "models.json").read_text())["models"]
    by_name = {m["name"]: m for m in models}
    for model in models:
        assert {"name", "params", "macs", "source", "weights", "licence"} <= set(model)
        assert set(model["macs"]) == {"256x512", "512x1024"}
    q8 = by_name["espnet_q8"]
    assert q8["macs"]["512x1024"] == 4 * q8["macs"]["256x512"]
    assert round(q8["params"] / 1e6, 2) == 0.36


def test_nothing_is_left_behind(walk, engines, bench):
    """No hidden folder, no half-written file."""
    assert list(walk.rglob(".*")) == []
