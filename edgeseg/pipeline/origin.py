"""Where the weights of a training run come from: recipe, starting weights, licences, thanks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle import WeightsSpec, read_manifest
from edgeseg.errors import BundleError, EdgesegError, UsageError
from edgeseg.frame import format_size
from edgeseg.recipe import read_recipe
from edgeseg.training.folder import CHECKPOINT, RECIPE, RESULT
from edgeseg.training.plan import Recipe
from edgeseg.weights import is_non_commercial, weights_folder

# fmt: off
THANKS = {
    # word         whom to name
    "camvid":      "CamVid (Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009)",
    "cityscapes":  "Cityscapes (Cordts et al., CVPR 2016)",
    "idd":         "IDD-Lite (Varma et al., WACV 2019)",
    "imagenet":    "ImageNet (Russakovsky et al., IJCV 2015)",
    "sacmehta":    "ESPNet's published weights (github.com/sacmehta)",
    "synthetic":   "",  # edgeseg draws them
}
# fmt: on
"""Word in what is said about data and origin -> attribution."""


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe as read, the words that chose it, and what eval.json says."""

    folder: Path
    recipe: Recipe
    variant: str
    changes: tuple[str, ...]
    result: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """Its weights."""
        return self.folder / CHECKPOINT


def read_run(folder: Path) -> Run:
    """A run folder; UsageError for a run that is not finished."""
    for name in (CHECKPOINT, RECIPE, RESULT):
        if not (folder / name).exists():
            raise UsageError(
                f"{folder} has no {name}; expected the folder of a finished 'edgeseg train'"
            )
    text = (folder / RECIPE).read_text(encoding="utf-8")
    variant = "".join(re.findall(r"^# --variant (.+)$", text, re.MULTILINE)[-1:])
    changes = tuple(re.findall(r"^# --set (.+)$", text, re.MULTILINE))
    recipe = read_recipe(Recipe, folder / RECIPE, changes, variant)
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return Run(folder, recipe, variant, changes, result)


def find_recipe(run: Run, suites: Path) -> Path:
    """The recipe file of the repository that the run was made by."""
    for path in sorted(suites.glob("*.toml")):
        with contextlib.suppress(EdgesegError):
            if read_recipe(Recipe, path, run.changes, run.variant).digest() == run.recipe.digest():
                return path
    which = f" (variant {run.variant})" if run.variant else ""
    raise UsageError(
        f"no recipe in {suites} is that of {run.folder}{which}; put it there, so that others can "
        "train the same"
    )


def find_starts(init: str) -> dict[str, WeightsSpec]:
    """Folder -> what its weights say of themselves: what `init` started from, and `init`."""
    if not init:
        return {}
    if init.endswith(".pth"):
        raise UsageError(
            f"the run started from {init}, a file that names no licence; what came of it can't be "
            "shipped"
        )
    try:
        folder = weights_folder(init)
    except BundleError as error:
        raise UsageError(
            f"the run started from {init}, which is gone: its licence can't be read"
        ) from error
    before = read_run(folder.parent).recipe.init if (folder.parent / RECIPE).exists() else ""
    return {**find_starts(before), init: read_manifest(folder).weights}


def check_terms(weights: WeightsSpec, starts: dict[str, WeightsSpec]) -> list[str]:
    """Whom to thank; UsageError for a licence that is not said, or that hides another."""
    if weights.licence == "unknown":
        raise UsageError("the licence of the weights is unknown; say it in the recipe's [weights]")
    bound = [s for s in starts.values() if is_non_commercial(s.licence)]
    if bound and not is_non_commercial(weights.licence):
        raise UsageError(
            f"the run started from weights under '{bound[0].licence}' and calls its own "
            f"'{weights.licence}'; the recipe's [weights] must say that they are non-commercial"
        )
    said = " ".join(
        " ".join(dataclasses.astuple(spec)) for spec in (weights, *starts.values())
    ).lower()
    known = [word for word in THANKS if re.search(rf"\b{word}", said)]
    if not known:
        raise UsageError(
            f"nobody to thank is known for '{weights.data}'; add to THANKS in "
            "edgeseg/pipeline/origin.py"
        )
    return [THANKS[word] for word in known if THANKS[word]]


def describe(
    run: Run, recipe_file: Path, starts: dict[str, WeightsSpec], weights: WeightsSpec
) -> dict[str, Any]:
    """What the card says about data, licence, starting weights and training."""
    recipe, result = run.recipe, run.result
    words = [f"edgeseg train {recipe_file.as_posix()}"]
    words += [f"--variant {run.variant}"] if run.variant else []
    words += [f"--set {change}" for change in run.changes]
    return {
        "weights": dataclasses.asdict(weights),
        "starts": [
            f"`{folder}`: {s.data} ({s.licence}; {s.source})" for folder, s in starts.items()
        ],
        "recipe": {
            "file": recipe_file.as_posix(),
            "digest": result["recipe"],
            "command": " ".join([*words, f"--out runs/{run.folder.name}"]),
            "training": f"{result['step']:,} steps of {recipe.batch} crops of "
            f"{format_size(recipe.size)}, {recipe.optimizer.name}, {recipe.schedule.name}, "
            f"EMA {recipe.ema:g}, seed {recipe.seed}, {result['seconds'] / 60:.0f} minutes",
        },
    }  # fmt: skip
