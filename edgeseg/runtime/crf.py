"""Dense CRF (Krähenbühl and Koltun 2011): scores and the image -> labels that follow its edges.

Every pixel is joined with every other one by two Gaussian kernels: `w1` times one over positions
and colours (appearance), `w2` times one over positions alone (smoothness). Potts compatibility,
mean field. The kernels are normalised symmetrically, `D^-1/2 K D^-1/2`, as in Krähenbühl's code.
The first is filtered on the permutohedral lattice, the second exactly, row by row and column by
column.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import numpy as np

from edgeseg.errors import FrameError, UsageError, guess
from edgeseg.runtime import crf_native, crf_numpy, decode_native
from edgeseg.runtime.crf_native import FOUR
from edgeseg.runtime.crf_numpy import Lattice, gauss_taps

LONG_SIDE = 500
"""Pixels of the longer side of the images (PASCAL VOC) that `sigma_alpha` is given for."""
TINY = 1e-20
LEAST_SIGMA = 0.1


@dataclass(frozen=True)
class CrfSpec:
    """The parameters; the defaults are those that DeepLab v2 was run with on PASCAL VOC.

    `sigma_alpha` is pixels of an image whose longer side is LONG_SIDE and grows with the image;
    `sigma_beta` steps of 8-bit colour; `sigma_gamma` pixels. Source: kazuto1011/deeplab-pytorch,
    config (its VOC mIoU goes from 76.65 to 77.93); 10 iterations are those of DeepLab (Chen et al.
    2015), section 4.1.
    """

    w1: float = 4.0
    w2: float = 3.0
    sigma_alpha: float = 67.0
    sigma_beta: float = 3.0
    sigma_gamma: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("w1", "w2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"CRF: {name} is {getattr(self, name)}; expected 0 or more")
        for name in ("sigma_alpha", "sigma_beta", "sigma_gamma"):
            if not LEAST_SIGMA <= getattr(self, name) < float("inf"):
                raise UsageError(
                    f"CRF: {name} is {getattr(self, name)}; expected {LEAST_SIGMA} or more"
                )
        if self.iterations < 1:
            raise UsageError(f"CRF: iterations is {self.iterations}; expected 1 or more")

    def alpha(self, size: tuple[int, int]) -> float:
        """`sigma_alpha` in pixels of an image of that (height, width)."""
        return self.sigma_alpha * max(size) / LONG_SIDE


def parse_crf(text: str) -> CrfSpec:
    """`"w1=3,sigma_beta=5"` -> the defaults with these changed."""
    known = {name: type(value) for name, value in asdict(CrfSpec()).items()}
    changed: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in known:
            raise UsageError(f"CRF: unknown parameter '{name}'.{guess(name, known)}")
        try:
            changed[name] = known[name](value)
        except ValueError:
            kind = "a whole number" if known[name] is int else "a number"
            raise UsageError(f"CRF: {name} is '{value}'; expected {kind}") from None
    return CrfSpec(**changed)  # type: ignore[arg-type]


def crf_words(spec: CrfSpec) -> str:
    """The inverse of `parse_crf`, with every parameter."""
    return ",".join(f"{name}={value}" for name, value in asdict(spec).items())


def native() -> bool:
    """Whether lattice.c filters here; numpy does where no library was compiled."""
    return decode_native.choose() != "numpy"


class DenseCrf:
    """Smooths the scores of one image after another. Safe to call from several threads.

    `threads` (None: all cores) share the work of lattice.c; what comes out is the same on any
    number of them.
    """

    def __init__(
        self, spec: CrfSpec | None = None, *, by: str | None = None, threads: int | None = None
    ) -> None:
        self.spec = spec or CrfSpec()
        self.by = by or ("native" if native() else "numpy")
        self.threads = threads or len(os.sched_getaffinity(0))
        self._rooms = crf_native if self.by == "native" else crf_numpy

    def labels(self, scores: np.ndarray, image: np.ndarray) -> np.ndarray:
        """(classes, H, W) scores before softmax, (H, W, 3) uint8 image -> (H, W) uint8 labels."""
        size = _check(scores, image)
        found = self.probabilities(scores, image)
        labels: np.ndarray = found.argmax(1).astype(np.uint8).reshape(size)
        return labels

    def probabilities(self, scores: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The same -> (H * W, classes) float32: the mean field after the last iteration."""
        height, width = size = _check(scores, image)
        classes, pixels = len(scores), height * width
        unary = np.full((pixels, -(-classes // FOUR) * FOUR), -1e30, np.float32)
        unary[:, :classes] = scores.reshape(classes, pixels).T
        np.nan_to_num(unary, copy=False, nan=-1e30, posinf=1e30, neginf=-1e30)
        kernels = self._kernels(image, size)
        field, sums = unary.copy(), np.empty_like(unary)
        self._rooms.softmax(field, self.threads)
        for _ in range(self.spec.iterations):
            np.copyto(sums, unary)
            for kernel, norm, weight in kernels:
                self._filter(kernel, size, field, norm, weight, sums)
            self._rooms.softmax(sums, self.threads)
            field, sums = sums, field
        found: np.ndarray = field[:, :classes]
        return found

    def _kernels(
        self, image: np.ndarray, size: tuple[int, int]
    ) -> list[tuple[Lattice | np.ndarray, np.ndarray, float]]:
        """Appearance and smoothness, each with its norm; one of weight 0 is left out."""
        spec = self.spec
        kernels: list[tuple[Lattice | np.ndarray, float]] = []
        if spec.w1:
            kernels.append((self._rooms.lattice(features(image, spec), self.threads), spec.w1))
        if spec.w2:
            kernels.append((gauss_taps(spec.sigma_gamma), spec.w2))
        return [(kernel, self._norm(kernel, size), weight) for kernel, weight in kernels]

    def _norm(self, kernel: Lattice | np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """1 / sqrt(sum of each pixel's kernel), (pixels,) float32."""
        pixels = size[0] * size[1]
        ones = np.ones((pixels, FOUR), np.float32)
        sums = np.zeros_like(ones)
        self._filter(kernel, size, ones, np.ones(pixels, np.float32), 1.0, sums)
        return np.asarray(1 / np.sqrt(sums[:, 0] + TINY), np.float32)

    def _filter(
        self,
        kernel: Lattice | np.ndarray,
        size: tuple[int, int],
        values: np.ndarray,
        norm: np.ndarray,
        weight: float,
        sums: np.ndarray,
    ) -> None:
        if isinstance(kernel, Lattice):
            self._rooms.lattice_filter(kernel, values, norm, weight, sums)
        else:
            self._rooms.gauss_filter(kernel, size, values, norm, weight, sums, self.threads)


def features(image: np.ndarray, spec: CrfSpec) -> np.ndarray:
    """(H, W, 3) uint8 -> (H * W, 5) float32: row, column and colour in units of their sigma."""
    height, width = image.shape[:2]
    made = np.empty((height, width, 5), np.float32)
    alpha = spec.alpha((height, width))
    made[..., 0] = np.arange(height, dtype=np.float32)[:, None] / alpha
    made[..., 1] = np.arange(width, dtype=np.float32) / alpha
    made[..., 2:] = image / np.float32(spec.sigma_beta)
    return made.reshape(-1, 5)


def _check(scores: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """(height, width), if scores and image have the same."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(
            f"CRF: image is {image.dtype} of shape {image.shape}; expected uint8 (H, W, 3)"
        )
    if scores.ndim != 3 or scores.shape[1:] != image.shape[:2]:
        raise FrameError(
            f"CRF: scores are of shape {scores.shape}; expected (classes, "
            f"{image.shape[0]}, {image.shape[1]}), the size of the image"
        )
    return int(image.shape[0]), int(image.shape[1])
