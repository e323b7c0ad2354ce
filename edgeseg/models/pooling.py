"""Adaptive average pooling that every engine runs: plain pooling, or Gather and pooling."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def adaptive_pool(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, *size): output i is the mean of [floor(i H / h), ceil((i + 1) H / h)).

    The same numbers as torch's adaptive_avg_pool2d, whose export for sizes that don't divide is a
    hundred nodes of index arithmetic. Here each axis is one AveragePool, with a Gather before it
    (and a Mul where windows differ in length) if its size doesn't divide.
    """
    return _pool_axis(_pool_axis(x, 2, size[0]), 3, size[1])


def _pool_axis(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    length = int(x.shape[axis])
    if length == size:
        return x
    if length % size == 0:
        return _pool(x, axis, length // size)
    indices, weights = _windows(length, size)
    longest = len(indices) // size
    gathered = x.index_select(axis, torch.tensor(indices, device=x.device))
    if any(weight != 1.0 for weight in weights):
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        gathered = gathered * torch.tensor(weights, dtype=x.dtype, device=x.device).reshape(shape)
    return _pool(gathered, axis, longest)


def _pool(x: torch.Tensor, axis: int, factor: int) -> torch.Tensor:
    return functional.avg_pool2d(x, (factor, 1) if axis == 2 else (1, factor))


def _windows(length: int, size: int) -> tuple[list[int], list[float]]:
    """Indices of all windows, each filled up to the longest, and weights whose mean is the mean.

    What fills a shorter window has weight 0.
    """
    spans = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    longest = max(end - start for start, end in spans)
    indices: list[int] = []
    weights: list[float] = []
    for start, end in spans:
        count = end - start
        indices += [min(start + j, end - 1) for j in range(longest)]
        weights += [longest / count] * count + [0.0] * (longest - count)
    return indices, weights


def scaled(size: tuple[int, int], scale: float, least: int) -> tuple[int, int]:
    """Both sides times `scale`, rounded up, at least `least`."""
    height, width = (max(least, math.ceil(side * scale)) for side in size)
    return height, width
