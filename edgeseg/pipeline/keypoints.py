"""Keypoints with and without DSRL: the variants of one recipe, trained in turn -> one JSON file.

`python -m edgeseg.pipeline.keypoints benchmarks/suites/keypoints.toml --out FILE.json`
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.bootstrap import DRAWS, LEVEL, Interval, mean_difference
from edgeseg.benchmarks.machine import machine
from edgeseg.disk import check_file, write_json
from edgeseg.errors import RecipeError, exit_code
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
    return {
        "recipe": path.as_posix(),
        "rule": f"percent of joints within a share of neck to hip; intervals {LEVEL} %, bootstrap "
        f"over persons, {DRAWS} draws",
        "machine": machine(),
        "runs": rows,
    }


def _row(recipe: Recipe, trained: Trained, first: np.ndarray) -> dict[str, Any]:
    mine, others = ((100.0 * (d <= CHOSEN).mean(1)).tolist() for d in (trained.distances, first))
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
        "interval": _rounded(mean_difference(mine, [0.0] * len(mine))),
        "more_than_first": _rounded(mean_difference(mine, others)),
    }


def _percent(right: np.ndarray) -> float:
    return round(100.0 * float(right.mean()), 2)


def _rounded(found: Interval) -> dict[str, float]:
    return {key: round(value, 2) for key, value in asdict(found).items()}


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(words)
    command = shlex.join(["python", "-m", MODULE, *words])
    return exit_code(lambda: _run(args, command))


def _run(args: argparse.Namespace, command: str) -> None:
    check_file(args.out)
    write_json(args.out, {"command": command, **compare(args.recipe, tuple(args.set), _say)})


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
