"""What an engine is, the registry of engines, and the one door that opens them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from edgeseg.bundle import Bundle, InputSpec
from edgeseg.errors import EngineError, guess

ENGINES = {
    "fake": "edgeseg.runtime.engine_fake:FakeEngine",
    "onnxruntime": "edgeseg.runtime.engine_onnxruntime:OnnxRuntimeEngine",
    "openvino": "edgeseg.runtime.engine_openvino:OpenVinoEngine",
    "torch": "edgeseg.training.engine_torch:TorchEngine",
}
"""Name -> "module:Class". A module that needs a library imports it on top and is named for it."""

NEEDS = {
    # engine        (import name,   what to type when it is missing)
    "onnxruntime": ("onnxruntime", "pip install 'edgeseg[onnxruntime]'"),
    "openvino": ("openvino", "pip install 'edgeseg[openvino]'"),
    "torch": ("torch", "pip install 'edgeseg[train]'"),
}

PLANS = ("tensorrt", "tensorrt-rtx")
"""Targets that edgeseg builds for; those that are not in ENGINES it can't run yet."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run: CPU threads (None: all cores) and precision of float arithmetic.

    `inference_precision` is "f32", "bf16" or "f16", or None for what belongs to the folder's
    precision: f32 for fp32 folders; for fp16 and int8 folders the engine's own half precision
    where it has one.
    """

    threads: int | None = None
    inference_precision: str | None = None


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

        Which of the two the manifest's `output` says. The caller owns what is returned.
        """


def check_images(images: np.ndarray, spec: InputSpec) -> None:
    """EngineError unless `images` is uint8 (batch, height, width, 3) of the network's size."""
    size = images.shape[1:3] if spec.size is None else spec.size
    expected = (spec.batch, *size, 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise EngineError(
            f"image is {images.dtype} of shape {images.shape}; "
            f"the network takes uint8 of shape {expected}"
        )


def open_engine(name: str, bundle: Bundle, options: EngineOptions | None = None) -> Engine:
    """Open `bundle` with the engine of that name; EngineError when its library is missing."""
    if name in PLANS and name not in ENGINES:
        raise EngineError(
            f"{bundle.folder}: this edgeseg builds {name} plans, and has no engine that runs them "
            "yet; its graph runs from a folder made with --target onnxruntime"
        )
    if name not in ENGINES:
        raise EngineError(f"unknown engine '{name}'.{guess(name, ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    try:
        engine_class: type[Engine] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        library, install = NEEDS.get(name, ("", ""))
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise EngineError(f"engine '{name}' needs '{library}'. Install it: {install}") from error
    except ImportError as error:
        raise EngineError(
            f"engine '{name}' is installed but can't be loaded ({error}); "
            "'edgeseg doctor' examines each engine"
        ) from error
    return engine_class(bundle, options or EngineOptions())  # type: ignore[call-arg]
