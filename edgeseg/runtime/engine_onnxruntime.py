"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import threading

import numpy as np
import onnxruntime

from edgeseg.bundle import Bundle
from edgeseg.errors import EngineError
from edgeseg.runtime.engine import Engine, EngineOptions, check_images

AS_WRITTEN = ("session.disable_quant_qdq", "1")
"""Q/DQ graphs are not rewritten. ONNX Runtime would compute the few convolutions in INT8 whose
output is quantised at once, with their biases rounded; for that it keeps all weights quantised, so
that every call dequantises them and none has its blocked layout (docs/int8.md)."""


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
        settings.add_session_config_entry(*AS_WRITTEN)
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.network), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"onnxruntime can't open {bundle.network}: {error}") from error
        self._output = self._session.get_outputs()[0].name
        self._local = threading.local()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> labels or scores, as the manifest says."""
        check_images(images, self._spec)
        try:
            outputs = self._session.run(None, {"image": images})
        except Exception as error:
            raise EngineError(f"onnxruntime: inference failed: {error}") from error
        result: np.ndarray = outputs[0]
        return result

    def infer_into(self, images: np.ndarray, out: np.ndarray) -> None:
        """`infer` with both arrays bound to the session: nothing is copied or allocated.

        The interpreter's lock is released meanwhile.
        """
        check_images(images, self._spec)
        if not (images.flags.c_contiguous and out.flags.c_contiguous):
            super().infer_into(images, out)
            return
        try:
            self._session.run_with_iobinding(self._bound(images, out))
        except Exception as error:
            raise EngineError(f"onnxruntime: inference failed: {error}") from error

    def _bound(self, images: np.ndarray, out: np.ndarray) -> onnxruntime.IOBinding:
        """The binding of this thread, to these arrays."""
        addresses = [int(a.__array_interface__["data"][0]) for a in (images, out)]
        key = (*addresses, images.shape, out.shape, out.dtype)
        if getattr(self._local, "key", None) != key:
            binding = self._session.io_binding()
            binding.bind_input("image", "cpu", 0, images.dtype, images.shape, addresses[0])
            binding.bind_output(self._output, "cpu", 0, out.dtype, out.shape, addresses[1])
            self._local.binding, self._local.key = binding, key
        found: onnxruntime.IOBinding = self._local.binding
        return found
