"""The state of a run on disk: all that is needed to go on exactly where it was.

Random values are functions of (seed, step), so the step is the state of sampler and generators.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeseg.disk import writing_file
from edgeseg.errors import TrainingError
from edgeseg.training.plan import Recipe

STATE = "state.pt"
SCHEMA = 1


@dataclass(frozen=True)
class State:
    """After `step` steps. `seconds` were spent; `constants` were computed from the data once."""

    step: int
    seconds: float
    recipe: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]
    scaler: dict[str, Any]
    constants: dict[str, Any]


def save_state(folder: Path, state: State) -> None:
    """Write aside, flush to the disk, rename: a kill leaves the old state or the new one."""
    content = io.BytesIO()  # torch's own file writer hides a full disk behind a RuntimeError
    torch.save({"schema": SCHEMA, **state.__dict__}, content)
    with writing_file(folder / STATE) as aside:
        aside.write_bytes(content.getbuffer())


def load_state(folder: Path, recipe: Recipe) -> State:
    """Read the state of a run of the same recipe; TrainingError says why it can't be used."""
    path = folder / STATE
    if not path.is_file():
        raise TrainingError(
            f"{folder} holds no run to resume ({STATE} is missing); leave --resume away to start"
        )
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise _damaged(path) from error
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise _damaged(path)
    try:
        state = State(**content)
    except TypeError as error:
        raise _damaged(path) from error
    check_recipe(folder, state.recipe, recipe)
    return state


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        f"{path} is truncated or was not written by this edgeseg; start again in a new --out folder"
    )


def check_recipe(folder: Path, old: dict[str, Any], recipe: Recipe) -> None:
    """TrainingError that names the first key by which the weights would come out differently."""
    new = recipe.what_matters()
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise TrainingError(
                f"{folder} was trained with {key} = {old.get(key)!r}, the recipe now says "
                f"{new.get(key)!r}; give the old value, or start in a new --out folder"
            )
