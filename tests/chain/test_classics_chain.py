"""The classic systems through the whole chain: trained a little, then exported to every target.

Narrow ones, on small synthetic streets. Two in CI; all of them by `make test-all`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import one_cpu

from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.export.gate import Budget
from edgeseg.models import MODELS
from edgeseg.pipeline.export import choose_frames, export_network
from edgeseg.pipeline.floats import make_float
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate

pytestmark = pytest.mark.chain

STREETS = "synthetic:size=64x128,count=60"
TARGETS = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "tensorrt-rtx": ("fp32", "fp16", "int8"),
}
WIDE = Budget(100.0, 100.0)
RECIPE = f"""
data = "{STREETS}"
size = [64, 128]
steps = 20
batch = 4
seed = 1
ema = 0.5
eval_frames = 4
model = "{{name}}"
[options]
{{options}}
[optimizer]
name = "adamw"
lr = 0.003
"""
SMALL = {"enet", "fast_scnn", "bisenetv1_x39", "bisenetv2"}
"""As they are; the others get a width of 1/8, those on VGG batch normalisation too."""
WITHOUT_NORM = ("fcn32s", "fcn16s", "fcn8s", "deeplabv1")
CLASSICS = list(MODELS)[list(MODELS).index("enet") :]
DEEPER = {name for name in CLASSICS if name.endswith("_r101")} - {"deeplabv2_r101"}
"""The same graph as with ResNet-50, only longer."""
WRAPPED = ("deeplabv3plus_r18+dsrl", "pspnet_r18+dsrl", "fcn_r50+dupsample")
REFINER = "cascadepsp_r18"
"""After so few steps it calls nearly all of a frame outside; what it says when it has learnt more
is compared in tests/rooms/test_refiner_export.py."""
NAMES = [name for name in CLASSICS if name not in DEEPER] + [*WRAPPED, REFINER]
IN_CI = ("segnet", "pspnet_r18")
LONG = [pytest.param(n, marks=pytest.mark.long) if n not in IN_CI else n for n in NAMES]


def options_of(name: str) -> str:
    host = name.partition("+")[0]
    lines = [] if host in SMALL else ["width = 0.125"]
    lines += ["norm = true"] if host in WITHOUT_NORM else []
    return "\n".join(lines)


def train(name: str, folder: Path) -> Path:
    """A checkpoint after a few steps."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(name=name, options=options_of(name)))
    assert main(["train", str(recipe), "--out", str(folder / "run")]) == 0
    return folder / "run" / "checkpoint"


def least_agreement(precision: str) -> float:
    """INT8 of a network that has hardly learnt: its scores lie close together."""
    return 99.0 if precision == "fp32" else 60.0


@pytest.mark.parametrize("name", LONG)
def test_every_engine_says_what_the_float_network_says(name, tmp_path):
    """TensorRT-RTX builds all; they run where there is a GPU."""
    with one_cpu():
        checkpoint = train(name, tmp_path)
        said: list[str] = []
        frames = choose_frames(STREETS, None, calibration=16)
        network = make_float(Source(str(checkpoint)), frames.gate, said.append)
        quantiser = Quantiser(network, calibrate(network, frames.calibration, "mse", said.append))
        for target, precisions in TARGETS.items():
            for precision in precisions:
                out = tmp_path / f"{target}-{precision}"
                given = quantiser if precision == "int8" else None
                plan = Plan(target, precision, budget=WIDE)
                export_network(network, given, plan, out, said.append)
                gate = read_bundle(out).manifest.gate
                if target == "tensorrt-rtx":
                    assert gate.state in ("passed", "not run"), said
                else:
                    assert gate.state == "passed", said
                    assert gate.agreement >= least_agreement(precision), (target, precision, said)
