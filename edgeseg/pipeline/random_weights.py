"""A model's name -> a checkpoint folder of random weights, which says so in its name."""

from __future__ import annotations

from pathlib import Path

from edgeseg.bundle import InputSpec, Manifest, ModelSpec, WeightsSpec
from edgeseg.export.gate import Budget
from edgeseg.frame import Size
from edgeseg.labels import ClassTable
from edgeseg.models import REFINERS, split_name

MARK = "(random weights)"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet's, in uint8 units."""
ANY = Budget(100.0, 100.0)
"""What a gate may find: labels of random weights say nothing."""
CALIBRATION_FRAMES = 2
GATE_FRAMES = 1
"""What they are built on: that engines run them is all that can be found."""
SAME = 98.0
"""Percent of labels on which a graph agrees with torch: their scores lie close together."""
NOTHING = "nothing: random weights"


def is_random(manifest: Manifest) -> bool:
    """Whether nobody trained these weights."""
    return manifest.weights.data == NOTHING


def make_random(name: str, table: ClassTable, size: Size, folder: Path) -> Path:
    """Write `folder`/NAME for the model `name` and return it."""
    from edgeseg.models.fresh import save_fresh

    if name not in REFINERS:
        split_name(name)
    manifest = Manifest(
        kind="checkpoint",
        name=f"{name} {MARK}",
        model=ModelSpec(name),
        classes=table.to_dict(),
        input=InputSpec("rgb", MEAN, STD, size=size),
        weights=WeightsSpec(NOTHING, "none", "edgeseg bench --weights random"),
        history=("random weights",),
    )
    return save_fresh(folder / name, manifest).folder
