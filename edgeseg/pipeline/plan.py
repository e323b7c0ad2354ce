"""What was asked for, as plain data: the steps read it, the command line fills it in.

No engine, no ONNX and no torch: `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg.bundle import PRECISIONS
from edgeseg.errors import UsageError, guess
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.gate import Budget
from edgeseg.export.targets import BUILDERS, EXPORTERS, TARGETS
from edgeseg.frame import Size

DEFAULT_MODEL = "espnet_q3"
SYNTHETIC = "synthetic:"
SIZES = ((256, 512), (512, 1024))
GATE_FRAMES = 24
CALIBRATION_FRAMES = 100
METHOD = "mse"
RESULTS, REPORT, BUILT = "results.json", "report.html", "built.json"
CHECKPOINT = "checkpoint"
"""What `edgeseg train` calls its model folder in every run."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """What was typed: the MODEL, how it shall run, and (for a foreign .onnx) how to read it.

    `rewritten` is not typed: in a race others hold the graph without our rewrites.
    """

    model: str
    size: Size | None = None
    fit: str | None = None
    order: str | None = None
    batch: int = 1
    scores: bool = False
    classes: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    rewritten: bool = True

    def __post_init__(self) -> None:
        if self.std is not None and min(self.std) <= 0:
            numbers = ",".join(f"{s:g}" for s in self.std)
            raise UsageError(f"--std is {numbers}; expected positive numbers")

    @property
    def stem(self) -> str:
        """The model's name without folders and `.onnx`, to name what is made from it.

        A run's `NAME/checkpoint` is called by the run.
        """
        path = Path(self.model)
        if path.name == CHECKPOINT and path.parent.name:
            path = path.parent
        return path.name.removesuffix(".onnx")


MAX_FLOAT_SHARE = 0.2
"""At most this share of the convolutions returns to float before the gate gives up."""


@dataclass(frozen=True)
class Plan:
    """What to build and how far it may depart.

    `pad` is the number that channels of a float graph are padded to multiples of; 0: as they are.
    """

    target: str
    precision: str
    method: str = METHOD
    budget: Budget = Budget()
    max_float_share: float = MAX_FLOAT_SHARE
    options: BuildOptions = field(default_factory=BuildOptions)
    recipe: str = ""
    pad: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision '{self.precision}'.{guess(self.precision, PRECISIONS)}"
            )
        if self.target not in TARGETS:
            raise UsageError(f"unknown target '{self.target}'.{guess(self.target, TARGETS)}")
        if not 0 <= self.max_float_share <= 1:
            raise UsageError(f"--max-float-share is {self.max_float_share}; expected 0 to 1")


@dataclass(frozen=True)
class Building:
    """Which TensorRT to build with, what to ask of it, how far its engine may depart."""

    target: str = "tensorrt"
    options: BuildOptions = field(default_factory=BuildOptions)
    budget: Budget = field(default_factory=Budget)
    recipe: str = ""

    def __post_init__(self) -> None:
        if self.target in EXPORTERS:
            raise UsageError(
                f"target '{self.target}' needs no build: its folder runs wherever the library is"
            )
        if self.target not in BUILDERS:
            raise UsageError(f"unknown target '{self.target}'.{guess(self.target, BUILDERS)}")
