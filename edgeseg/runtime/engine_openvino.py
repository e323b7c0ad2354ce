"""OpenVINO: on the CPU, or on an Intel GPU or NPU."""

from __future__ import annotations

import functools
import os
import threading
from typing import ClassVar

import numpy as np
import openvino

from edgeseg.bundle import Bundle
from edgeseg.errors import EngineError
from edgeseg.runtime.engine import Engine, EngineOptions, check_images

_HALVES = {"f16": "FP16", "bf16": "BF16"}
# fmt: off
_DRIVERS = {
    "GPU": "an Intel GPU needs its driver (intel-opencl-icd), and you in the group 'render'",
    "NPU": "an Intel NPU needs its driver (intel-driver-compiler-npu, intel-level-zero-npu)",
}
# fmt: on


@functools.cache
def shared_core() -> openvino.Core:
    """The one Core of the process, never let go.

    OpenVINO (2026.4) gives a signal stack to the thread that makes a Core. When the Core goes in
    another thread, as the garbage collector may have it, that stack is freed and stays registered:
    the next signal of the first thread, such as Ctrl-C, ends the process.
    """
    return openvino.Core()


class OpenVinoEngine(Engine):
    """`network.xml` by OpenVINO's CPU plugin, or by the one that the manifest names.

    OpenVINO would pick bf16 for every folder where the CPU has it. Here fp32 folders are computed
    in f32; fp16 folders, and what int8 folders leave in float, in the half that the CPU has.
    """

    SETTINGS: ClassVar[dict[str, object]] = {"PERFORMANCE_HINT": "LATENCY"}

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self._spec = bundle.manifest.input
        core = shared_core()
        self.version = openvino.__version__.partition("-")[0]
        target = bundle.manifest.target
        plugin = (target.plugin if target else None) or "CPU"
        self.device = check_device(core, plugin)
        self.threads = options.threads or len(os.sched_getaffinity(0))
        self.inference_precision = _precision(bundle, core, plugin, options.inference_precision)
        settings = dict(self.SETTINGS)
        if plugin == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self.threads
        if plugin != "NPU":
            settings["INFERENCE_PRECISION_HINT"] = self.inference_precision
        try:
            self._model = core.compile_model(str(bundle.network), plugin, settings)
        except Exception as error:
            raise EngineError(f"openvino can't open {bundle.network}: {error}") from error
        self._local = threading.local()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> labels or scores, as the manifest says."""
        check_images(images, self._spec)
        request = self._request("own")
        try:
            request.infer([images], share_inputs=True, share_outputs=True)
        except Exception as error:
            raise EngineError(f"openvino: inference failed: {error}") from error
        return np.array(request.get_output_tensor(0).data)

    def infer_into(self, images: np.ndarray, out: np.ndarray) -> None:
        """`infer` with both arrays as the request's tensors: nothing is copied or allocated.

        The interpreter's lock is released meanwhile.
        """
        check_images(images, self._spec)
        if not (images.flags.c_contiguous and out.flags.c_contiguous):
            super().infer_into(images, out)
            return
        request = self._request("callers")
        try:
            request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
            request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
            request.infer(share_outputs=True)
        except Exception as error:
            raise EngineError(f"openvino: inference failed: {error}") from error

    def _request(self, tensors: str) -> openvino.InferRequest:
        """That of this thread, with its own tensors or with the caller's."""
        found: openvino.InferRequest | None = getattr(self._local, tensors, None)
        if found is None:
            found = self._model.create_infer_request()
            setattr(self._local, tensors, found)
        return found


def check_device(core: openvino.Core, plugin: str) -> str:
    """The full name of "CPU", "GPU" or "NPU"; EngineError where this machine has none."""
    there = [plugin] if plugin == "CPU" else [str(d) for d in core.available_devices]
    if not any(d == plugin or d.startswith(f"{plugin}.") for d in there):
        raise EngineError(
            f"OpenVINO finds no {plugin} here, only {', '.join(there)}; "
            f"{_DRIVERS.get(plugin, 'expected CPU, GPU or NPU')}. On the CPU it runs when exported "
            "with --device CPU"
        )
    return str(core.get_property(plugin, "FULL_DEVICE_NAME"))


def _precision(bundle: Bundle, core: openvino.Core, plugin: str, asked: str | None) -> str:
    """Float arithmetic: what was asked, else what belongs to the folder and the device."""
    if plugin == "NPU":
        if asked not in (None, "f16"):
            raise EngineError(f"an NPU computes in f16, not in {asked}; leave the precision away")
        return "f16"
    if asked is not None or bundle.manifest.precision == "fp32":
        return asked or "f32"
    return half_precision(core, plugin) or "f32"


def half_precision(core: openvino.Core, plugin: str = "CPU") -> str | None:
    """The half precision that a plugin computes in here: "f16", "bf16", or None."""
    able = core.get_property(plugin, "OPTIMIZATION_CAPABILITIES")
    return next((hint for hint, name in _HALVES.items() if name in able), None)
