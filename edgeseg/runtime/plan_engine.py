"""A plan on an NVIDIA GPU, by whichever TensorRT is handed in."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from edgeseg.bundle import BuildRecord, Bundle, Target
from edgeseg.errors import EngineError
from edgeseg.frame import Placement
from edgeseg.runtime.cuda import Buffer, Clock, Gpu, Graph
from edgeseg.runtime.engine import EngineOptions, FrameEngine, OnDevice, check_images
from edgeseg.runtime.pixel_jobs import why_not
from edgeseg.runtime.pixels import Pixels, Shapes, View
from edgeseg.runtime.tensorrt_log import log_of

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
PRECISIONS = {"fp32": "f32", "fp16": "f16", "int8": "f32"}
"""What a folder's float arithmetic is: it is in the graph, and the builder changed nothing."""
DTYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16}
"""TensorRT's names; its own `nptype` does not work with every numpy."""
MIB = 1 << 20
PATIENCE = 10.0
"""Seconds that a release waits for a call that is still running."""


class PlanEngine(FrameEngine):
    """`network.plan` on the first GPU. Calls of several threads take turns; instances run at once.

    Nothing is allocated in a call but what it returns. The GPU is given back by `close`, when the
    engine is no longer used, or when the interpreter ends, whichever comes first. Environment:
    EDGESEG_CUDA_GRAPH=1 launches the network as one CUDA graph.
    """

    def __init__(self, trt: ModuleType, bundle: Bundle, options: EngineOptions) -> None:
        target = bundle.manifest.target
        assert target is not None
        computes = PRECISIONS[bundle.manifest.precision]
        if options.inference_precision not in (None, computes):
            raise EngineError(
                f"{bundle.network}: the plan computes in {computes}, not "
                f"{options.inference_precision}: its precision is in the graph. Export with "
                "another --precision"
            )
        self._spec = bundle.manifest.input
        self.version = str(trt.__version__)
        self.inference_precision = computes
        self.threads = options.threads or len(os.sched_getaffinity(0))
        self._loaded = _Loaded(trt, bundle, target, wanted_graph())
        self._finalizer = weakref.finalize(self, self._loaded.release)
        self.device = self._loaded.gpu.name
        self.left_to_cpu = self._loaded.left_to_cpu

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> labels or scores (float32 or float16), as the manifest says."""
        with self._running(images) as result:
            answer: np.ndarray = result.copy()
        return answer

    def infer_into(self, images: np.ndarray, out: np.ndarray) -> None:
        """`infer` into memory of the result's shape and type."""
        with self._running(images) as result:
            out[...] = result

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
        """Frame -> labels of `placement.source`, or of the whole network."""
        loaded = self._loaded
        view = View(form, placement, swap, whole)
        with loaded.turn():
            pixels, clock = loaded.pixels, loaded.clock
            assert pixels is not None, "left_to_cpu says why"
            fit = pixels.load(frame, view)
            clock.mark(0)
            pixels.prepare(fit)
            clock.mark(1)
            loaded.network(pixels.image.address, pixels.result.address)
            clock.mark(2)
            pixels.decode(fit, measure)
            clock.mark(3)
            took = clock.wait()
            sure = fit.sure.host.copy() if fit.sure is not None and measure else None
            return OnDevice(fit.labels.host.copy(), sure, (took[0], took[1], took[2]))

    def close(self) -> None:
        """Give the GPU back. Twice is fine; a closed engine refuses images."""
        self._finalizer()

    @contextlib.contextmanager
    def _running(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """What the network says of the images; valid inside."""
        check_images(images, self._spec)
        loaded = self._loaded
        with loaded.turn():
            loaded.image.host[...] = images
            loaded.clock.mark(0)
            loaded.image.upload()
            loaded.clock.mark(1)
            loaded.network(loaded.image.address, loaded.result.address)
            loaded.clock.mark(2)
            loaded.result.download()
            loaded.clock.mark(3)
            loaded.clock.wait()
            yield loaded.result.host


class _Loaded:
    """What an engine holds of the GPU; `release` gives back all of it, from any thread."""

    def __init__(self, trt: ModuleType, bundle: Bundle, target: Target, graph: bool) -> None:
        self.lock = threading.Lock()
        self._pid = os.getpid()
        self._log, self._name = log_of(trt), f"{NAMES[target.name]} {trt.__version__}"
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._bound = (0, 0)
        self._wants_graph = graph
        self.pixels: Pixels | None = None
        self.gpu = Gpu()
        try:
            with self.gpu.using():
                self._open(trt, bundle, target)
        except BaseException:
            self.release()
            raise

    def _open(self, trt: ModuleType, bundle: Bundle, target: Target) -> None:
        check_gpu(bundle, target, self.gpu)
        self._runtime = trt.Runtime(self._log)
        self.gpu.own(self._runtime, self._dropping("_runtime"))
        self._engine = self._deserialise(trt, bundle, target)
        self.gpu.own(self._engine, self._dropping("_engine"))
        image, result = self._tensors(trt, bundle)
        self._context = self._prepare(bundle)
        self.gpu.own(self._context, self._dropping("_context"))
        self.image = Buffer(self.gpu, tuple(self._engine.get_tensor_shape(image)), np.uint8)
        shape = tuple(self._engine.get_tensor_shape(result))
        self.result = Buffer(self.gpu, shape, self._dtype(bundle, result))
        self.clock = Clock(self.gpu, 4)
        self._names = image, result
        record = target.build.kernels if target.build else None
        self.left_to_cpu = why_on_cpu(bundle) or why_not(record, self.gpu.compute_capability)
        if not self.left_to_cpu and record is not None and record.file is not None:
            shapes = Shapes(self.image.host.shape, shape, self.result.host.dtype)
            self.pixels = Pixels(self.gpu, bundle.path(record.file), bundle, shapes)

    def _dropping(self, name: str) -> Callable[[], None]:
        """A function that lets go of what TensorRT gave, while its context is current."""
        return lambda: self.__dict__.pop(name, None)

    def _deserialise(self, trt: ModuleType, bundle: Bundle, target: Target) -> Any:
        asked = (target.build or BuildRecord(0, 0, 0)).options
        if asked.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True
        if asked.get("dla") is not None:
            self._runtime.DLA_core = asked["dla"]
        self._log.forget()
        engine = self._runtime.deserialize_cuda_engine(bundle.network.read_bytes())
        if engine is not None:
            return engine
        why = self._log.why()
        if "memory" in why.lower() and "illegal" not in why.lower():
            advice = f"{self.gpu.free_mib()} MiB of GPU memory are free: close what else uses it"
        elif target.version != trt.__version__:
            advice = (
                f"it was built by {NAMES[target.name]} {target.version}, and this machine has "
                f"{trt.__version__}: type here 'edgeseg build {bundle.folder} --target "
                f"{target.name}'"
            )
        else:
            advice = f"copy the folder again, or type here 'edgeseg build {bundle.folder}'"
        raise EngineError(f"{self._name} can't open {bundle.network}: {why}; {advice}")

    def _tensors(self, trt: ModuleType, bundle: Bundle) -> tuple[str, str]:
        """The names of input and output; EngineError unless they are those of the manifest."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        spec, kind = bundle.manifest.input, bundle.manifest.output.kind
        expected = ("image", kind, (spec.batch, *(spec.size or ()), spec.channels))
        shape = tuple(self._engine.get_tensor_shape(inputs[0])) if inputs else ()
        if len(names) != 2 or (inputs[0], outputs[0], shape) != expected:
            raise EngineError(
                f"{bundle.network} takes {', '.join(inputs)} {shape} and gives "
                f"{', '.join(outputs)}; the manifest says image {expected[2]} and {kind}. "
                "Build the folder again"
            )
        return inputs[0], outputs[0]

    def _prepare(self, bundle: Bundle) -> Any:
        """The execution context; EngineError that says how much memory it needs."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        needed = int(self._engine.device_memory_size if size is None else size) // MIB
        self._log.forget()
        context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"{self._name} can't run {bundle.network}: {self._log.why()}; it needs {needed} "
                f"MiB of GPU memory to work in, and {self.gpu.free_mib()} MiB are free. Close what "
                "else uses it, or build with a smaller --workspace"
            )
        return context

    def _dtype(self, bundle: Bundle, tensor: str) -> Any:
        name = self._engine.get_tensor_dtype(tensor).name
        if name not in DTYPES:
            raise EngineError(
                f"{bundle.network} gives {tensor} of type {name}; expected one of "
                f"{', '.join(DTYPES)}. Build the folder again"
            )
        return DTYPES[name]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, this thread alone uses the engine, and the context is current."""
        with self.lock, self.gpu.using():
            yield

    def network(self, image: int, result: int) -> None:
        """Put the network onto the stream, from and to these addresses.

        If graphs are wanted, a second call does it by the graph of the first.
        """
        graph = self._graphs.get((image, result))
        if graph is not None:
            graph.launch()
            return
        if self._bound != (image, result):
            for name, address in zip(self._names, (image, result), strict=True):
                self._context.set_tensor_address(name, address)
            self._bound = (image, result)
        self._enqueue()
        if self._wants_graph:
            self.gpu.stream.synchronize()  # the first call sets up what a capture may not
            self._graphs[image, result] = Graph(self.gpu, self._enqueue)

    def _enqueue(self) -> None:
        self._log.forget()
        if not self._context.execute_async_v3(self.gpu.stream.handle):
            raise EngineError(f"{self._name}: inference failed: {self._log.why()}")

    def release(self) -> None:
        """Give everything back, after the call that is running."""
        if os.getpid() != self._pid:
            return  # a forked child: nothing here is its own, and the lock may be held for ever
        held = self.lock.acquire(timeout=PATIENCE)
        try:
            self._graphs.clear()
            self.gpu.release()
        finally:
            if held:
                self.lock.release()


def wanted_graph() -> bool:
    """EDGESEG_CUDA_GRAPH, checked."""
    word = os.environ.get("EDGESEG_CUDA_GRAPH") or "0"
    if word not in ("0", "1"):
        raise EngineError(f"EDGESEG_CUDA_GRAPH is '{word}'; expected 0 or 1")
    return word == "1"


def why_on_cpu(bundle: Bundle) -> str:
    """Why the CPU prepares and decodes whatever the GPU can; "" if nothing speaks for it."""
    word, batch = os.environ.get("EDGESEG_DECODE"), bundle.manifest.input.batch
    if word:
        return f"EDGESEG_DECODE is {word}"
    if bundle.manifest.input.mask:
        return "kernels take frames, and this network takes a mask, too"
    return f"kernels take one frame at a time, and batches are of {batch}" if batch > 1 else ""


def check_gpu(bundle: Bundle, target: Target, gpu: Gpu) -> None:
    """EngineError when the plan is for a GPU that is not here."""
    build = target.build
    if build is None or build.compute_capability is None:
        return  # TensorRT-RTX: for any RTX GPU, as the library will find
    here, built = _numbers(gpu.compute_capability), _numbers(build.compute_capability)
    level = build.options.get("hardware_compatible")
    if level == "ampere+":
        fits = here >= (8, 0)
    elif level == "same-capability":
        fits = here == built
    else:
        fits = here == built and gpu.name == target.device
    if not fits:
        raise EngineError(
            f"{bundle.network} was built for {target.device} (compute capability "
            f"{build.compute_capability}), and this GPU is {gpu.name} ({gpu.compute_capability}). "
            f"Type here 'edgeseg build {bundle.folder}'; a plan for several GPUs is built with "
            "--hardware-compatible"
        )


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", capability))
