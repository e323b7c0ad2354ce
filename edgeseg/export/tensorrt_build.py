"""ONNX file -> plan, by whichever TensorRT is handed in: one path for all releases.

Neither `tensorrt` nor `tensorrt_rtx` is imported here, and no `onnx`: a board has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from edgeseg.disk import writing_file
from edgeseg.errors import EngineError, GraphError
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.targets import Say
from edgeseg.export.tensorrt_versions import NAMES, Release, check_options, member, release_of
from edgeseg.runtime.tensorrt_log import log_of

MIB = 1 << 20
_BUILDING = threading.Lock()
"""TensorRT keeps one logger for the process, so builds take turns."""


@dataclass(frozen=True)
class Plan:
    """The serialised engine, and what there is to tell of its making."""

    data: bytes
    seconds: float
    layers: int
    warnings: int
    gpu_layers: dict[str, int] | None = None
    cache_sha256: str | None = None


def build_plan(
    trt: ModuleType,
    library: str,
    graph: Path,
    precision: str,
    options: BuildOptions,
    say: Say,
    root: Path = Path("/"),
) -> Plan:
    """Parse and build `graph`; warnings go to `say`, and each is counted.

    GraphError names the operators that the parser refuses; EngineError says why a build failed.
    `root` is where proc lies.
    """
    release = release_of(library, trt.__version__)
    check_options(release, trt.__version__, options, precision)
    check_memory(options, root)
    name = f"{NAMES[library]} {trt.__version__}"
    with _BUILDING, _holding_interrupt() as interrupted:
        log = log_of(trt)
        log.lines.clear()
        start = perf_counter()
        plan = _Build(trt, release, name, log, precision, options, interrupted).run(graph)
        if interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise EngineError(f"{name} can't build {graph.name}: {log.last_error()}")
        warnings = Counter(text for severity, text in log.lines if severity == "WARNING")
    for text, count in warnings.items():
        say(f"{name}: warning: {text}{f' ({count} times)' if count > 1 else ''}")
    data, layers, on_gpu, cache = plan
    if on_gpu is not None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in on_gpu.items()) or "none"
        taken = layers - sum(on_gpu.values())
        say(f"{name}: the DLA takes {taken} of {layers} layers; GPU: {kinds}")
    seconds = round(perf_counter() - start, 3)
    return Plan(data, seconds, layers, warnings.total(), on_gpu, cache)


def check_memory(options: BuildOptions, root: Path = Path("/")) -> None:
    """EngineError when less memory is free than `--build-memory` lets the builder use."""
    if options.memory_mib is None:
        return
    free = available_mib(root)
    if free is not None and free < options.memory_mib:
        raise EngineError(
            f"--build-memory is {options.memory_mib} MiB and this machine has {free} MiB left; "
            "stop what else runs (the desktop: sudo systemctl isolate multi-user), add swap, or "
            "give less"
        )


def available_mib(root: Path = Path("/")) -> int | None:
    """What /proc/meminfo calls available; None where the system does not tell."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return None


