"""What the INT8 comparison compares: models, methods and their environments, read from TOML."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError, guess
from edgeseg.export.targets import EXPORTERS
from edgeseg.frame import Size
from edgeseg.pipeline.environments import Environment, interpreter
from edgeseg.pipeline.plan import CALIBRATION_FRAMES

KINDS = ("edgeseg", "script", "folder")


@dataclass(frozen=True)
class Model:
    """A float model, its input size, and the data: calibrated on train, scored on `split`."""

    model: str
    size: Size
    data: str
    split: str = "val"


@dataclass(frozen=True)
class Method:
    """One way to INT8.

    kind "edgeseg": our own, `options` as `int8_comparison_ours` takes them.
    kind "script": a program that takes the same arguments, run by the Python of `environment`
    (ours if that is empty); it writes a file named `out`.
    kind "folder": a folder that is there already, an INT8 one for ONNX Runtime or one that
    `edgeseg train --qat` wrote; `{model}` in its path becomes the model's name.
    A method is for all models, or for those in `models`.
    """

    title: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    environment: str = ""
    folder: str = ""
    out: str = "network.onnx"
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is '{self.kind}'.{guess(self.kind, KINDS)}")
        for key in ("script", "folder"):
            if (self.kind == key) != bool(getattr(self, key)):
                advice = "give it" if self.kind == key else "leave it away"
                raise ValueError(f"{_belongs(key, key, self.kind)}; {advice}")
        if self.environment and self.kind != "script":
            raise ValueError(_belongs("environment", "script", self.kind))
        if Path(self.out).suffix not in (".onnx", ".xml"):
            raise ValueError(f"out is '{self.out}'; expected a name in .onnx or .xml")


def _belongs(key: str, kind: str, found: str) -> str:
    return f"key '{key}' belongs to kind '{kind}', and kind is '{found}'"


@dataclass(frozen=True)
class Suite:
    """The file. `memory_cap_mib` and `limit_seconds` hold for each calibrating process.

    `prepare` are edgeseg commands with --out; each is run unless its --out is there.
    """

    title: str
    folder: str
    results: str
    models: dict[str, Model]
    methods: dict[str, Method]
    environments: dict[str, Environment] = field(default_factory=dict)
    engines: tuple[str, ...] = tuple(EXPORTERS)
    calibration_frames: int = CALIBRATION_FRAMES
    memory_cap_mib: int = 8192
    limit_seconds: float = 1800.0
    prepare: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for engine in self.engines:
            if engine not in EXPORTERS:
                raise ValueError(f"unknown engine '{engine}'.{guess(engine, EXPORTERS)}")
        for name, method in self.methods.items():
            where, own = f"[methods.{name}]", method.environment
            if own and own not in self.environments:
                raise ValueError(f"{where}: no environment '{own}'.{guess(own, self.environments)}")
            for model in method.models:
                if model not in self.models:
                    raise ValueError(f"{where}: no model '{model}'.{guess(model, self.models)}")

    def pairs(self, only: Collection[str] = ()) -> list[tuple[str, str]]:
        """(model, method) in order; `only` holds names of models, of methods, or of both."""
        known = (*self.models, *self.methods)
        for name in only:
            if name not in known:
                raise UsageError(f"--only {name}: no such model or method.{guess(name, known)}")
        models = [m for m in self.models if m in only] or list(self.models)
        methods = [m for m in self.methods if m in only] or list(self.methods)
        return [
            (model, method)
            for model in models
            for method in methods
            if model in (self.methods[method].models or self.models)
        ]

    def python(self, environment: str) -> Path:
        """The interpreter that runs the scripts of an environment; "" is this one."""
        return interpreter(Path(self.folder), environment)
