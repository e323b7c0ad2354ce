"""Recipes of boards: what `edgeseg export --board NAME` asks for, unless typed otherwise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgeseg.bundle import PRECISIONS
from edgeseg.errors import UsageError, guess
from edgeseg.export.build_options import DEVICES, BuildOptions
from edgeseg.export.targets import BUILDERS, DEVICE_TARGET, TARGETS
from edgeseg.recipe import read_recipe

ROOM = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class BoardRecipe:
    """A board: what to build for it, how to set it, what to know.

    `size` is (height, width). `workspace_mib` and `dla` are TensorRT's, `device` OpenVINO's;
    `power_mode` is what to type on the board. `inference_precision` is a hint for
    `edgeseg.load`. `name` is the file's.
    """

    title: str
    target: str
    precision: str
    size: tuple[int, int]
    workspace_mib: int | None = None
    dla: int | None = None
    device: str | None = None
    power_mode: str = ""
    inference_precision: str | None = None
    notes: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target is '{self.target}'; expected {', '.join(TARGETS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is '{self.precision}'; expected {', '.join(PRECISIONS)}")
        if self.device not in (None, *DEVICES):
            raise ValueError(f"device is '{self.device}'; expected {', '.join(DEVICES)}")

    def filled(self, options: BuildOptions, target: str) -> BuildOptions:
        """`options` with what the recipe says for that target, where nothing was typed."""
        mine: dict[str, object] = {}
        if target in BUILDERS:
            mine = {"workspace_mib": self.workspace_mib, "dla": self.dla}
        elif target == DEVICE_TARGET:
            mine = {"device": self.device}
        given = {k: v for k, v in mine.items() if getattr(options, k) is None}
        return dataclasses.replace(options, **given)  # type: ignore[arg-type]

    def advice(self) -> list[str]:
        """What to do on the board, a line each."""
        lines = [f"on the board: {self.power_mode}"] if self.power_mode else []
        if self.inference_precision:
            lines.append(f"load it with inference_precision='{self.inference_precision}'")
        return [*lines, *self.notes]


def board_names() -> tuple[str, ...]:
    """The recipes that there are."""
    return tuple(sorted(path.stem for path in ROOM.glob("*.toml")))


def find_board(name: str) -> BoardRecipe:
    """The recipe of that name, or of a TOML file of one's own."""
    path = Path(name) if name.endswith(".toml") else ROOM / f"{name}.toml"
    if path.parent == ROOM and name not in board_names():
        raise UsageError(f"unknown board '{name}'.{guess(name, board_names())}")
    return dataclasses.replace(read_recipe(BoardRecipe, path), name=path.stem)


def board_list() -> str:
    """Every board in a line, for --help."""
    rows = [find_board(name) for name in board_names()]
    width = max(len(recipe.name) for recipe in rows)
    return "\n".join(
        f"{r.name:<{width}}  {r.title}: {r.target} {r.precision}"
        f"{f' on {r.device}' if r.device else ''}, {r.size[0]}x{r.size[1]}"
        for r in rows
    )