@dataclass(frozen=True)
class _Build:
    """One build: parse, configure, build."""

    trt: ModuleType
    release: Release
    name: str
    log: Any
    precision: str
    options: BuildOptions
    interrupted: list[int]

    def run(self, graph: Path) -> tuple[bytes, int, dict[str, int] | None, str | None] | None:
        """(plan, layers, those that fall back to the GPU, hash of the timing cache), or None."""
        builder = self.trt.Builder(self.log)
        typing = self.release.typing if self.options.dla is None else self.release.dla
        assert typing is not None
        network = builder.create_network(_bits(self.trt, typing.network))
        self._parse(network, graph)
        config = builder.create_builder_config()
        for flag in typing.builder[self.precision]:
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        self._configure(config)
        on_gpu = self._use_dla(builder, network, config)
        cache = self._read_cache(config)
        layers = int(network.num_layers)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return None
        return bytes(plan), layers, on_gpu, self._write_cache(config, cache)

    def _parse(self, network: Any, graph: Path) -> None:
        parser = self.trt.OnnxParser(network, self.log)
        if parser.parse(graph.read_bytes()):
            return
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        told = dict.fromkeys(self._refusal(error) for error in errors)
        raise GraphError(
            f"{self.name} refuses {graph.name}: {'; '.join(told) or self.log.last_error()}. "
            "Leave that operator out of the model, or take another target"
        )

    def _refusal(self, error: Any) -> str:
        said = " ".join(str(error.desc()).split()).rstrip(".")
        why = f": {said}" if said != "false" else ""  # the parser's word for one it doesn't know
        if self.release.names_nodes:
            return f"operator {error.node_operator()} of node '{error.node_name()}'{why}"
        return f"node {error.node()}{why}"

    def _configure(self, config: Any) -> None:
        options, trt = self.options, self.trt
        if options.memory_mib is not None:
            config.set_memory_pool_limit(member(trt, "memory_mib"), options.memory_mib * MIB)
        workspace = options.workspace_mib or options.memory_mib
        if workspace is not None:
            config.set_memory_pool_limit(member(trt, "workspace_mib"), workspace * MIB)
        if options.version_compatible:
            config.set_flag(member(trt, "version_compatible"))
        if options.hardware_compatible is not None:
            config.hardware_compatibility_level = member(trt, options.hardware_compatible)
        if self.release.progress:
            config.progress_monitor = _monitor(trt, self.interrupted)

    def _use_dla(self, builder: Any, network: Any, config: Any) -> dict[str, int] | None:
        """Set the DLA core; how many layers of each type it leaves to the GPU, None without DLA."""
        core = self.options.dla
        if core is None:
            return None
        if core >= builder.num_DLA_cores:
            raise EngineError(
                f"--dla {core}: this board has {builder.num_DLA_cores} DLA cores, counted from 0"
            )
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)
        layers = (network.get_layer(i) for i in range(network.num_layers))
        left = Counter(layer.type.name for layer in layers if not config.can_run_on_DLA(layer))
        return dict(left.most_common())

    def _read_cache(self, config: Any) -> Any | None:
        path, pinned = self.options.timing_cache, self.options.cache_sha256
        if path is None:
            return None
        if pinned is not None:
            check_pinned(path, pinned)
            config.set_flag(member(self.trt, "cache_sha256"))
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if not config.set_timing_cache(cache, False):
            raise EngineError(
                f"{path}: a timing cache of another TensorRT or GPU; give another file to "
                f"--timing-cache, or delete it and {self.name} times every layer anew"
            )
        return cache

    def _write_cache(self, config: Any, cache: Any | None) -> str | None:
        """Write what was timed unless the cache is pinned; its sha256."""
        path = self.options.timing_cache
        if path is None or cache is None:
            return None
        if self.options.cache_sha256 is None:
            content = bytes(config.get_timing_cache().serialize())
            with writing_file(path) as aside:
                aside.write_bytes(content)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def check_pinned(path: Path, expected: str) -> None:
    """EngineError unless the timing cache is there and has the pinned content."""
    if not path.is_file():
        raise EngineError(f"{path}: no such timing cache, and --pin-cache says what is in it")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise EngineError(
            f"{path}: the timing cache has sha256 {found}, and --pin-cache says {expected}; "
            "give the file that was pinned, or pin this one"
        )


def _bits(trt: ModuleType, flags: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag)) for flag in flags)


def _monitor(trt: ModuleType, interrupted: list[int]) -> Any:
    """Shows the outermost phase on a terminal, and ends the build after Ctrl-C."""
    shown = sys.stderr.isatty()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if shown and phase_name in self.steps:
                text = f"\r{phase_name}: {step + 1}/{self.steps[phase_name]} \x1b[K"
                sys.stderr.write(text)
            return not interrupted

        def phase_finish(self, phase_name: str) -> None:
            if self.steps.pop(phase_name, None) is not None and shown:
                sys.stderr.write("\r\x1b[K")

    return Monitor()


@contextlib.contextmanager
def _holding_interrupt() -> Iterator[list[int]]:
    """Ctrl-C is noted, not raised: an exception inside TensorRT's callbacks ends the process."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _: object) -> None:
        if not caught:
            sys.stderr.write("\rinterrupted: waiting for TensorRT to end the step it is in\n")
        caught.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
