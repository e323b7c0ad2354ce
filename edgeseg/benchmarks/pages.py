"""What pages made of results share: Markdown tables, and the command line that writes or checks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.disk import write_text
from edgeseg.errors import ComparisonError, UsageError, exit_code


@dataclass(frozen=True)
class Page:
    """A Markdown file that `python -m {module} FILE RESULT...` writes; `--check` only compares.

    `make` takes the path of the page and those of the results, and gives the whole text.
    """

    module: str
    about: str
    results: str
    """What the results are, for `--help`."""
    make: Callable[[Path, list[Path]], str]
    several: bool = False
    optional: bool = False
    """With `several`: none need be given."""

    def update(self, path: Path, results: list[Path], *, check: bool) -> None:
        """Write the page; with `check`, ComparisonError if it differs."""
        new = self.make(path, results)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if check and new != old:
            words = " ".join(str(result) for result in results)
            raise ComparisonError(
                f"{path} is not what the results say; run 'python -m {self.module} {path} {words}'"
            )
        if new != old:
            write_text(path, new)

    @property
    def _count(self) -> str | int:
        return 1 if not self.several else "*" if self.optional else "+"

    def main(self, words: list[str]) -> int:
        """Run one command line; returns the exit code."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=self.about)
        parser.add_argument("markdown", type=Path)
        parser.add_argument("results", type=Path, nargs=self._count, help=self.results)
        parser.add_argument("--check", action="store_true", help="fail when the page differs")
        args = parser.parse_args(words)
        return exit_code(lambda: self.update(args.markdown, args.results, check=args.check))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, words: int) -> str:
    """A Markdown table. The first `words` columns stand left, the others are numbers: right."""
    marks = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(_line(cells) for cells in (head, marks, *rows))


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def read_content(path: Path, required: Iterable[str], *, what: str, made: str) -> dict[str, Any]:
    """The object in a JSON file; UsageError unless it has all `required` keys.

    `what` the file holds and the command by which it is `made` stand in the messages.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; '{made}' writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    missing = [key for key in required if not isinstance(content, dict) or key not in content]
    if missing:
        raise UsageError(f"{path}: is no result of {what}: '{missing[0]}' is missing")
    return dict(content)
