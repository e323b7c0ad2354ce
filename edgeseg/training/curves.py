"""The log as a picture: loss, learning rate and score over the steps."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from edgeseg.disk import writing_file
from edgeseg.training.journal import METRICS, Row

CURVES = "curves.png"
INK, GRID = "#333333", "#dddddd"
COLOURS = 128
"""Colours that a picture of runs is stored with."""
WIDE = 50
"""From this ratio of the largest loss to the smallest their axis is logarithmic."""


def draw_curves(path: Path, rows: list[Row], title: str, metric: str = "miou") -> None:
    """Write a PNG with three panels that share the axis of steps."""
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK}):
        figure = Figure(figsize=(8, 8), layout="constrained")
        loss, rate, score = figure.subplots(3, 1, sharex=True)
        measured = [(row.step, row.score) for row in rows if row.score is not None]
        _line(loss, "loss", [(row.step, row.loss) for row in rows], "#b5473c")
        _line(rate, "learning rate", [(row.step, row.lr) for row in rows], "#3c6eb5")
        _line(score, METRICS[metric], measured, "#2f7d4f", "o-")
        if measured:
            score.set_ylim(0, None)
            score.annotate(
                f"{measured[-1][1]:.1f}", measured[-1], (0, 7),
                textcoords="offset points", ha="right",
            )  # fmt: skip
        score.set_xlabel("step")
        figure.suptitle(title, fontsize=11)
        with writing_file(path) as aside:
            figure.savefig(aside, format="png", dpi=110)


def draw_runs(path: Path, runs: dict[str, list[Row]], title: str) -> None:
    """Write a PNG that compares runs, the best first: a colour for each, then the same dashed."""
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    styles = itertools.product(("-", "--"), colours)
    ordered = sorted(runs.items(), key=lambda item: -(_last_score(item[1]) or 0))
    with mpl.rc_context({"font.size": 9, "axes.edgecolor": INK}):
        figure = Figure(figsize=(10, 8), layout="constrained")
        loss, miou = figure.subplots(2, 1, sharex=True)
        for (name, rows), (dash, colour) in zip(ordered, itertools.cycle(styles), strict=False):
            measured = [(row.step, row.score) for row in rows if row.score is not None]
            losses = [(row.step, row.loss) for row in rows]
            _line(loss, "loss (all terms)", losses, colour, dash)
            _line(miou, "mIoU (percent)", measured, colour, f"o{dash}")
            miou.lines[-1].set_label(f"{name} {measured[-1][1]:.1f}" if measured else name)
        values = [row.loss for rows in runs.values() for row in rows if row.loss > 0]
        if values and max(values) > WIDE * min(values):
            loss.set_yscale("log")
        miou.set_xlabel("step")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=11)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
    with writing_file(path) as aside, Image.open(drawn) as picture:
        picture.convert("RGB").quantize(COLOURS).save(aside, format="png", optimize=True)


def _last_score(rows: list[Row]) -> float | None:
    return next((row.score for row in reversed(rows) if row.score is not None), None)


def _line(
    axes: Axes, name: str, points: list[tuple[int, float]], colour: Any, mark: str = "-"
) -> None:
    steps, values = [p[0] for p in points], [p[1] for p in points]
    axes.plot(steps, values, mark, color=colour, linewidth=1.4, markersize=4)
    axes.set_ylabel(name)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
