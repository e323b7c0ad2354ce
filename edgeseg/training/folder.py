"""The folder of a run: who may write there, and what lies in it besides the state.

| file | is |
|---|---|
| state.pt | all that is needed to go on |
| checkpoint/ | the averaged weights as a checkpoint folder |
| recipe.toml | the recipe as it was given |
| log.csv, tensorboard/, curves.png | loss, learning rate, mIoU over the steps |
| eval.json | mIoU and IoU per class after the last step (top1, top5) |
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgeseg.disk import check_folder, write_json, write_text
from edgeseg.errors import TrainingError
from edgeseg.training.evaluation import Judged
from edgeseg.training.plan import Recipe
from edgeseg.training.state import STATE

CHECKPOINT = "checkpoint"
RECIPE = "recipe.toml"
RESULT = "eval.json"
ASIDE = (f".{STATE}.", f".{CHECKPOINT}.", f".{RECIPE}.", f".{RESULT}.", ".log.csv.", ".curves.png.")
"""What a killed run may have been writing begins with one of these."""


def claim(folder: Path, *, resume: bool) -> None:
    """Clear what a kill left half-written; TrainingError if another run's things are there."""
    check_folder(folder)
    if not folder.exists():
        return  # the first file makes it: a run that is refused leaves nothing
    for path in folder.iterdir():
        if path.name.startswith(ASIDE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if resume:
        return
    if (folder / STATE).exists():
        raise TrainingError(
            f"{folder} holds a run already; go on with it by --resume, or give a new --out folder"
        )
    if any(folder.iterdir()):
        raise TrainingError(f"{folder} holds other things; give --out a new or empty folder")


def keep_recipe(folder: Path, source: str) -> None:
    """Keep the recipe as it was given."""
    if source:
        write_text(folder / RECIPE, source)


def write_result(
    folder: Path,
    recipe: Recipe,
    seconds: float,
    frames: int,
    judged: dict[str, Judged],
    basis: dict[str, float] | None = None,
) -> None:
    """Write eval.json: the scores at the first size on top, those of every size below.

    `basis` says what DUpsampling's W loses of the labels: the bound of all that it can reach.
    """
    first = next(iter(judged.values()))
    content: dict[str, Any] = {
        **first.scores,
        "split": recipe.eval_split,
        "frames": frames,
        "rule": first.rule,
        "fit": recipe.input.fit,
        "sizes": {size: result.scores for size, result in judged.items()},
        "model": recipe.model,
        "step": recipe.steps,
        "seconds": round(seconds, 1),
        "recipe": recipe.digest(),
    }
    if basis is not None:
        content["dupsample"] = basis
    write_json(folder / RESULT, content)


def read_result(folder: Path) -> dict[str, Any]:
    """The content of eval.json."""
    content: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return content
