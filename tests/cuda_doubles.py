"""A GPU that is none: doubles of `pycuda.driver` and of libcuda that account for everything.

What a stream is given is done when somebody waits for it, and not before: whoever reads too early
reads poison, and whoever writes too early is seen in the numbers. Memory has fences around it, is
poisoned when it comes and when it goes, and is never given out twice. Contexts follow PyCUDA's
sources: one stack for each thread, and another in the driver that `detach` of a primary context
leaves as it is. `Machine.verify` names every leak and every fault; it is a test's last line.

Addresses are real ones of this process, so kernels compiled for the CPU work on them.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

FENCE = 64
FRESH, GONE, GUARD = 0xCD, 0xDD, 0xFB
FOREIGN = 0xF00
"""The handle of another library's context."""


class Fault(AssertionError):
    """What a real GPU may do in silence: read freed memory, run out of order, leak."""


class Error(Exception):
    """pycuda.driver.Error."""


class LogicError(Error):
    """pycuda.driver.LogicError."""


class OutOfMemory(Error):
    """pycuda.driver.MemoryError."""


class LaunchError(Error):
    """pycuda.driver.LaunchError."""


class Memory:
    """One allocation, on the device or pinned, between two fences."""

    def __init__(self, machine: Machine, size: int, kind: str, mapped: bool = False) -> None:
        if size <= 0:
            raise LogicError(f"allocation of {size} bytes: invalid argument")
        if kind != "pinned" and machine.used() + size > machine.total:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        self.machine, self.size, self.kind, self.mapped = machine, size, kind, mapped
        self.context = machine.current()
        self.block = np.full(size + 2 * FENCE, GUARD, np.uint8)
        self.bytes = self.block[FENCE : FENCE + size]
        self.bytes[:] = FRESH
        self.address = self.bytes.ctypes.data
        self.alive = True
        machine.memory[self.address] = self
        machine.allocated += 1

    def __int__(self) -> int:
        return self.address

    def get_device_pointer(self) -> int:
        self.machine.current()
        if not self.mapped:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return self.address

    def free(self) -> None:
        if not self.alive:
            raise LogicError("free failed: invalid resource handle")
        self.machine.current()
        self.machine.check_idle(self)
        self.alive = False
        self.bytes[:] = GONE

    def fault(self) -> str:
        """What is wrong with it at the end, or nothing."""
        if (self.block[:FENCE] != GUARD).any() or (self.block[-FENCE:] != GUARD).any():
            return f"something was written beyond {self.size} bytes of {self.kind} memory"
        if not self.alive and (self.bytes != GONE).any():
            return f"{self.kind} memory was written after it was freed"
        return f"{self.size} bytes of {self.kind} memory are leaked" if self.alive else ""


