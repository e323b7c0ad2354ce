"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime

from edgeseg.bundle import Bundle
from edgeseg.errors import EngineError
from edgeseg.runtime.engine import Engine, EngineOptions, check_images


class OnnxRuntimeEngine(Engine):
    """`network.onnx` by ONNX Runtime's CPU provider; f32 arithmetic (its CPU has no other)."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        if options.inference_precision not in (None, "f32"):
            raise EngineError(
                f"onnxruntime's CPU computes in f32, not {options.inference_precision}; "
                "leave --inference-precision away"
            )
        self._spec = bundle.manifest.input
        self.version = onnxruntime.__version__
        self.device = "CPU"
        self.inference_precision = "f32"
        self.threads = options.threads or len(os.sched_getaffinity(0))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.network), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"onnxruntime can't open {bundle.network}: {error}") from error

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> labels or scores, as the manifest says."""
        check_images(images, self._spec)
        try:
            outputs = self._session.run(None, {"image": images})
        except Exception as error:
            raise EngineError(f"onnxruntime: inference failed: {error}") from error
        result: np.ndarray = outputs[0]
        return result
