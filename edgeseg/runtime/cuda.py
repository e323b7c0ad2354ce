"""The GPU through PyCUDA, known to no other file: context, stream, memory, kernels, release.

The context is the device's primary one, which torch and every other user of CUDA's runtime has
too. It is current only inside `Gpu.using`, in whichever thread that is, so several threads and
several instances share one GPU. CUDA's driver is asked directly (ctypes) for what PyCUDA lacks:
graphs, and leaving the context that PyCUDA's `detach` forgets on the thread's stack.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda

from edgeseg.errors import EngineError
from edgeseg.runtime import gpu as driver_of

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: this stream does not wait for the default one, which torch uses."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is no error."""
BLOCK = (32, 8)
"""Threads of one block: 32 pixels of a row, 8 rows."""
MIB = 1 << 20


class Gpu:
    """A hold on one GPU: its primary context, a stream of its own, and all that was made with it.

    Everything but `release` is called inside `using`. Memory is allocated once and freed by
    `release`, or by `free` when it is no longer wanted.
    """

    def __init__(self, index: int = 0) -> None:
        self._pid = os.getpid()
        self._owned: dict[int, tuple[object, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        try:
            cuda.init()
            device = cuda.Device(index)
            self.name = str(device.name())
            self.compute_capability = ".".join(map(str, device.compute_capability()))
            attribute = cuda.device_attribute
            self.mapped = all(
                device.get_attribute(a)
                for a in (attribute.INTEGRATED, attribute.CAN_MAP_HOST_MEMORY)
            )
            self._context: Any | None = device.retain_primary_context()
        except cuda.Error as error:
            raise EngineError(
                f"no NVIDIA GPU can be used: {error}; 'nvidia-smi' (on a Jetson 'tegrastats') "
                "shows whether driver and GPU are there"
            ) from error
        try:
            with self.using():
                self.stream = cuda.Stream(NON_BLOCKING)
        except BaseException:
            self.release()
            raise

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Inside, the context is current in this thread; errors of CUDA become EngineErrors."""
        if os.getpid() != self._pid:
            raise EngineError(
                "the engine was opened before this process was forked, and CUDA does not outlive a "
                "fork; open it in the child, or start processes by 'spawn'"
            )
        context = self._context
        if context is None:
            raise EngineError("this engine is closed; open the folder again")
        try:
            context.push()
            try:
                yield
            except BaseException:
                self._settle()
                raise
            finally:
                cuda.Context.pop()
        except cuda.MemoryError as error:
            raise EngineError(
                f"the GPU has too little memory left ({error}); close what else uses it, or take "
                "a smaller --size"
            ) from error
        except cuda.Error as error:
            raise EngineError(
                f"CUDA failed: {error}. After an error of a kernel no call of this process works "
                "any more: start it again"
            ) from error

    def free_mib(self) -> int:
        """Device memory that nobody uses; on boards the system's free memory."""
        return int(cuda.mem_get_info()[0]) // MIB

    def own(self, thing: object, free: Callable[[], None]) -> None:
        """Have `release` call `free`, the latest first, unless `free(thing)` did."""
        self._owned[id(thing)] = thing, free

    def free(self, thing: object) -> None:
        """Free one thing before the others."""
        self._owned.pop(id(thing))[1]()

    def _settle(self) -> None:
        """After an error: what is on the stream no longer uses our memory."""
        with contextlib.suppress(cuda.Error, AttributeError):
            self.stream.synchronize()

    def release(self) -> None:
        """Free everything and let go of the context. From any thread, twice is fine.

        What CUDA says no to is left: another library may have reset the device, or the process
        ends. A forked child frees nothing, for nothing is its own.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            context, self._context = self._context, None
        if context is None:
            return
        try:
            context.push()
        except cuda.Error:
            self._owned.clear()
            return
        self._settle()
        while self._owned:
            with contextlib.suppress(cuda.Error):
                self._owned.popitem()[1][1]()
        self.__dict__.pop("stream", None)
        with contextlib.suppress(cuda.Error):
            _detach(context)


def _detach(context: Any) -> None:
    """Release the primary context, which is current, and leave it.

    PyCUDA releases and forgets it, but CUDA still has it on this thread's stack, below the context
    that PyCUDA made current again, if there was one before.
    """
    driver = driver_of.open_driver()
    ours = ctypes.c_void_p()
    if driver is not None:
        driver.cuCtxGetCurrent(ctypes.byref(ours))
    context.detach()
    if driver is None:
        return
    top = ctypes.c_void_p()
    driver.cuCtxPopCurrent_v2(ctypes.byref(top))
    if top.value not in (None, ours.value):
        driver.cuCtxPopCurrent_v2(ctypes.byref(ours))
        driver.cuCtxPushCurrent_v2(top)


class Buffer:
    """Bytes that both sides reach: `host`, an array in pinned memory, and `address` for kernels.

    Where the GPU shares the board's memory they are the same bytes, and nothing is copied. Copies
    go onto the stream: `Clock.wait` before `host` is read, or written again.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: Any) -> None:
        self._gpu = gpu
        self.host = self.pinned(shape, dtype, mapped=gpu.mapped)
        self._pinned: Any = self.host.base
        self._memory: Any | None = None
        gpu.own(self, self._free)
        try:
            if gpu.mapped:
                self.address = int(self._pinned.get_device_pointer())
            else:
                self._memory = cuda.mem_alloc(self.host.nbytes)
                self.address = int(self._memory)
        except BaseException:
            gpu.free(self)
            raise

    @staticmethod
    def pinned(shape: tuple[int, ...], dtype: Any, *, mapped: bool = False) -> Any:
        """An array in pinned memory, which is its `base` and has to be freed."""
        flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        return cuda.pagelocked_empty(shape, dtype, mem_flags=flags)

    def upload(self) -> None:
        """Host to device."""
        if self._memory is not None:
            cuda.memcpy_htod_async(self.address, self.host, self._gpu.stream)

    def download(self) -> None:
        """Device to host."""
        if self._memory is not None:
            cuda.memcpy_dtoh_async(self.host, self.address, self._gpu.stream)

    def _free(self) -> None:
        pinned, memory = self._pinned, self._memory
        self._pinned = self._memory = None
        self.host = np.empty(0, self.host.dtype)
        try:
            if memory is not None:
                memory.free()
        finally:
            pinned.free()


class DeviceMemory:
    """Bytes on the device alone, at `address`."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        memory = cuda.mem_alloc(size)
        self.address = int(memory)
        gpu.own(self, memory.free)

    @classmethod
    def holding(cls, gpu: Gpu, array: np.ndarray) -> DeviceMemory:
        """A copy of an array. Waits until it is there."""
        memory = cls(gpu, array.nbytes)
        pinned = Buffer.pinned(array.shape, array.dtype)
        try:
            pinned[...] = array
            cuda.memcpy_htod_async(memory.address, pinned, gpu.stream)
            gpu.stream.synchronize()
        finally:
            pinned.base.free()
        return memory


class Clock:
    """Marks on the stream, and the milliseconds between them."""

    def __init__(self, gpu: Gpu, marks: int) -> None:
        self._gpu = gpu
        flags = cuda.event_flags.BLOCKING_SYNC  # the CPU sleeps meanwhile
        self._events = [cuda.Event(flags) for _ in range(marks)]
        gpu.own(self, self._events.clear)

    def mark(self, index: int) -> None:
        """Note the time when the stream comes here."""
        self._events[index].record(self._gpu.stream)

    def wait(self) -> list[float]:
        """Wait for the last mark; milliseconds from each mark to the next."""
        self._events[-1].synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [float(a.time_till(b)) for a, b in pairs]


class Kernels:
    """The functions of a cubin. Each takes one struct by value and covers an area of pixels."""

    def __init__(self, gpu: Gpu, cubin: Path, sizes: dict[str, int]) -> None:
        self._gpu = gpu
        module = cuda.module_from_file(str(cubin))
        self._functions: dict[str, Any] = {}
        gpu.own(self, self._functions.clear)
        for name, size in sizes.items():
            self._functions[name] = module.get_function(name).prepare([f"{size}s"])

    def launch(self, name: str, struct: ctypes.Structure, area: tuple[int, int, int]) -> None:
        """Put a kernel onto the stream; `area` is (width, height, frames)."""
        width, height, frames = area
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), frames)
        self._functions[name].prepared_async_call(
            grid, (*BLOCK, 1), self._gpu.stream, bytes(struct)
        )


class Graph:
    """What one call puts onto the stream, kept by the driver and put there again as a whole."""

    def __init__(self, gpu: Gpu, work: Callable[[], None]) -> None:
        driver = driver_of.open_driver()
        if driver is None:
            raise EngineError(
                "CUDA graphs need the driver's library (libcuda), and it can't be found"
            )
        self._gpu, self._driver = gpu, driver
        self._stream = ctypes.c_void_p(gpu.stream.handle)
        graph, self._ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL)
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._ready), graph, _ULL(0))
        finally:
            self._call("cuGraphDestroy", graph)
        gpu.own(self, lambda: self._call("cuGraphExecDestroy", self._ready))

    def launch(self) -> None:
        """Put it onto the stream."""
        self._call("cuGraphLaunch", self._ready, self._stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise EngineError(
                f"CUDA graph: {name} failed with error {code}; open it without graphs"
            )


_ULL = ctypes.c_ulonglong
