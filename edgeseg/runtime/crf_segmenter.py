"""A Segmenter whose scores go through the dense CRF before they become labels."""

from __future__ import annotations

import dataclasses
from collections import deque
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from edgeseg.bundle import WEIGHTED, Bundle, OutputSpec
from edgeseg.errors import UsageError
from edgeseg.frame import resize_image
from edgeseg.runtime.crf import CrfSpec, DenseCrf
from edgeseg.runtime.engine import Engine
from edgeseg.runtime.scores import upsample
from edgeseg.runtime.segmenter import Segmenter, Workspace

FULL_SIZE = OutputSpec("scores", decode="bilinear")
"""Of engines that return scores at the size of the labels."""
TIMED_FRAMES = 10_000
"""The last so many keep their times: a camera runs for days."""


class CrfSegmenter(Segmenter):
    """Labels by the dense CRF, at the network's output size; the stage `decode` includes it.

    `crf_ms` holds the milliseconds of the CRF itself, frame by frame, `engine_ms` the engine's, of
    the last TIMED_FRAMES.
    """

    def __init__(
        self, engine: Engine, bundle: Bundle, *, frames: str, spec: CrfSpec | None = None
    ) -> None:
        if bundle.manifest.output.kind != "scores":
            raise UsageError(
                f"{bundle.folder}: --crf needs scores, and this engine returns labels; "
                "export the model with --output scores"
            )
        super().__init__(engine, bundle, frames=frames)
        self._device = None  # scores come back to the CPU
        self.crf = DenseCrf(spec, threads=engine.threads)
        self.crf_ms: deque[float] = deque(maxlen=TIMED_FRAMES)
        self.engine_ms: deque[float] = deque(maxlen=TIMED_FRAMES)
        self._layer: dict[str, np.ndarray] = {}
        if self.output.decode in WEIGHTED:
            with np.load(bundle.path("decode.npz")) as arrays:
                self._layer = {"weight": arrays["weight"], "bias": arrays["bias"]}

    @property
    def decode_name(self) -> str:
        """For reports."""
        output = self.output
        spec = self.crf.spec
        return f"{output.decode} x{output.factor}, then dense CRF: {self.crf.by}, {spec}"

    def finish(
        self, work: Workspace, out: np.ndarray | None = None, *, at: str = "frame"
    ) -> np.ndarray:
        """The last third: scores -> full-size scores -> dense CRF -> labels."""
        result, placement = work.result, work.placement
        assert result is not None and placement is not None, "prepare and infer come first"
        start = perf_counter()
        scores = upsample(result[0], self.output, **self._layer)
        image, size = work.image[0], (scores.shape[1], scores.shape[2])
        if image.shape[:2] != size:
            image = resize_image(image, size)
        began = perf_counter()
        labels = self.crf.labels(scores, image)
        self.crf_ms.append((perf_counter() - began) * 1e3)
        self.engine_ms.append(work.took[1])
        if at == "frame":
            labels = self._prepare.restore(labels, placement, out)
        elif out is not None:
            out[...] = labels
            labels = out
        work.took[2] = (perf_counter() - start) * 1e3
        return labels

    def segment_with_confidence(
        self, frame: np.ndarray, measure: str = "softmax"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refused: what the mean field calls a probability is no confidence."""
        raise UsageError("there is no confidence behind the dense CRF; leave --crf away for it")

    def described(self) -> dict[str, Any]:
        """What computes the CRF, and its parameters."""
        crf = self.crf
        return {**dataclasses.asdict(crf.spec), "by": crf.by, "threads": crf.threads}

    def cost(self) -> dict[str, Any]:
        """The form of `--json`: parameters, and the median milliseconds of CRF and engine."""
        return {
            **self.described(),
            "ms_per_frame": round(median(self.crf_ms), 3) if self.crf_ms else None,
            "engine_ms_per_frame": round(median(self.engine_ms), 3) if self.engine_ms else None,
        }

    def describe_cost(self) -> str:
        """One line for people."""
        cost = self.cost()
        return (
            f"dense CRF ({self.crf.by}): {cost['ms_per_frame']:.1f} ms a frame, beside "
            f"{cost['engine_ms_per_frame']:.1f} ms of the engine (medians)"
        )


def with_crf(segmenter: Segmenter, spec: CrfSpec) -> CrfSegmenter:
    """The same engine and folder, with the dense CRF; for frames of the same format."""
    return CrfSegmenter(
        segmenter.engine, segmenter.bundle, frames=segmenter.frame_format, spec=spec
    )
