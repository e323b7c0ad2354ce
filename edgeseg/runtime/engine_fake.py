"""An engine without a network, so that users test their robot without a board."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.runtime.engine import Engine, EngineOptions, check_images


class FakeEngine(Engine):
    """Labels by a plain function of the images; no file is read.

    `answer` maps (N, H, W, 3) uint8 to (N, H, W) uint8; the default calls everything class 0.
    """

    version = "fake"
    device = "none"
    inference_precision = "none"
    threads = 1

    def __init__(
        self,
        bundle: Bundle | None = None,
        options: EngineOptions | None = None,
        answer: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.bundle, self.options = bundle, options
        self._answer = answer or _all_zero

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Labels by the given function."""
        if self.bundle is not None:
            check_images(images, self.bundle.manifest.input)
        return self._answer(images)


def _all_zero(images: np.ndarray) -> np.ndarray:
    return np.zeros(images.shape[:3], np.uint8)
