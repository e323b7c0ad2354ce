"""Rivals live in virtual environments of their own: they are no dependency of edgeseg."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeseg.disk import write_text
from edgeseg.errors import EngineError
from edgeseg.pipeline.plan import Say

INSTALLED = ".installed"


@dataclass(frozen=True)
class Environment:
    """What pip installs into it, with versions; `alone` are taken without what they ask for."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


def interpreter(folder: Path, environment: str) -> Path:
    """The Python of an environment under `folder`; "" is this one."""
    if not environment:
        return Path(sys.executable)
    return folder / f"env-{environment}" / "bin" / "python"


def install(folder: Path, environments: dict[str, Environment], say: Say) -> None:
    """Make the environments under `folder` that are not there; EngineError when pip fails."""
    for name, environment in environments.items():
        python = interpreter(folder, name)
        mark = python.parents[1] / INSTALLED
        wanted = "\n".join((*environment.packages, *environment.alone))
        if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
            continue
        say(f"environment {name}: {' '.join((*environment.packages, *environment.alone))}")
        pip = (str(python), "-m", "pip", "install", "--quiet")
        steps = [
            (sys.executable, "-m", "venv", "--clear", str(python.parents[1])),
            (*pip, *environment.packages),
        ]
        if environment.alone:
            steps.append((*pip, "--no-deps", *environment.alone))
        for words in steps:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise EngineError(f"environment '{name}' can't be made: {last}")
        write_text(mark, wanted)
