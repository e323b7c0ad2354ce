"""What an engine is, the registry of engines, and the one door that opens them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from edgeseg.bundle import Bundle, InputSpec
from edgeseg.errors import EngineError, UsageError, guess
from edgeseg.frame import Placement

ENGINES = {
    "fake": "edgeseg.runtime.engine_fake:FakeEngine",
    "onnxruntime": "edgeseg.runtime.engine_onnxruntime:OnnxRuntimeEngine",
    "openvino": "edgeseg.runtime.engine_openvino:OpenVinoEngine",
    "tensorrt": "edgeseg.runtime.engine_tensorrt:TensorRtEngine",
    "tensorrt-rtx": "edgeseg.runtime.engine_tensorrt_rtx:TensorRtRtxEngine",
    "torch": "edgeseg.training.engine_torch:TorchEngine",
}
"""Name -> "module:Class". A module that needs a library imports it on top and is named for it."""

NEEDS = {
    # engine        (import name,   what to type when it is missing)
    "onnxruntime": ("onnxruntime", "pip install 'edgeseg[onnxruntime]'"),
    "openvino": ("openvino", "pip install 'edgeseg[openvino]'"),
    "tensorrt": (
        "tensorrt",
        "it comes with JetPack or NVIDIA's apt repository; no edgeseg extra brings it",
    ),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install 'edgeseg[tensorrt-rtx]'"),
    "torch": ("torch", "pip install 'edgeseg[train]'"),
}
NEEDS_TOO = {
    "pycuda": "pip install pycuda (it is compiled: CUDA's nvcc must be on the PATH)",
}
"""Libraries that come beside an engine's own."""
INFERENCE_PRECISIONS = ("f32", "bf16", "f16")
"""Of float arithmetic, where an engine may choose."""
NO_DRIVER = "libcuda"
"""What the system calls the driver's library when it finds none."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run: CPU threads (None: all cores) and precision of float arithmetic.

    `inference_precision` is "f32", "bf16" or "f16", or None for what belongs to the folder's
    precision: f32 for fp32 folders; for fp16 and int8 folders the engine's own half precision
    where it has one.
    """

    threads: int | None = None
    inference_precision: str | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(
                f"threads is {self.threads}; expected 1 or more, or None for all cores"
            )
        asked = self.inference_precision
        if asked is not None and asked not in INFERENCE_PRECISIONS:
            known = guess(asked, INFERENCE_PRECISIONS)
            raise UsageError(f"unknown inference precision '{asked}'.{known}")


class Engine(ABC):
    """One network opened by one library. Safe to call from several threads.

    A subclass is made from (Bundle, EngineOptions) and sets `version`, `device`,
    `inference_precision` and `threads` for reports.
    """

    version: str
    device: str
    inference_precision: str
    threads: int

    @abstractmethod
    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, h, w) uint8 labels, or (N, C, h, w) float32 scores.

        A network that takes a mask has it in a fourth channel. Which of the two the manifest's
        `output` says. The caller owns what is returned.
        """

    def infer_into(self, images: np.ndarray, out: np.ndarray) -> None:
        """`infer` into memory of the shape and type that `infer` returned for such images.

        An engine that can write there itself does so; this one copies.
        """
        out[...] = self.infer(images)


@dataclass(frozen=True)
class OnDevice:
    """What a device made of a frame: labels (H, W) uint8, their confidence if it was asked for.

    `took` are the milliseconds of preparation, network and decode.
    """

    labels: np.ndarray
    confidence: np.ndarray | None
    took: tuple[float, float, float]


class FrameEngine(Engine):
    """An engine that can also prepare frames and decode labels, where it computes.

    `left_to_cpu` says why it does not; empty where it does.
    """

    left_to_cpu: str

    @abstractmethod
    def segment(
        self,
        frame: np.ndarray,
        form: str,
        placement: Placement,
        *,
        swap: bool,
        whole: bool = False,
        measure: str | None = None,
    ) -> OnDevice:
        """Frame in a format of prepare.py -> labels of `placement.source`.

        With `whole` they are at the network's output size, padding included. `swap` reverses the
        frame's channels; `measure` asks for confidence. The caller owns what is returned.
        """


def check_images(images: np.ndarray, spec: InputSpec) -> None:
    """EngineError unless `images` is uint8 (batch, height, width, channels) as `spec` says."""
    size = images.shape[1:3] if spec.size is None else spec.size
    expected = (spec.batch, *size, spec.channels)
    if images.dtype != np.uint8 or images.shape != expected:
        raise EngineError(
            f"image is {images.dtype} of shape {images.shape}; "
            f"the network takes uint8 of shape {expected}"
        )


def open_engine(name: str, bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open `bundle` with the engine of that name; EngineError when its library is missing."""
    if name not in ENGINES:
        raise EngineError(f"unknown engine '{name}'.{guess(name, ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    try:
        engine_class: type[Engine] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        installs = dict([NEEDS.get(name, ("", "")), *NEEDS_TOO.items()])
        library = (error.name or "").partition(".")[0]
        if not library or library not in installs:
            raise
        raise EngineError(
            f"engine '{name}' needs '{library}'. Install it: {installs[library]}"
        ) from error
    except ImportError as error:
        if NO_DRIVER in str(error):
            raise EngineError(
                f"engine '{name}' needs an NVIDIA GPU, and its driver is not on this machine "
                f"({error}); a folder made with --target onnxruntime runs on the CPU"
            ) from error
        raise EngineError(
            f"engine '{name}' is installed but can't be loaded ({error}); "
            "'edgeseg doctor' examines each engine"
        ) from error
    return engine_class(bundle, options or EngineOptions())  # type: ignore[call-arg]
