"""Doubles of TensorRT's runtime, on a `Machine` of cuda_doubles: 8.6, 10.x, 11.x and RTX.

A plan is a line of JSON that names a function of numpy; `execute_async_v3` puts it onto the stream.
Engines and contexts hold memory of the GPU, and go only while its context is current.
"""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda_doubles import Fault, Handle, Machine, Memory

DTYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32}
NETWORKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightest": lambda images: images.argmax(-1).astype(np.uint8),
    "channels": lambda images: images[:, ::2, ::2].transpose(0, 3, 1, 2) / 16,
}


def plan(
    image: tuple[int, ...],
    output: tuple[int, ...],
    *,
    network: str = "brightest",
    dtype: str = "UINT8",
    name: str = "labels",
    version: str = "10.3.0",
    capability: tuple[int, int] = (8, 7),
    memory: int = 4096,
    input_name: str = "image",
) -> bytes:
    """What the builder would write."""
    return json.dumps(
        {
            "image": image, "output": output, "network": network, "dtype": dtype, "name": name,
            "version": version, "capability": capability, "memory": memory, "input": input_name,
        }
    ).encode()  # fmt: skip


def runtime_double(trt: Any, machine: Machine, version: str) -> Any:
    """Add TensorRT's runtime to a module, `trt`, that has the builder or nothing yet."""
    trt.__version__ = version
    if not hasattr(trt, "ILogger"):
        names = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
        severity: Any = enum.IntEnum("Severity", {n: i for i, n in enumerate(names)})
        trt.ILogger = type("ILogger", (), {"Severity": severity, **severity.__members__})
    trt.TensorIOMode = enum.Enum("TensorIOMode", ("NONE", "INPUT", "OUTPUT"))
    trt.DataType = enum.Enum("DataType", tuple(DTYPES))
    trt.Runtime = lambda log: Runtime(trt, machine, log)
    return trt


def library(machine: Machine, version: str = "10.3.0", name: str = "tensorrt") -> ModuleType:
    """A module that looks like `name`, with its runtime alone."""
    module: ModuleType = runtime_double(ModuleType(name), machine, version)
    return module


class Runtime(Handle):
    def __init__(self, trt: Any, machine: Machine, log: Any) -> None:
        assert isinstance(log, trt.ILogger)
        super().__init__(machine, "TensorRT runtime")
        self.trt, self.log = trt, log
        self.DLA_core = -1
        self.engine_host_code_allowed = False

    def refuse(self, text: str) -> None:
        self.log.log(self.trt.ILogger.ERROR, text)

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        self.machine.current()
        try:
            content = json.loads(data)
        except ValueError:
            return self.refuse("Magic tag does not match")
        if content["version"] != self.trt.__version__:
            return self.refuse(
                f"expecting library version {self.trt.__version__} got {content['version']}"
            )
        if tuple(content["capability"]) != self.machine.capability:
            return self.refuse("Using an engine plan file across different models of devices")
        try:
            weights = Memory(self.machine, len(data), "engine")
        except Exception:
            return self.refuse("out of memory")
        return Engine(self, content, weights)


class Engine(Handle):
    def __init__(self, runtime: Runtime, content: dict[str, Any], weights: Memory) -> None:
        super().__init__(runtime.machine, "TensorRT engine")
        self.runtime, self.content, self.weights = runtime, content, weights
        self.num_io_tensors = 2
        if runtime.trt.__version__.startswith("8."):
            self.device_memory_size = content["memory"]
        else:
            self.device_memory_size_v2 = content["memory"]

    def __del__(self) -> None:
        if self.machine.has_current():
            self.weights.free()
        super().__del__()

    def get_tensor_name(self, index: int) -> str:
        return (self.content["input"], self.content["name"])[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.runtime.trt.TensorIOMode
        return mode.INPUT if name == self.content["input"] else mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.content["image" if name == self.content["input"] else "output"])

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = self.runtime.trt.DataType
        return kinds.UINT8 if name == self.content["input"] else kinds[self.content["dtype"]]

    def create_execution_context(self) -> Any:
        try:
            scratch = Memory(self.machine, self.content["memory"], "TensorRT")
        except Exception as error:
            return self.runtime.refuse(str(error))
        return Execution(self, scratch)


class Execution(Handle):
    """IExecutionContext: for one thread at a time, until its work is done."""

    def __init__(self, engine: Engine, scratch: Memory) -> None:
        super().__init__(engine.machine, "TensorRT context")
        self.engine, self.scratch = engine, scratch
        self.addresses: dict[str, int] = {}
        self.busy: int | None = None
        self.fails = False

    def __del__(self) -> None:
        if self.machine.has_current():
            self.scratch.free()
        super().__del__()

    def set_tensor_address(self, name: str, address: int) -> bool:
        known = name in (self.engine.content["input"], self.engine.content["name"])
        if known:
            self.addresses[name] = address
        return known

    def execute_async_v3(self, stream_handle: int) -> bool:
        machine, content = self.machine, self.engine.content
        machine.current()
        stream = machine.streams[stream_handle]()
        assert stream is not None
        if self.busy not in (None, threading.get_ident()):
            raise Fault("two threads use one TensorRT context at the same time")
        if machine.networks_fail or set(self.addresses) != {content["input"], content["name"]}:
            self.engine.runtime.refuse("enqueue failed: illegal memory access")
            return False
        shapes = [tuple(content["image"]), tuple(content["output"])]
        kinds = [np.dtype(np.uint8), np.dtype(DTYPES[content["dtype"]])]
        sides = [
            SimpleNamespace(at=self.addresses[name], shape=shape, kind=kind,
                            size=int(np.prod(shape)) * kind.itemsize)
            for name, shape, kind in zip((content["input"], content["name"]), shapes, kinds,
                                         strict=True)
        ]  # fmt: skip
        held = [machine.find(s.at, s.size) for s in sides]
        if stream.captured is None:
            self.busy = threading.get_ident()

        def work() -> None:
            parts = [
                m.bytes[s.at - m.address :][: s.size].view(s.kind).reshape(s.shape)
                for s, m in zip(sides, held, strict=True)
            ]
            parts[1][...] = NETWORKS[content["network"]](parts[0])
            self.busy = None

        stream.put("the network", work, *held, self.scratch, self.engine.weights)
        return True


MODULES = ("cuda", "plan_engine", "pixels", "engine_tensorrt", "engine_tensorrt_rtx")


def put(
    monkeypatch: Any, machine: Machine, version: str = "10.3.0", name: str = "tensorrt"
) -> Machine:
    """Have this process find PyCUDA, libcuda and `name` as doubles, all on that machine."""
    import sys

    driver = machine.driver_module()
    pycuda: Any = ModuleType("pycuda")
    pycuda.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setitem(sys.modules, name, library(machine, version, name))
    monkeypatch.setattr("edgeseg.runtime.gpu.open_driver", machine.libcuda)
    for module in MODULES:
        monkeypatch.setitem(sys.modules, f"edgeseg.runtime.{module}", None)
        del sys.modules[f"edgeseg.runtime.{module}"]  # imported anew, and gone after the test
    return machine
