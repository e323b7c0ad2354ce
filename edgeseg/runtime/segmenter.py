"""`load(folder, frames="bgr")` -> `Segmenter`; `segment(frame)` -> labels."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from edgeseg.bundle import WEIGHTED, Bundle, InputSpec, read_bundle
from edgeseg.errors import BundleError, EngineError, FrameError, UsageError
from edgeseg.frame import Placement, Size, nearest, place
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.runtime.decode import Decoder, check_measure
from edgeseg.runtime.engine import Engine, EngineOptions, FrameEngine, OnDevice, open_engine
from edgeseg.runtime.prepare import Preparer, check_format

AT = ("frame", "network")
ON_DEVICE = "on the GPU"
"""What prepares and decodes where the engine takes frames."""


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


@dataclass
class Workspace:
    """The memory that one frame at a time is segmented in, and how long its steps took.

    `image` (1, h, w, 3) uint8 is the network's input: `memory`, or the frame itself where nothing
    has to be prepared. `result` is what the engine returned, and writes to the next time. An engine
    that takes frames has the `frame` itself, and `made` of it what is wanted `at`.
    """

    frame: np.ndarray | None = None
    at: str = "frame"
    made: OnDevice | None = None
    memory: np.ndarray = field(default_factory=lambda: np.empty((1, 0, 0, 3), np.uint8))
    image: np.ndarray = field(default_factory=lambda: np.empty((1, 0, 0, 3), np.uint8))
    result: np.ndarray | None = None
    placement: Placement | None = None
    took: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    @property
    def stages(self) -> Stages:
        """Milliseconds of the last frame."""
        return Stages(*self.took)


def load(
    folder: str | PathLike[str],
    *,
    frames: str,
    threads: int | None = None,
    inference_precision: str | None = None,
    allow_ungated: bool = False,
) -> Segmenter:
    """Open an engine folder for frames in the format `frames` (`prepare.FORMATS`).

    That is "rgb", "bgr", "nv12", "yuyv" or "grey". OpenCV gives bgr, Pillow and most others rgb;
    the wrong one costs most of the accuracy without an error. Raises BundleError for a folder that
    is damaged or did not pass the accuracy gate (unless `allow_ungated`), EngineError when the
    engine's library is missing.
    """
    check_format(frames)
    bundle = read_gated(Path(folder), allow_ungated=allow_ungated)
    if bundle.manifest.input.mask:
        raise BundleError(only_refines(str(folder), bundle.manifest.name))
    check_batch(bundle)  # before the engine takes memory
    engine = open_bundle(bundle, EngineOptions(threads, inference_precision))
    return Segmenter(engine, bundle, frames=frames)


def only_refines(model: str, name: str) -> str:
    """What is said of a refiner where labels of frames are wanted."""
    return (
        f"{model} holds '{name}', which labels no frames: it refines masks that another network "
        f"made. 'edgeseg refine {model} ...' takes it, and in Python edgeseg.load_refiner"
    )


def read_gated(folder: Path, *, allow_ungated: bool) -> Bundle:
    """An engine folder that passed its gate (unless `allow_ungated`), else a BundleError."""
    bundle = read_bundle(folder)
    if bundle.manifest.target is None:
        raise BundleError(f"{folder} has no engine; build one with 'edgeseg export'")
    gate = bundle.manifest.gate
    if (gate is None or gate.state != "passed") and not allow_ungated:
        state = gate.state if gate else "not run"
        why = f" ({gate.why})" if gate and gate.why else ""
        raise BundleError(
            f"{folder}: gate: {state}{why}; run 'edgeseg export' or 'edgeseg build' where the "
            "engine can run, or load with allow_ungated=True (--allow-ungated)"
        )
    return bundle


def open_bundle(bundle: Bundle, options: EngineOptions) -> Engine:
    """The engine that a folder was built for."""
    target = bundle.manifest.target
    assert target is not None, "read_gated comes first"
    return open_engine(target.name, bundle, options)


class Segmenter:
    """Frames in, labels out. Safe to call from several threads; close it or use it in a `with`."""

    def __init__(self, engine: Engine, bundle: Bundle, *, frames: str) -> None:
        manifest = bundle.manifest
        self._engine: Engine | None = engine
        self.bundle = bundle
        self.input: InputSpec = manifest.input
        self.output = manifest.output
        self.classes: ClassTable = manifest.table
        spec, threads = manifest.input, engine.threads
        self._prepare = Preparer(frames, spec.order, spec.fill, threads=threads)
        self._size = manifest.input.size
        check_batch(bundle)
        self._decoder = _decoder(bundle, engine) if self.output.kind == "scores" else None
        takes_frames = isinstance(engine, FrameEngine) and not engine.left_to_cpu
        self._device = ON_DEVICE if takes_frames else None
        self._why_cpu = engine.left_to_cpu if isinstance(engine, FrameEngine) else ""
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
    def frame_format(self) -> str:
        """The format of the frames that it takes, such as "rgb"."""
        return self._prepare.format

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
        """A frame of H x W pixels -> (H, W) uint8 labels, the caller's own memory.

        `at` is "frame" (labels at the frame's size; pixels that a cropping fit cut off are 255) or
        "network" (at the network's output size, padding included). `out`, if given, is a uint8
        array of the labels' shape; it is written and returned.
        """
        return self.timed(frame, out, at=at)[0]

    def timed(
        self, frame: np.ndarray, out: np.ndarray | None = None, *, at: str = "frame"
    ) -> tuple[np.ndarray, Stages]:
        """`segment`, and how long each stage took."""
        if at not in AT:
            raise UsageError(f"at is '{at}'; expected one of {', '.join(AT)}")
        work = self._workspace()
        work.at = at
        self.prepare(frame, work)
        self.infer(work)
        return self.finish(work, out, at=at), work.stages

    def prepare(self, frame: np.ndarray, work: Workspace) -> None:
        """The first third of `segment`: frame -> network input, in `work`."""
        start = perf_counter()
        placement = self.placement(self._prepare.size(frame))
        work.placement, work.frame = placement, frame
        if self._device is not None:
            work.took[0] = 0.0
            return
        if work.memory.shape[1:3] != placement.network:
            work.memory, work.result = np.empty((1, *placement.network, 3), np.uint8), None
        if self._prepare.is_input(frame, placement):
            work.image = frame[None]
        else:
            work.image = work.memory
            self._prepare(frame, placement, work.memory[0])
        work.took[0] = (perf_counter() - start) * 1e3

    def infer(self, work: Workspace) -> None:
        """The second third: network input -> what the engine returns."""
        start = perf_counter()
        if self._device is not None:
            work.made = self._on_device(work)
            rest = (perf_counter() - start) * 1e3 - sum(work.made.took)
            work.took[:] = work.made.took
            work.took[0] += max(rest, 0.0)
            return
        if work.result is None:
            work.result = self.engine.infer(work.image)
        else:
            self.engine.infer_into(work.image, work.result)
        work.took[1] = (perf_counter() - start) * 1e3

    def finish(
        self, work: Workspace, out: np.ndarray | None = None, *, at: str = "frame"
    ) -> np.ndarray:
        """The last third: what the engine returned -> labels; `work` is free again."""
        if self._device is not None:
            return self._handed_over(work, out)
        result, placement = work.result, work.placement
        assert result is not None and placement is not None, "prepare and infer come first"
        start = perf_counter()
        if at == "frame":
            labels = self._restored(result, placement, _check_out(out, placement.frame))
        else:
            labels = self._at_network(result, out)
        work.took[2] = (perf_counter() - start) * 1e3
        return labels

    def _on_device(self, work: Workspace, measure: str | None = None) -> OnDevice:
        """All of it by an engine that takes frames."""
        engine, placement, frame = self.engine, work.placement, work.frame
        assert isinstance(engine, FrameEngine) and placement is not None and frame is not None
        return engine.segment(
            frame, self._prepare.format, placement,
            swap=self._prepare.swap, whole=work.at == "network", measure=measure,
        )  # fmt: skip

    def _handed_over(self, work: Workspace, out: np.ndarray | None) -> np.ndarray:
        """The device's labels, in a frame that is IGNORE where the network did not see it."""
        made, placement = work.made, work.placement
        assert made is not None and placement is not None, "prepare and infer come first"
        start = perf_counter()
        labels, work.made, work.frame = made.labels, None, None
        cut = work.at == "frame" and placement.source.size != placement.frame
        size = placement.frame if cut else (labels.shape[0], labels.shape[1])
        if _check_out(out, size) is None and not cut:
            return labels
        whole = np.empty(size, np.uint8) if out is None else out
        if cut:
            whole[:] = IGNORE
            whole[placement.source.slices] = labels
        else:
            whole[...] = labels
        work.took[2] += (perf_counter() - start) * 1e3
        return whole

    def _at_network(self, result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        size = result.shape[1:] if self._decoder is None else self._decoder.size(result)
        labels = _check_out(out, (size[0], size[1]))
        if labels is None:
            labels = np.empty(size, np.uint8)
        if self._decoder is None:
            labels[...] = result[0]
        else:
            self._decoder(result, labels[None])
        return labels

    def decode(self, result: np.ndarray) -> np.ndarray:
        """What the engine returned -> (N, h, w) uint8 labels."""
        return result if self._decoder is None else self._decoder(result)

    @property
    def prepare_name(self) -> str:
        """For reports: "native avx2, 2 threads", "numpy" or "on the GPU"."""
        return self._device or self._prepare.name

    @property
    def decode_name(self) -> str:
        """For reports: "in the graph" or "bilinear x8, then argmax: native avx512, 2 threads"."""
        if self._decoder is None:
            return "in the graph"
        upsampling = f"{self.output.decode} x{self.output.factor}"
        by = self._device or self._decoder.name
        why = f" (not on the GPU: {self._why_cpu})" if self._why_cpu else ""
        return f"{upsampling}, then argmax: {by}{why}"

    def segment_with_confidence(
        self, frame: np.ndarray, measure: str = "softmax"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 -> (H, W) uint8 labels, and how sure they are, uint8 from 0 to 255.

        `measure` is "softmax" (that of the label) or "margin" (less that of the second class).
        Pixels that a cropping fit cut off are 255 with confidence 0. The folder must have been
        exported with --output scores.
        """
        if self._decoder is None:
            raise UsageError(
                "confidence needs scores, and this engine returns labels; "
                "export the model with --output scores"
            )
        work = self._workspace()
        work.at = "frame"
        self.prepare(frame, work)
        placement = work.placement
        assert placement is not None
        found = self._with_confidence(work, placement, measure)
        labels = np.full(placement.frame, IGNORE, np.uint8)
        confidence = np.zeros(placement.frame, np.uint8)
        for whole, part in zip((labels, confidence), found, strict=True):
            whole[placement.source.slices] = part[0]
        return labels, confidence

    def _with_confidence(
        self, work: Workspace, placement: Placement, measure: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """(1, H, W) labels and confidence of the part of the frame that is seen."""
        if self._device is not None:
            made = self._on_device(work, check_measure(measure))
            assert made.confidence is not None
            return made.labels[None], made.confidence[None]
        self.infer(work)
        scores = work.result
        assert self._decoder is not None and scores is not None
        where = nearest(placement, self._decoder.size(scores))
        return self._decoder.with_confidence(scores, measure, where)

    def _restored(
        self, result: np.ndarray, placement: Placement, out: np.ndarray | None
    ) -> np.ndarray:
        """What the engine returned -> (H, W) labels of the frame; `restore`, without a detour."""
        if self._decoder is None:
            return self._prepare.restore(result[0], placement, out)
        if out is None:
            out = np.empty(placement.frame, np.uint8)
        if placement.source.size != placement.frame:
            out[:] = IGNORE
        where = nearest(placement, self._decoder.size(result))
        self._decoder(result, out[placement.source.slices][None], where)
        return out

    def placement(self, frame: Size) -> Placement:
        """Which part of a frame of that (height, width) the network sees, and where."""
        return place(frame, self._size or frame, self.input.fit)

    def _workspace(self) -> Workspace:
        """That of this thread."""
        work: Workspace | None = getattr(self._local, "work", None)
        if work is None:
            work = self._local.work = Workspace()
        return work


def _decoder(bundle: Bundle, engine: Engine) -> Decoder:
    """The decode of a folder, on as many threads as its engine has."""
    output, weight, bias = bundle.manifest.output, None, None
    if output.decode in WEIGHTED:
        with np.load(bundle.path("decode.npz")) as arrays:
            weight, bias = arrays["weight"], arrays["bias"]
    return Decoder(output, weight, bias, threads=engine.threads)


def check_batch(bundle: Bundle) -> None:
    """UsageError unless a folder takes one frame at a time."""
    batch = bundle.manifest.input.batch
    if batch != 1:
        raise UsageError(
            f"{bundle.folder} was exported for batches of {batch} frames; frames are "
            "taken one at a time: export with --batch 1"
        )


def _check_out(out: np.ndarray | None, size: Size) -> np.ndarray | None:
    if out is None:
        return None
    if not isinstance(out, np.ndarray):
        raise FrameError(f"out is a {type(out).__name__}; expected a numpy array of shape {size}")
    if out.dtype != np.uint8 or out.shape != size:
        raise FrameError(f"out is {out.dtype} of shape {out.shape}; expected uint8 of shape {size}")
    if not out.flags.writeable:  # C would write all the same
        raise FrameError("out is read-only; expected an array that may be written")
    return out
