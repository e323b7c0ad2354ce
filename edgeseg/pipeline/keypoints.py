"""Keypoints with and without DSRL: the variants of one recipe, trained in turn -> one JSON file.

`python -m edgeseg.pipeline.keypoints benchmarks/suites/keypoints.toml --out FILE.json`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.bootstrap import DRAWS, LEVEL, SEED
from edgeseg.benchmarks.machine import machine
from edgeseg.disk import write_json
from edgeseg.errors import EdgesegError, RecipeError
from edgeseg.pipeline.plan import Say
from edgeseg.recipe import read_recipe, read_toml
from edgeseg.training.keypoints import Trained, train
from edgeseg.training.plan import Recipe

MODULE = "edgeseg.pipeline.keypoints"
LIMITS = (0.05, 0.1, 0.2)
"""A joint is found within that many torsos of its place (PCK; 0.2 in Yang and Ramanan 2013)."""
CHOSEN = 0.1
"""The limit whose PCK has an interval."""


def compare(path: Path, changes: tuple[str, ...], say: Say) -> dict[str, Any]:
    """Train all variants of a recipe; each is compared with the first, on the same persons."""
    variants = list(read_toml(path).get("variants", {}))
    if not variants:
        raise RecipeError(f"{path}: expected variants to compare, as [variants.NAME]")
    rows: list[dict[str, Any]] = []
    first: np.ndarray | None = None
    for variant in variants:
        say(f"{variant}: training")
        recipe = read_recipe(Recipe, path, changes, variant)
        trained = train(recipe, say)
        first = trained.distances if first is None else first
        rows.append({"variant": variant, **_row(recipe, trained, first)})
        say(f"{variant}: PCK@{CHOSEN:g} {rows[-1]['pck'][f'{CHOSEN:g}']}")
    words = [path.as_posix(), *(f"--set {change}" for change in changes)]
    return {
        "command": f"python -m {MODULE} {' '.join(words)}",
        "recipe": path.as_posix(),
        "rule": f"percent of joints within a share of neck to hip; intervals {LEVEL} %, bootstrap "
        f"over persons, {DRAWS} draws",
        "machine": machine(),
        "runs": rows,
    }


def _row(recipe: Recipe, trained: Trained, first: np.ndarray) -> dict[str, Any]:
    mine, others = (100.0 * (d <= CHOSEN).mean(1) for d in (trained.distances, first))
    return {
        "model": recipe.model,
        "options": recipe.options,
        "size": list(recipe.size),
        "steps": recipe.steps,
        "batch": recipe.batch,
        "seed": recipe.seed,
        "params": trained.params,
        "macs": trained.macs,
        "seconds": round(trained.seconds, 1),
        "persons": len(mine),
        "pck": {f"{limit:g}": _percent(trained.distances <= limit) for limit in LIMITS},
        "interval": _interval(mine),
        "more_than_first": {"value": _percent((mine - others) / 100), **_interval(mine - others)},
    }


def _percent(right: np.ndarray) -> float:
    return round(100.0 * float(right.mean()), 2)


def _interval(values: np.ndarray) -> dict[str, float]:
    """Bounds of the mean of (persons,) values."""
    generator = np.random.default_rng(SEED)
    means = values[generator.integers(0, len(values), (DRAWS, len(values)))].mean(1)
    low, high = np.percentile(means, ((100 - LEVEL) / 2, (100 + LEVEL) / 2))
    return {"low": round(float(low), 2), "high": round(float(high), 2)}


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(words)
    try:
        result = compare(args.recipe, tuple(args.set), lambda text: print(text, file=sys.stderr))  # noqa: T201
    except EdgesegError as error:
        print(f"edgeseg: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    write_json(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
