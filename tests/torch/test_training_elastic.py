"""torchrun starts the processes again after a failure; the run ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgeseg.errors import TrainingError
from edgeseg.training.distributed import World, together

pytestmark = pytest.mark.chain


def launch(recipe: Path, out: Path) -> subprocess.Popen:
    words = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 -m edgeseg"
    return subprocess.Popen(
        [sys.executable, *words.split(), "train", str(recipe), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(process: subprocess.Popen, log: Path, rows: int) -> None:
    limit = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > rows):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of torchrun in /proc")
def test_a_lost_process_is_made_up_for(tmp_path, recipe_file):
    recipe = recipe_file(steps=60)
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    process = launch(recipe, whole)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    process = launch(recipe, hurt)
    wait_for_rows(process, hurt / "log.csv", 10)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    _printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "exitcode: -9" in errors
    a, b = (load_file(f / "checkpoint" / "weights.safetensors") for f in (whole, hurt))
    assert all(torch.equal(a[key], b[key]) for key in a)
    steps = [line.split(",")[0] for line in (hurt / "log.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(2, 61, 2)]


def test_a_lost_process_is_told_from_a_bug():
    world = World(torch.device("cpu"), 0, 2)
    with pytest.raises(TrainingError) as caught, together(world):
        raise RuntimeError("[/a/gloo/pair.cc:5] Connection closed by peer. This is\nmore")
    assert str(caught.value) == (
        "process 0 lost touch with another one (Connection closed by peer); look at its message, "
        "then go on with --resume"
    )
    with pytest.raises(RuntimeError, match="a bug"), together(world):
        raise RuntimeError("a bug")
