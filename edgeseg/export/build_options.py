"""What a user may ask of TensorRT's builder, and of OpenVINO, as plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError, guess

HARDWARE = ("ampere+", "same-capability")
"""Other GPUs that an engine may run on: every later one, or those of one compute capability."""

DEVICES = ("CPU", "GPU", "NPU")
"""OpenVINO's names of what runs a network."""

# fmt: off
FLAGS = {
    # field                flag on the command line
    "workspace_mib":       "--workspace",
    "memory_mib":          "--build-memory",
    "timing_cache":        "--timing-cache",
    "cache_sha256":        "--pin-cache",
    "version_compatible":  "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "dla":                 "--dla",
    "device":              "--device",
}
# fmt: on


@dataclass(frozen=True)
class BuildOptions:
    """None and False leave the library's own default.

    `workspace_mib` is what one layer may use while the engine runs; `memory_mib` what the builder
    may use of a board's memory. `timing_cache` is read and, unless `cache_sha256` pins its content,
    written again. `dla` is the number of a DLA core; what it can't run falls back to the GPU.
    `device` is OpenVINO's alone: one of DEVICES.
    """

    workspace_mib: int | None = None
    memory_mib: int | None = None
    timing_cache: Path | None = None
    cache_sha256: str | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    dla: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.cache_sha256 is not None:
            if self.timing_cache is None:
                raise UsageError("--pin-cache pins a timing cache: give --timing-cache FILE too")
            if not re.fullmatch(r"[0-9a-f]{64}", self.cache_sha256):
                raise UsageError(
                    f"--pin-cache is '{self.cache_sha256}'; expected a sha256 of 64 hex digits "
                    "('sha256sum FILE' prints it)"
                )
        if self.hardware_compatible not in (None, *HARDWARE):
            asked = str(self.hardware_compatible)
            raise UsageError(f"unknown --hardware-compatible '{asked}'.{guess(asked, HARDWARE)}")

    def asked(self) -> dict[str, Any]:
        """What differs from the defaults, by field, as JSON can hold it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value.name if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None and value is not False
        }