class Context:
    """pycuda's primary_context; `thread` made it."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.valid, self.thread = machine, True, threading.get_ident()
        machine.retained += 1
        machine.contexts.append(self)

    def push(self) -> None:
        here = self.machine.here()
        if here.pycuda:
            here.driver.pop()
        if not self.machine.retained:
            raise LogicError("cuCtxPushCurrent failed: context is destroyed")
        here.driver.append(self.machine.primary)
        here.pycuda.append(self)

    def detach(self) -> None:
        if not self.valid:
            raise LogicError("context::detach failed: invalid device context")
        here = self.machine.here()
        active = bool(here.pycuda) and here.pycuda[-1] is self
        if active:
            self.machine.release_primary()
        elif self.thread == threading.get_ident():
            here.driver.append(self.machine.primary)
            self.machine.release_primary()
        self.valid = False
        if active:
            while here.pycuda and not here.pycuda[-1].valid:
                here.pycuda.pop()
            if here.pycuda:
                here.driver.append(here.pycuda[-1].machine.primary)


class Handle:
    """A stream, an event, a module: something with a context that must be current when it goes."""

    def __init__(self, machine: Machine, kind: str) -> None:
        self.machine, self.kind = machine, kind
        machine.current()
        machine.handles[id(self)] = kind

    def __del__(self) -> None:
        if self.machine.handles.pop(id(self), None) and not self.machine.has_current():
            self.machine.faults.append(f"a {self.kind} went while its context was not current")


class Stream(Handle):
    def __init__(self, machine: Machine, flags: int = 0) -> None:
        super().__init__(machine, "stream")
        assert flags in (0, 1)
        self.queue: list[tuple[str, Callable[[], None], tuple[Memory, ...]]] = []
        self.captured: list[Any] | None = None
        self.handle = next(machine.numbers)
        self.lock = threading.RLock()
        machine.streams[self.handle] = weakref.ref(self)

    def __del__(self) -> None:
        if getattr(self, "queue", None):
            self.machine.faults.append(f"a stream went with {self.queue[0][0]} still to be done")
        super().__del__()

    def put(self, name: str, work: Callable[[], None], *memory: Memory) -> None:
        self.machine.current()
        if self.captured is not None:
            self.captured.append((name, work, memory))
            return
        with self.lock:
            self.queue.append((name, work, memory))
        self.machine.done.append(name)

    def run(self, until: Any = None) -> None:
        """Do what waits, up to the event `until`."""
        with self.lock:
            while self.queue:
                name, work, memory = self.queue.pop(0)
                for each in memory:
                    if not each.alive:
                        raise Fault(f"{name} uses {each.kind} memory that was freed")
                work()
                if until is not None and work is until:
                    return

    def synchronize(self) -> None:
        self.machine.current()
        if self.captured is not None:
            raise LogicError("cuStreamSynchronize failed: operation not permitted when capturing")
        self.run()


class Event(Handle):
    def __init__(self, machine: Machine, flags: int = 0) -> None:
        super().__init__(machine, "event")
        self.times: list[float] = []
        self.stream: weakref.ref[Stream] | None = None
        self.work: Callable[[], None] | None = None

    def record(self, stream: Stream) -> Event:
        numbers, times = self.machine.numbers, []

        def happen() -> None:
            times.append(float(next(numbers)))

        self.times, self.stream, self.work = times, weakref.ref(stream), happen
        stream.put("a mark", happen)
        return self

    def synchronize(self) -> Event:
        self.machine.current()
        stream = self.stream() if self.stream is not None else None
        if stream is not None and not self.times:
            stream.run(self.work)
        return self

    def time_till(self, other: Event) -> float:
        self.machine.current()
        if not self.times or not other.times:
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return other.times[0] - self.times[0]


class Function:
    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name, self.size = module, name, 0

    def prepare(self, types: list[str]) -> Function:
        (only,) = types
        assert only.endswith("s")
        self.size = int(only[:-1])
        return self

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream, *arguments: bytes
    ) -> None:
        (argument,) = arguments
        machine = self.module.machine
        if len(argument) != self.size:
            raise LogicError(f"{self.name} takes {self.size} bytes, not {len(argument)}")
        if min(*grid, *block) < 1 or grid[1] > 65535 or grid[2] > 65535 or np.prod(block) > 1024:
            raise LogicError("cuLaunchKernel failed: invalid argument")
        kernel = machine.kernels[self.name]
        touched = tuple(machine.find(p) for p in kernel.pointers(argument) if p)
        stream.put(f"kernel {self.name}", lambda: kernel.run(argument, grid, block), *touched)


class Module(Handle):
    def __init__(self, machine: Machine, content: bytes) -> None:
        super().__init__(machine, "module")
        self.content = content

    def get_function(self, name: str) -> Function:
        self.machine.current()
        if name not in self.machine.kernels or name.encode() not in self.content:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return Function(self, name)


class Machine:
    """One GPU with its driver, the modules that look like PyCUDA, and the account of their use."""

    def __init__(
        self, *, integrated: bool = False, name: str = "Orin", capability: tuple[int, int] = (8, 7)
    ) -> None:
        self.integrated, self.name, self.capability = integrated, name, capability
        self.total = 1 << 30
        self.primary = 0xA
        self.retained = 0
        self.numbers = itertools.count(1000)
        self.memory: dict[int, Memory] = {}
        self.handles: dict[int, str] = {}
        self.streams: dict[int, weakref.ref[Stream]] = {}
        self.graphs: dict[int, list[Any]] = {}
        self.contexts: list[Context] = []
        self.stacks: dict[int, SimpleNamespace] = {}
        self.kernels: dict[str, Any] = {}
        self.faults: list[str] = []
        self.done: list[str] = []
        self.allocated = 0
        self.no_device = self.networks_fail = False

    # What everything above asks

    def here(self) -> SimpleNamespace:
        """The stacks of this thread: PyCUDA's and the driver's."""
        return self.stacks.setdefault(threading.get_ident(), SimpleNamespace(pycuda=[], driver=[]))

    def has_current(self) -> bool:
        here = self.here()
        return bool(here.driver) and here.driver[-1] == self.primary and self.retained > 0

    def current(self) -> int:
        if not self.has_current():
            raise LogicError("invalid device context: no context is current in this thread")
        return self.primary

    def used(self) -> int:
        return sum(m.size for m in self.memory.values() if m.alive and m.kind != "pinned")

    def find(self, address: int, size: int = 1) -> Memory:
        """The allocation that holds these bytes; a Fault when there is none, or a freed one."""
        for memory in self.memory.values():
            if memory.address <= address and address + size <= memory.address + memory.size:
                if not memory.alive:
                    raise Fault(f"address of {memory.kind} memory that was freed")
                if memory.kind == "pinned" and not memory.mapped:
                    raise Fault("a kernel was given the address of host memory")
                return memory
        raise Fault(f"{size} bytes at {address:#x} lie in no allocation")

    def pinned(self, array: np.ndarray) -> Memory:
        """The pinned allocation in which an array lies."""
        at = array.ctypes.data
        for memory in self.memory.values():
            if memory.kind == "pinned" and memory.address <= at < memory.address + memory.size:
                if not memory.alive:
                    raise Fault("a copy uses pinned memory that was freed")
                return memory
        raise Fault("an asynchronous copy of memory that is not pinned")

    def check_idle(self, memory: Memory) -> None:
        """Freeing what a stream still needs is a fault."""
        for stream in filter(None, (ref() for ref in self.streams.values())):
            for name, _, needed in stream.queue:
                if memory in needed:
                    raise Fault(f"{memory.kind} memory is freed, and {name} still needs it")

    def release_primary(self) -> None:
        if not self.retained:
            self.faults.append("the primary context was released more often than retained")
            return
        self.retained -= 1
        if not self.retained and (left := sum(m.alive for m in self.memory.values())):
            self.faults.append(f"the context was destroyed with {left} allocations")

    def verify(self) -> None:
        """Raise a Fault that names what was left behind or went wrong."""
        found = list(self.faults)
        for stream in filter(None, (ref() for ref in self.streams.values())):
            found += [f"nobody waited for {name}" for name, _, _ in stream.queue]
        found += [f"a {kind} is leaked" for kind in self.handles.values()]
        found += [text for memory in self.memory.values() if (text := memory.fault())]
        found += ["a CUDA graph is leaked" for _ in self.graphs]
        for stack in self.stacks.values():
            if stack.pycuda:
                found.append("a thread has a context on PyCUDA's stack: PyCUDA aborts at its end")
            if self.primary in stack.driver:
                found.append("a thread has the context on the driver's stack")
        if self.retained:
            found.append(f"the primary context is retained {self.retained} times")
        if found:
            raise Fault("; ".join(found))

    # The modules

    def driver_module(self) -> ModuleType:
        """`pycuda.driver`."""
        cuda: Any = ModuleType("pycuda.driver")
        cuda.Error, cuda.LogicError, cuda.MemoryError = Error, LogicError, OutOfMemory
        cuda.LaunchError = LaunchError
        cuda.init = self._init
        cuda.device_attribute = SimpleNamespace(INTEGRATED=18, CAN_MAP_HOST_MEMORY=19)
        cuda.host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)
        cuda.event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)
        cuda.Device = lambda index: SimpleNamespace(
            name=lambda: self.name,
            compute_capability=lambda: self.capability,
            get_attribute=lambda a: {18: int(self.integrated), 19: 1}[a],
            retain_primary_context=lambda: Context(self),
        )
        cuda.Context = SimpleNamespace(pop=self._pop)
        cuda.Stream = lambda flags=0: Stream(self, flags)
        cuda.Event = lambda flags=0: Event(self, flags)
        cuda.mem_get_info = lambda: (self.current() and self.total - self.used(), self.total)
        cuda.mem_alloc = lambda size: Memory(self, size, "device")
        cuda.pagelocked_empty = self._pagelocked
        cuda.memcpy_htod_async = self._htod
        cuda.memcpy_dtoh_async = self._dtoh
        cuda.module_from_file = lambda path: Module(self, Path(path).read_bytes())
        module: ModuleType = cuda
        return module

    def _init(self) -> None:
        if self.no_device:
            raise LogicError("cuInit failed: no CUDA-capable device is detected")

    def _pop(self) -> None:
        here = self.here()
        if not here.pycuda:
            raise LogicError("context::pop failed: cannot pop non-current context")
        here.driver.pop()
        here.pycuda.pop()
        if here.pycuda:
            here.driver.append(here.pycuda[-1].machine.primary)

    def _pagelocked(self, shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        memory: Any = Memory(self, size, "pinned", mapped=bool(mem_flags & 2))
        memory.__array_interface__ = {
            "shape": tuple(shape), "typestr": dtype.str, "data": (memory.address, False),
            "version": 3,
        }  # fmt: skip
        return np.asarray(memory)  # its base is `memory`, as in PyCUDA

    def _htod(self, dest: int, src: np.ndarray, stream: Stream) -> None:
        host, device = self.pinned(src), self.find(int(dest), src.nbytes)
        at = int(dest) - device.address

        def copy() -> None:
            device.bytes[at : at + src.nbytes] = src.reshape(-1).view(np.uint8)

        stream.put("a copy to the device", copy, host, device)

    def _dtoh(self, dest: np.ndarray, src: int, stream: Stream) -> None:
        host, device = self.pinned(dest), self.find(int(src), dest.nbytes)
        at = int(src) - device.address

        def copy() -> None:
            dest.reshape(-1).view(np.uint8)[:] = device.bytes[at : at + dest.nbytes]

        stream.put("a copy to the host", copy, host, device)

    def libcuda(self) -> Any:
        """libcuda as ctypes opens it: what cuda.py asks of it."""
        return Driver(self)


class Driver:
    """The driver's functions; each returns 0 or an error's number."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cuCtxGetCurrent(self, out: Any) -> int:
        stack = self.machine.here().driver
        out._obj.value = stack[-1] if stack else None
        return 0

    def cuCtxPopCurrent_v2(self, out: Any) -> int:
        stack = self.machine.here().driver
        if not stack:
            return 201
        out._obj.value = stack.pop()
        return 0

    def cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:
        self.machine.here().driver.append(context.value)
        return 0

    def _stream(self, handle: ctypes.c_void_p) -> Stream:
        self.machine.current()
        stream = self.machine.streams[int(handle.value or 0)]()
        assert stream is not None
        return stream

    def cuStreamBeginCapture_v2(self, handle: Any, mode: int) -> int:
        assert mode == 1
        stream = self._stream(handle)
        if stream.queue:
            return 900
        stream.captured = []
        return 0

    def cuStreamEndCapture(self, handle: Any, out: Any) -> int:
        stream = self._stream(handle)
        assert stream.captured is not None
        out._obj.value = next(self.machine.numbers)
        self.machine.graphs[out._obj.value] = stream.captured
        stream.captured = None
        return 0

    def cuGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: Any) -> int:
        out._obj.value = next(self.machine.numbers)
        self.machine.graphs[out._obj.value] = self.machine.graphs[graph.value]
        return 0

    def cuGraphLaunch(self, graph: Any, handle: Any) -> int:
        stream = self._stream(handle)
        for name, work, memory in self.machine.graphs[graph.value]:
            stream.put(f"{name} of a graph", work, *memory)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        self.machine.current()
        del self.machine.graphs[graph.value]
        return 0

    cuGraphExecDestroy = cuGraphDestroy
