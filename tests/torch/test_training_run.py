"""A run as a whole: killed, resumed, refused, on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeseg.bundle import read_bundle
from edgeseg.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]


def start(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_logged(folder: Path) -> list[int]:
    path = folder / "log.csv"
    if not path.exists():
        return []
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    limit = time.monotonic() + 240  # on a machine that others keep busy torch alone loads a minute
    while process.poll() is None and time.monotonic() < limit:
        if (steps_logged(folder) or [0])[-1] >= step:
            return
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path, recipe_file):
    recipe = recipe_file(steps=30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    process = start("-m", "edgeseg", "train", str(recipe), "--out", str(killed))
    wait_for_step(process, killed, 10)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 10 <= steps_logged(killed)[-1] < 30
    assert not (killed / "eval.json").exists()
    workers = ["--set", "workers=1"]
    assert main(["train", str(recipe), "--out", str(killed), "--resume", *workers]) == 0
    assert same(weights(whole), weights(killed))
    assert not same(weights(whole), load_file_at_start(tmp_path, recipe))
    assert steps_logged(killed) == list(range(2, 31, 2))
    assert [p.name for p in killed.iterdir() if p.name.startswith(".")] == []
    assert json.loads((whole / "eval.json").read_text())["miou"] == pytest.approx(
        json.loads((killed / "eval.json").read_text())["miou"]
    )


def load_file_at_start(tmp_path: Path, recipe: Path) -> dict[str, torch.Tensor]:
    out = tmp_path / "short"
    assert main(["train", str(recipe), "--out", str(out), "--set", "steps=1"]) == 0
    return weights(out)


def test_what_a_run_leaves_behind(tmp_path, recipe_file, capsys):
    recipe = recipe_file(steps=4, extra="eval_every = 2\neval_sizes = [[32, 64], [48, 64]]\n")
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(out), "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = json.loads((out / "eval.json").read_text())
    assert printed == {"folder": str(out / "checkpoint"), **result}
    assert set(result["sizes"]) == {"32x64", "48x64"}
    assert result["miou"] == result["sizes"]["32x64"]["miou"]
    assert result["frames"] == 5
    assert set(result["per_class"]) >= {"sky", "building", "road"}
    manifest = read_bundle(out / "checkpoint").manifest
    assert (manifest.name, manifest.table.name) == ("espnetc_q3", "camvid11")
    assert (manifest.input.order, manifest.input.fill) == ("rgb", (124, 116, 104))
    assert manifest.input.size == (32, 64)
    assert manifest.weights.data == "camvid train"
    assert "step 4 of 4" in manifest.history[0]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "recipe.toml").read_text() == recipe.read_text()
    assert list((out / "tensorboard").iterdir())
    logged = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    assert logged[0] == ["step", "seconds", "loss", "lr", "grad_norm", "frames_per_second", "miou"]
    assert [row[0] for row in logged[1:]] == ["2", "4"]
    assert all(row[-1] for row in logged[1:])


def test_a_resumed_finished_run_changes_nothing(tmp_path, recipe_file):
    recipe, out = recipe_file(steps=2), tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(out)]) == 0
    before = weights(out)
    assert main(["train", str(recipe), "--out", str(out), "--resume"]) == 0
    assert same(before, weights(out))
    assert steps_logged(out) == [2]


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, recipe_file):
    recipe, out = recipe_file(steps=100000, extra="save_every = 100000\n"), tmp_path / "run"
    recipe.write_text(recipe.read_text().replace("\nsave_every = 4\n", "\n"))
    process = start("-m", "edgeseg", "train", str(recipe), "--out", str(out))
    wait_for_step(process, out, 2)
    process.send_signal(signal.SIGINT)
    _printed, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    step = int(errors.split("interrupted after step ")[1].split(";")[0])
    assert step >= 2
    assert errors.strip().endswith(f"--out {out} --resume")
    assert torch.load(out / "state.pt", weights_only=True)["step"] == step


def test_two_processes_compute_the_gradient_of_one(tmp_path, recipe_file):
    """One SGD step with rate 1 and no momentum: the change of the weights is the gradient."""
    recipe = recipe_file(steps=1, extra="freeze_bn = true\nema = 0\n")
    plain = ["optimizer.lr=1.0", "optimizer.momentum=0", "optimizer.weight_decay=0",
             "optimizer.clip=0", "schedule.start=1.0", "schedule.rise=0", "batch=8"]  # fmt: skip
    changes = [word for change in plain for word in ("--set", change)]
    one, two = tmp_path / "one", tmp_path / "two"
    process = start(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "edgeseg", "train", str(recipe), "--out", str(two), *changes,
    )  # fmt: skip
    assert main(["train", str(recipe), "--out", str(one), *changes]) == 0
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert printed.count("checkpoint:") == 1
    a, b = (torch.load(f / "state.pt", weights_only=True)["model"] for f in (one, two))
    for key, value in a.items():
        np.testing.assert_allclose(b[key], value, rtol=0, atol=2e-6, err_msg=key)
    start_of = torch.load(_fresh(tmp_path, recipe, changes) / "state.pt", weights_only=True)
    moved = max(float((a[k] - v).abs().max()) for k, v in start_of["average"]["model"].items())
    assert moved > 1e-2
    results = [json.loads((f / "eval.json").read_text()) for f in (one, two)]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]


def _fresh(tmp_path: Path, recipe: Path, changes: list[str]) -> Path:
    out = tmp_path / "fresh"
    still = ["--set", "optimizer.lr=1e-12"]
    assert main(["train", str(recipe), "--out", str(out), *changes, *still]) == 0
    return out
