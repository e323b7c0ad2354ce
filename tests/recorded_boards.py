"""Trees of files as boards show them under /proc, /sys, /etc and /var, of tests/boards/*.toml."""

from __future__ import annotations

from pathlib import Path

from edgeseg.recipe import read_toml

BOARDS = Path(__file__).parent / "boards"


def board_tree(name: str, root: Path, **changes: str) -> Path:
    """Write the files of one board under `root`; `changes` go over them, path by path."""
    files = read_toml(BOARDS / f"{name}.toml")["files"]
    for path, content in {**files, **changes}.items():
        put(root, path, content.lstrip("\n"))
    return root


def put(root: Path, path: str, content: str) -> None:
    """Write one file of the tree."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)
