"""What a run says about itself: log.csv, TensorBoard, and a line on a terminal."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from edgeseg.disk import write_text

LOG = "log.csv"
COLUMNS = ("step", "seconds", "loss", "lr", "grad_norm", "frames_per_second")
"""They are followed by the score, under the name of its metric."""
METRICS = {"miou": "mIoU (percent)", "top1": "top-1 (percent)", "iou": "IoU of masks (percent)"}


@dataclass(frozen=True)
class Row:
    """One line of the log: mean loss since the last line; the score where it was measured."""

    step: int
    seconds: float
    loss: float
    lr: float
    grad_norm: float
    frames_per_second: float
    score: float | None = None

    def cells(self) -> list[str]:
        """The cells in the order of COLUMNS."""
        numbers = (self.loss, self.lr, self.grad_norm, self.frames_per_second)
        score = "" if self.score is None else f"{self.score:.3f}"
        return [str(self.step), f"{self.seconds:.1f}", *(f"{n:.6g}" for n in numbers), score]


def read_log(path: Path) -> list[Row]:
    """The rows of a log; a last line that was cut off by a kill is left out."""
    rows = []
    for cells in list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]:
        if len(cells) == len(COLUMNS) + 1:
            seconds, loss, lr, norm, rate = (float(c) for c in cells[1:-1])
            score = float(cells[-1]) if cells[-1] else None
            rows.append(Row(int(cells[0]), seconds, loss, lr, norm, rate, score))
    return rows


def write_log(path: Path, rows: list[Row], metric: str = "miou") -> None:
    """Write a whole log."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, metric))
    writer.writerows(row.cells() for row in rows)
    write_text(path, text.getvalue())


class Journal:
    """The log of a run, gone on with after `step`: later rows are dropped."""

    def __init__(self, folder: Path, step: int, metric: str = "miou") -> None:
        self.metric = metric
        self.path = folder / LOG
        rows = read_log(self.path) if self.path.exists() else []
        write_log(self.path, [row for row in rows if row.step <= step], metric)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: Row, terms: dict[str, float]) -> None:
        """Append a row; the terms of the loss go to TensorBoard."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row.cells())
        scalars = {
            "loss/all": row.loss,
            "lr": row.lr,
            "grad_norm": row.grad_norm,
            "frames_per_second": row.frames_per_second,
            **{f"loss/{name}": value for name, value in terms.items()},
        }
        if row.score is not None:
            scalars[self.metric] = row.score
        for name, value in scalars.items():
            self._board.add_scalar(name, value, row.step)

    def close(self) -> None:
        """Flush everything."""
        self._board.close()


class Progress:
    """One line on standard error, rewritten in place; nothing where that is no terminal."""

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._clock, self._shown = steps, clock, -1.0
        self._live = sys.stderr.isatty()

    def show(self, step: int, loss: float, rate: float, seconds_per_step: float) -> None:
        """Step, loss, frames each second, time left; at most five times a second."""
        now = self._clock()
        if not self._live or now - self._shown < 0.2:
            return
        self._shown = now
        left = describe_seconds((self._steps - step) * seconds_per_step)
        self.say(f"step {step}/{self._steps}  loss {loss:.4f}  {rate:.1f} frames/s  left {left}")

    def say(self, text: str) -> None:
        """Show a text in place of the line."""
        if self._live:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """Write a line that stays, on a terminal or in a log."""
        start = "\r\033[K" if self._live else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._shown >= 0:
            print(file=sys.stderr)  # noqa: T201


def describe_seconds(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
