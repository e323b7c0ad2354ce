"""`load(folder, frames="bgr")` -> `Segmenter`; `segment(frame)` -> labels."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from edgeseg.bundle import WEIGHTED, Bundle, InputSpec, read_bundle
from edgeseg.errors import BundleError, EngineError, FrameError, UsageError
from edgeseg.frame import Placement, Size, check_frame, check_order, place, prepare, restore
from edgeseg.labels import ClassTable
from edgeseg.runtime.decode import decode
from edgeseg.runtime.engine import Engine, EngineOptions, open_engine

AT = ("frame", "network")


@dataclass(frozen=True)
class Stages:
    """Milliseconds of one call: frame -> input, engine, output -> labels of the frame."""

    prepare: float
    engine: float
    decode: float

    @property
    def total(self) -> float:
        """The whole call."""
        return self.prepare + self.engine + self.decode


def load(
    folder: str | PathLike[str],
    *,
    frames: str,
    threads: int | None = None,
    inference_precision: str | None = None,
    allow_ungated: bool = False,
) -> Segmenter:
    """Open an engine folder for frames in channel order `frames`, "rgb" or "bgr".

    OpenCV gives bgr, Pillow and most others rgb; the wrong one costs most of the accuracy without
    an error. Raises BundleError for a folder that is damaged or did not pass the accuracy gate
    (unless `allow_ungated`), EngineError when the engine's library is missing.
    """
    check_order(frames)
    bundle = read_bundle(Path(folder))
    target = bundle.manifest.target
    if target is None:
        raise BundleError(f"{folder} has no engine; build one with 'edgeseg export'")
    gate = bundle.manifest.gate
    if (gate is None or gate.state != "passed") and not allow_ungated:
        state = gate.state if gate else "not run"
        raise BundleError(
            f"{folder}: gate: {state}; run 'edgeseg export' where the engine can run, "
            "or load with allow_ungated=True"
        )
    engine = open_engine(target.name, bundle, EngineOptions(threads, inference_precision))
    return Segmenter(engine, bundle, frames=frames)


class Segmenter:
    """Frames in, labels out. Safe to call from several threads; close it or use it in a `with`."""

    def __init__(self, engine: Engine, bundle: Bundle, *, frames: str) -> None:
        manifest = bundle.manifest
        self._engine: Engine | None = engine
        self.bundle = bundle
        self.input: InputSpec = manifest.input
        self.output = manifest.output
        self.classes: ClassTable = manifest.table
        self._swap = check_order(frames) != manifest.input.order
        self._size = manifest.input.size
        if manifest.input.batch != 1:
            raise UsageError(
                f"{bundle.folder} was exported for batches of {manifest.input.batch} frames; "
                "a Segmenter takes one frame at a time: export with --batch 1"
            )
        self._weight = self._bias = None
        if self.output.decode in WEIGHTED:
            with np.load(bundle.path("decode.npz")) as arrays:
                self._weight, self._bias = arrays["weight"], arrays["bias"]
        self._local = threading.local()

    @classmethod
    def of(
        cls,
        engine: Engine,
        classes: ClassTable,
        *,
        size: Size,
        frames: str = "rgb",
        order: str = "rgb",
        fit: str = "pad",
    ) -> Segmenter:
        """A Segmenter around any engine, without a model folder: for tests with a `FakeEngine`."""
        from edgeseg.bundle import Manifest

        spec = InputSpec(order, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit=fit, size=size)
        manifest = Manifest("network", "fake", classes.to_dict(), spec)
        return cls(engine, Bundle(Path(), manifest), frames=frames)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The engine; EngineError once the Segmenter is closed."""
        if self._engine is None:
            raise EngineError("this Segmenter is closed; open the folder again with edgeseg.load")
        return self._engine

    def close(self) -> None:
        """Release the engine. A closed Segmenter refuses frames; closing twice is fine."""
        self._engine = None

    def segment(
        self, frame: np.ndarray, out: np.ndarray | None = None, *, at: str = "frame"
    ) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W) uint8 labels, the caller's own memory.

        `at` is "frame" (labels at the frame's size; pixels that a cropping fit cut off are 255) or
        "network" (at the network's output size, padding included). `out`, if given, is a uint8
        array of the labels' shape; it is written and returned.
        """
        return self.timed(frame, out, at=at)[0]

    def timed(
        self, frame: np.ndarray, out: np.ndarray | None = None, *, at: str = "frame"
    ) -> tuple[np.ndarray, Stages]:
        """`segment`, and how long each stage took."""
        engine = self.engine
        if at not in AT:
            raise UsageError(f"at is '{at}'; expected one of {', '.join(AT)}")
        check_frame(frame)
        start = perf_counter()
        placement = self.placement((frame.shape[0], frame.shape[1]))
        image = self._image(placement.network)
        prepare(frame, placement, swap=self._swap, fill=self.input.fill, out=image[0])
        prepared = perf_counter()
        result = engine.infer(image)
        inferred = perf_counter()
        labels = self.decode(result)[0]
        if at == "frame":
            labels = restore(labels, placement, _check_out(out, placement.frame))
        elif out is not None:
            _check_out(out, (labels.shape[0], labels.shape[1]))
            out[...] = labels
            labels = out
        decoded = perf_counter()
        return labels, Stages(
            (prepared - start) * 1e3, (inferred - prepared) * 1e3, (decoded - inferred) * 1e3
        )

    def decode(self, result: np.ndarray) -> np.ndarray:
        """What the engine returned -> (N, h, w) uint8 labels."""
        if self.output.kind == "labels":
            return result
        return decode(result, self.output, self._weight, self._bias)

    def placement(self, frame: Size) -> Placement:
        """Which part of a frame of that (height, width) the network sees, and where."""
        return place(frame, self._size or frame, self.input.fit)

    def _image(self, size: Size) -> np.ndarray:
        image = getattr(self._local, "image", None)
        if image is None or image.shape[1:3] != size:
            image = self._local.image = np.empty((1, *size, 3), np.uint8)
        return image


def _check_out(out: np.ndarray | None, size: Size) -> np.ndarray | None:
    if out is not None and (out.dtype != np.uint8 or out.shape != size):
        raise FrameError(f"out is {out.dtype} of shape {out.shape}; expected uint8 of shape {size}")
    return out
