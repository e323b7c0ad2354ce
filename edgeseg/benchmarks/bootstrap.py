"""How sure a mIoU is: bootstrap intervals over frames (Efron and Tibshirani 1993, chapter 13).

Frames are drawn with replacement, as many as there are; their confusion matrices are summed and
scored. Two networks are compared on the same draws. Frames of one drive resemble their neighbours,
so an interval says less about another drive than its width suggests; and it says nothing about
another run of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import ComparisonError

DRAWS = 2000
SEED = 0
LEVEL = 95
"""Percent of the draws that lie within an interval."""


@dataclass(frozen=True)
class Interval:
    """A value in percent (or a difference of two), and the bounds of its LEVEL % interval."""

    value: float
    low: float
    high: float


def interval(counts: np.ndarray) -> Interval:
    """(frames, C, C + 1) confusion counts -> the mIoU of all frames and its interval."""
    return _bounds(float(_miou(counts.sum(0)[None])[0]), _draw(counts))


def difference(counts: np.ndarray, other: np.ndarray) -> Interval:
    """MIoU of `counts` less that of `other`, both (frames, C, C + 1) over the same frames."""
    if counts.shape != other.shape:
        raise ComparisonError(
            f"the two networks were scored on {len(counts)} and {len(other)} frames of "
            f"{counts.shape[1]} and {other.shape[1]} classes; intervals need the same frames"
        )
    value = float(_miou(counts.sum(0)[None])[0] - _miou(other.sum(0)[None])[0])
    return _bounds(value, _draw(counts) - _draw(other))


def mean_difference(values: Sequence[float], other: Sequence[float]) -> Interval:
    """Mean of a score of frames less that of the other score of the same frames."""
    apart = np.array(values) - np.array(other)
    return _bounds(float(apart.mean()), apart[_chosen(len(apart))].mean(1))


def _chosen(frames: int) -> np.ndarray:
    """(DRAWS, frames) frames drawn with replacement, always the same."""
    return np.random.default_rng(SEED).integers(0, frames, (DRAWS, frames))


def _draw(counts: np.ndarray) -> np.ndarray:
    """(DRAWS,) mIoU of frames drawn with replacement; the same draws for the same frames."""
    frames = len(counts)
    chosen = _chosen(frames)
    times = np.zeros((DRAWS, frames))
    np.add.at(times, (np.arange(DRAWS)[:, None], chosen), 1)
    sums = times @ counts.reshape(frames, -1).astype(np.float64)
    return _miou(sums.reshape(DRAWS, *counts.shape[1:]))


def _miou(counts: np.ndarray) -> np.ndarray:
    """(n, C, C + 1) -> (n,) mIoU in percent, as `ConfusionMatrix.miou` of each."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    truth = counts.sum(2)
    union = truth + counts[:, :, :-1].sum(1) - hits
    iou = np.where(truth > 0, 100.0 * hits / np.maximum(union, 1), np.nan)
    means: np.ndarray = np.nanmean(iou, 1)
    return means


def _bounds(value: float, draws: np.ndarray) -> Interval:
    low, high = np.percentile(draws, ((100 - LEVEL) / 2, (100 + LEVEL) / 2))
    return Interval(value, float(low), float(high))
