"""The matrix W of DUpsampling from label patches (Tian et al., CVPR 2019).

A patch of r x r labels is a one-hot vector v of classes * r * r numbers, class by class, rows from
the top. W with orthonormal columns and P = W^T minimise the sum of |v - W P v|^2 over the patches:
its columns are the first principal components of v, uncentred (the layer before W has a bias, which
stands for a mean).

Patches are kept as labels and turned into vectors a few at a time, so that 32 x 32 patches of 19
classes (19,456 numbers; their covariance has 1.5 GB) take tens of megabytes. A patch with a pixel
that has no label is left out: whatever stood there would be learned as if it were a label, and
enough others remain (84 % on CamVid with r = 16, 72 % with r = 32).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import TrainingError
from edgeseg.labels import IGNORE
from edgeseg.metrics import ConfusionMatrix

EXTRA = 16
"""Directions that are iterated besides the wanted ones (Halko et al. 2011, section 4.2)."""
ROUNDS = 12
SETTLED = 1e-5
"""Iteration ends when the share of the patches that is kept grows by less."""
CHUNK = 1 << 23
"""Numbers of one-hot vectors held at a time."""


@dataclass(frozen=True)
class Basis:
    """`weight` (channels, classes, r, r) float32, orthonormal rows; `lost` of the patches' sum.

    `lost` is |v - W P v|^2 / |v|^2 over all patches: 0 when the labels are reconstructed exactly.
    """

    weight: np.ndarray
    lost: float


def cut(labels: np.ndarray, r: int) -> np.ndarray:
    """(H, W) uint8 -> (n, r, r): its whole r x r cells row by row, less those with IGNORE."""
    rows, columns = labels.shape[0] // r, labels.shape[1] // r
    cells = labels[: rows * r, : columns * r].reshape(rows, r, columns, r)
    patches = cells.swapaxes(1, 2).reshape(-1, r, r)
    labelled: np.ndarray = patches[(patches != IGNORE).all((1, 2))]
    return labelled


def collect(
    frames: Iterable[np.ndarray], r: int, share: int, generator: np.random.Generator
) -> np.ndarray:
    """At most `share` patches of each frame, chosen at random: (n, r, r) uint8."""
    chosen = [np.empty((0, r, r), np.uint8)]
    for labels in frames:
        patches = cut(labels, r)
        few = generator.permutation(len(patches))[:share]
        chosen.append(patches[np.sort(few)])
    return np.concatenate(chosen)


def one_hot(patches: np.ndarray, classes: int) -> np.ndarray:
    """(n, r, r) uint8 -> (n, classes * r * r) float32."""
    n, r, _ = patches.shape
    hot = patches[:, None] == np.arange(classes, dtype=np.uint8)[:, None, None]
    vectors: np.ndarray = hot.reshape(n, classes * r * r).astype(np.float32)
    return vectors


def find_basis(patches: np.ndarray, classes: int, channels: int, seed: int = 0) -> Basis:
    """The `channels` first principal components of (n, r, r) label patches.

    Subspace iteration on the second moment from a seeded random start (Halko et al. 2011,
    algorithm 4.4), with a Rayleigh-Ritz step in each round. The largest number of each component is
    made positive, so the same patches give the same W.
    """
    n, r, _ = patches.shape
    length = classes * r * r
    if n < channels:
        raise TrainingError(
            f"only {n} patches of {r}x{r} pixels are labelled throughout; DUpsampling needs at "
            f"least {channels}, as many as it has channels. Give more or larger frames, or a "
            "smaller stride"
        )
    wanted = min(length, n, channels + EXTRA)
    start = np.random.default_rng(seed).standard_normal((length, wanted))
    basis = np.linalg.qr(start)[0]
    kept = 0.0
    for _ in range(ROUNDS):
        product = _second_moment(patches, classes, basis.astype(np.float32))
        values, vectors = np.linalg.eigh(basis.T @ product)
        order = np.argsort(values)[::-1]
        share = float(values[order[:channels]].sum()) / (n * r * r)
        found = basis @ vectors[:, order[:channels]]
        if share - kept < SETTLED:
            break
        kept = share
        basis = np.linalg.qr(product)[0]
    signs = np.sign(found[np.abs(found).argmax(0), np.arange(channels)])
    weight = (found * signs).T.reshape(channels, classes, r, r).astype(np.float32)
    return Basis(weight, max(0.0, 1.0 - share))


def _second_moment(patches: np.ndarray, classes: int, basis: np.ndarray) -> np.ndarray:
    """V^T V B, float64, for the (n, N) matrix V of one-hot patches, a few rows at a time."""
    total = np.zeros(basis.shape)
    rows = max(1, CHUNK // basis.shape[0])
    for first in range(0, len(patches), rows):
        vectors = one_hot(patches[first : first + rows], classes)
        total += vectors.T @ (vectors @ basis)
    return total


def measure(weight: np.ndarray, frames: Iterable[np.ndarray]) -> tuple[float, float]:
    """What W loses of (H, W) labels: the lost share as in Basis, and the upper bound mIoU*.

    mIoU* (percent) compares the labels with the argmax of their reconstruction W P v. Patches with
    a pixel without label are left out here, too; nan if nothing is left.
    """
    channels, classes, r, _ = weight.shape
    flat = weight.reshape(channels, -1)
    matrix = ConfusionMatrix(classes)
    lost = whole = 0.0
    for labels in frames:
        patches = cut(labels, r)
        vectors = one_hot(patches, classes)
        back = (vectors @ flat.T) @ flat
        lost += float(np.square(vectors - back).sum(dtype=np.float64))
        whole += patches.size
        called = back.reshape(-1, classes, r, r).argmax(1).astype(np.uint8)
        matrix.update(patches.reshape(-1, r), called.reshape(-1, r))
    return (lost / whole if whole else float("nan")), matrix.miou()
