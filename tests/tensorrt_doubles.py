"""Doubles of `tensorrt` 8.6, 10.x and 11.x: the API that the builder uses, as documented.

Each has the enums of its release, and raises where the real one has no such name. What was done is
kept in `calls`. A build never looks at the graph; a test says what the parser and the builder do.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

# fmt: off
FLAGS = {  # BuilderFlag
    "8.6":  ("FP16", "INT8", "GPU_FALLBACK", "VERSION_COMPATIBLE"),
    "10":   ("FP16", "INT8", "GPU_FALLBACK", "VERSION_COMPATIBLE", "ERROR_ON_TIMING_CACHE_MISS"),
    "11":   ("GPU_FALLBACK", "VERSION_COMPATIBLE", "ERROR_ON_TIMING_CACHE_MISS"),
}
CREATION = {  # NetworkDefinitionCreationFlag
    "8.6":  ("EXPLICIT_BATCH",),
    "10":   ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
    "11":   ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
}
POOLS = {  # MemoryPoolType
    "8.6":  ("WORKSPACE",),
    "10":   ("WORKSPACE", "TACTIC_DRAM"),
    "11":   ("WORKSPACE", "TACTIC_DRAM"),
}
HARDWARE = {  # HardwareCompatibilityLevel
    "8.6":  ("NONE", "AMPERE_PLUS"),
    "10":   ("NONE", "AMPERE_PLUS"),
    "11":   ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
}
# fmt: on


@dataclass
class Behaviour:
    """What parser and builder do, and what they were asked."""

    errors: tuple[tuple[str, str, str], ...] = ()
    """(operator, node, description) of each node that the parser refuses."""
    said: tuple[tuple[str, str], ...] = ()
    """(severity, message) logged while building."""
    plan: bytes | None = b"plan"
    layers: tuple[str, ...] = ("CONVOLUTION", "RESIZE", "CONVOLUTION", "PARAMETRIC_RELU", "RESIZE")
    """The type of each layer; a DLA takes convolutions."""
    dla_cores: int = 2
    cache_fits: bool = True
    while_building: Any = None
    """Called once in the middle of the build."""
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    monitors: list[Any] = field(default_factory=list)


def _enum(name: str, members: tuple[str, ...]) -> Any:
    return enum.IntEnum(name, {member: index for index, member in enumerate(members)})


def double(version: str, does: Behaviour, library: str = "tensorrt") -> ModuleType:
    """A module that looks like `library` of that version."""
    trt: Any = ModuleType(library)
    line = "8.6" if version.startswith("8.") else version.partition(".")[0]
    trt.__version__ = version
    trt.BuilderFlag = _enum("BuilderFlag", FLAGS[line])
    trt.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", CREATION[line])
    trt.MemoryPoolType = _enum("MemoryPoolType", POOLS[line])
    trt.HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel", HARDWARE[line])
    trt.DeviceType = _enum("DeviceType", ("GPU", "DLA"))
    severity = _enum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))
    trt.ILogger = type("ILogger", (), {"Severity": severity, **severity.__members__})
    if line != "8.6":
        trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.Builder = lambda log: _Builder(trt, does, log)
    trt.OnnxParser = lambda network, log: _Parser(line, does)
    module: ModuleType = trt
    return module


class _Config:
    """IBuilderConfig: attributes that were set are in `calls` too."""

    def __init__(self, trt: Any, does: Behaviour) -> None:
        object.__setattr__(self, "_trt", trt)
        object.__setattr__(self, "_does", does)
        object.__setattr__(self, "_cache", None)

    def __setattr__(self, name: str, value: Any) -> None:
        known = {"hardware_compatibility_level", "default_device_type", "DLA_core"}
        if hasattr(self._trt, "IProgressMonitor"):
            known.add("progress_monitor")
        if name not in known:
            raise AttributeError(f"IBuilderConfig has no attribute '{name}'")
        if name == "progress_monitor":
            self._does.monitors.append(value)
        else:
            self._does.calls.append((name, getattr(value, "name", value)))

    def set_flag(self, flag: enum.IntEnum) -> None:
        assert isinstance(flag, self._trt.BuilderFlag)
        self._does.calls.append(("set_flag", flag.name))

    def set_memory_pool_limit(self, pool: enum.IntEnum, size: int) -> None:
        assert isinstance(pool, self._trt.MemoryPoolType)
        self._does.calls.append(("pool", pool.name, size))

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.type.name == "CONVOLUTION"

    def create_timing_cache(self, content: bytes) -> Any:
        self._does.calls.append(("create_timing_cache", content))
        return SimpleNamespace(serialize=lambda: content + b"+timed")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        object.__setattr__(self, "_cache", cache)
        return self._does.cache_fits

    def get_timing_cache(self) -> Any:
        return self._cache


class _Builder:
    def __init__(self, trt: Any, does: Behaviour, log: Any) -> None:
        assert isinstance(log, trt.ILogger)
        self.trt, self.does, self.log = trt, does, log
        self.num_DLA_cores = does.dla_cores

    def create_network(self, flags: int) -> Any:
        names = [f.name for f in self.trt.NetworkDefinitionCreationFlag if flags >> f & 1]
        self.does.calls.append(("network", *names))
        layers = [SimpleNamespace(type=SimpleNamespace(name=n)) for n in self.does.layers]
        return SimpleNamespace(num_layers=len(layers), get_layer=lambda i: layers[i])

    def create_builder_config(self) -> _Config:
        return _Config(self.trt, self.does)

    def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
        for severity, text in self.does.said:
            self.log.log(self.trt.ILogger.Severity[severity], text)
        if self.does.while_building:
            self.does.while_building()
        for monitor in self.does.monitors:
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Tactics", "Building", 9)
            if not (monitor.step_complete("Tactics", 0) and monitor.step_complete("Building", 0)):
                return None
            monitor.phase_finish("Tactics")
            monitor.phase_finish("Building")
        return self.does.plan


class _Parser:
    def __init__(self, line: str, does: Behaviour) -> None:
        self.line, self.does = line, does
        self.num_errors = len(does.errors)

    def parse(self, model: bytes) -> bool:
        assert isinstance(model, bytes)
        return not self.does.errors

    def get_error(self, index: int) -> Any:
        operator, node, text = self.does.errors[index]
        error = SimpleNamespace(desc=lambda: text, node=lambda: index)
        if self.line != "8.6":
            error.node_operator, error.node_name = lambda: operator, lambda: node
        return error
