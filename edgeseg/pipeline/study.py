"""A study: the variants of one recipe, trained on one budget; `study_results` compares them.

The recipe file says in its table [study] what belongs together; `Study` lists the keys.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.errors import RecipeError, TrainingError, guess
from edgeseg.recipe import from_table, read_recipe, read_toml

Say = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """Variant `better` has at least `target` mIoU more than variant `than`; `source` says so."""

    better: str
    than: str
    target: float
    source: str = ""


@dataclass(frozen=True)
class Study:
    """The table [study] of a recipe: `folder` holds the runs, `results` what is kept of them.

    `prepare` are edgeseg commands with --out; each is run unless its --out is there.
    """

    title: str
    folder: str
    results: str
    prepare: tuple[str, ...] = ()
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run to train: its folder, the command, and the checkpoint folder it starts from."""

    variant: str
    folder: Path
    words: tuple[str, ...]
    init: str


def read_study(path: Path) -> tuple[Study, dict[str, Claim], list[str]]:
    """[study], its claims and the names of the variants."""
    content = read_toml(path)
    table, variants = content.get("study"), content.get("variants")
    if not isinstance(table, dict) or not isinstance(variants, dict) or not variants:
        raise RecipeError(
            f"{path}: a study needs a table [study] and [variants.NAME]; train a plain recipe with "
            "'edgeseg train'"
        )
    study = from_table(Study, table, f"{path}: [study]")
    claims = {}
    for name, claim in study.claims.items():
        where = f"{path}: [study.claims.{name}]"
        claims[name] = from_table(Claim, claim, where)
        for variant in (claims[name].better, claims[name].than):
            if variant not in variants:
                raise RecipeError(f"{where}: no variant '{variant}'.{guess(variant, variants)}")
    return study, claims, list(variants)


def run_folder(study: Study, variant: str, seed: int | None) -> Path:
    """Where a run lies; `seed` None is the recipe's own."""
    base = Path(study.folder)
    return base / variant if seed is None else base / f"seed{seed}" / variant


def prepare(commands: tuple[str, ...], say: Say) -> None:
    """Run the edgeseg commands whose --out is not there."""
    for command in commands:
        words = shlex.split(command)
        if words[:1] != ["edgeseg"] or "--out" not in words[:-1]:
            raise RecipeError(f"prepare holds '{command}'; expected 'edgeseg VERB ... --out DIR'")
        if Path(words[words.index("--out") + 1]).exists():
            continue
        say(command)
        if subprocess.run([sys.executable, "-m", *words], check=False).returncode:
            raise TrainingError(f"the study needs what '{command}' makes, and it failed")


def plan(path: Path, study: Study, variants: list[str], seed: int | None) -> list[Job]:
    """The runs of `variants`; with `seed`, rounds start from that seed's own runs."""
    from edgeseg.training.plan import Recipe

    jobs = []
    for variant in variants:
        recipe = read_recipe(Recipe, path, variant=variant)
        folder, init, changes = run_folder(study, variant, seed), recipe.init, []
        if seed is not None:
            changes = ["--set", f"seed={seed}"]
            former = Path(init)
            if init and former.name == "checkpoint" and former.parent.parent == Path(study.folder):
                init = str(run_folder(study, former.parent.name, seed) / "checkpoint")
                changes += ["--init", init]
        words = ("train", str(path), "--variant", variant, "--out", str(folder), *changes)
        jobs.append(Job(variant, folder, words, init))
    return jobs


def train_all(jobs: list[Job], at_once: int, say: Say) -> list[str]:
    """Train what is not finished, `at_once` runs at a time; the names of those that failed.

    A run waits for the one that it starts from. Ctrl-C stops all of them, each after its step.
    """
    waiting = [job for job in jobs if not (job.folder / "eval.json").exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            for job in _ready(waiting, running)[: at_once - len(running)]:
                waiting.remove(job)
                running[job.variant] = _start(job, at_once)
                say(f"{job.variant}: training into {job.folder}")
            if not running:
                failed += [job.variant for job in waiting]
                break
            time.sleep(0.2)
            for variant, process in list(running.items()):
                if process.poll() is not None:
                    del running[variant]
                    failed += [variant] if process.returncode else []
                    say(f"{variant}: {'failed' if process.returncode else 'done'}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _ready(waiting: list[Job], running: dict[str, subprocess.Popen[bytes]]) -> list[Job]:
    """Those whose start is there, and that nothing still to be trained is the start of."""
    unfinished = {job.folder / "checkpoint" for job in waiting}
    return [
        job for job in waiting
        if Path(job.init) not in unfinished
        and Path(job.init).parent.name not in running
        and (not job.init or Path(job.init).exists())
    ]  # fmt: skip


def _start(job: Job, at_once: int) -> subprocess.Popen[bytes]:
    resume = ("--resume",) if (job.folder / "state.pt").exists() else ()
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (job.folder.parent / f"{job.variant}.log").open("ab") as log:
        words = [sys.executable, "-m", "edgeseg", *job.words, *resume]
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment)
