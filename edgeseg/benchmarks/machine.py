"""The machine that a number belongs to: read from files, nothing is run."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeseg.runtime.board import nvpmodel

LIBRARIES = (
    "edgeseg", "numpy", "pillow", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx",
    "torch",
)  # fmt: skip

# fmt: off
FEATURES = {
    # in /proc/cpuinfo    what we call it
    "avx2":               "avx2",
    "avx512f":            "avx512",
    "avx512_vnni":        "avx512_vnni",
    "avx_vnni":           "avx_vnni",
    "avx512_bf16":        "avx512_bf16",
    "avx512_fp16":        "avx512_fp16",
    "amx_int8":           "amx_int8",
    "amx_bf16":           "amx_bf16",
    "asimd":              "neon",
    "neon":               "neon",
    "asimdhp":            "fp16",
    "asimddp":            "dotprod",
    "i8mm":               "i8mm",
    "bf16":               "bf16",
    "sve":                "sve",
}
# fmt: on


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """What the machine is and what runs on it; `root` is where proc, sys and etc lie.

    `fingerprint` is made of what does not change from one start to the next: CPU, features, cores
    visible, memory in GiB and board.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    board = _read(root / "proc/device-tree/model").strip("\0\n ") or None
    cpu = _field(cpuinfo, "model name") or _arm_part(cpuinfo) or platform.machine()
    words = (_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split()
    content: dict[str, Any] = {
        "cpu": cpu,
        "board": board,
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "quota": _quota(root),
        "features": sorted({FEATURES[w] for w in words if w in FEATURES}),
        "memory_gib": _memory_gib(root),
        "os": _os_name(root),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": _versions(),
        "power_mode": power_mode(root),
        "load": round(os.getloadavg()[0], 2),
    }
    return {"fingerprint": fingerprint(content), **content}


def fingerprint(content: dict[str, Any]) -> str:
    """16 hex digits that are the same for the same machine."""
    keys = ("cpu", "board", "architecture", "cores", "quota", "features", "memory_gib")
    text = "\n".join(f"{key}={content[key]}" for key in keys)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def power_mode(root: Path = Path("/")) -> str | None:
    """A Jetson's power model ("0 MAXN"), else the CPU's frequency governor, else None."""
    mode = nvpmodel(root)
    if mode is not None:
        return mode
    governor = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return governor or None


def busy_seconds(root: Path = Path("/")) -> float | None:
    """Seconds that the visible cores have been busy since the start, stolen ones included.

    None where the system does not tell. The difference of two readings, less the process's own
    time, is what others used meanwhile.
    """
    visible = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    rows = [line.split() for line in _read(root / "proc/stat").splitlines()]
    found = [r for r in rows if r and r[0] in visible]
    # proc(5): user nice system idle iowait irq softirq steal
    ticks = sum(int(r[i]) for r in found for i in (1, 2, 3, 6, 7, 8))
    return ticks / os.sysconf("SC_CLK_TCK") if found else None


def _read(path: Path) -> str:
    """The text of a file that a machine may or may not have."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(cpuinfo: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else None


def _arm_part(cpuinfo: str) -> str | None:
    """Arm's cpuinfo has numbers instead of a name."""
    implementer, part = _field(cpuinfo, "CPU implementer"), _field(cpuinfo, "CPU part")
    return f"Arm implementer {implementer} part {part}" if implementer and part else None


def _memory_gib(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return round(int(found.group(1)) / 2**20) if found else None


def _quota(root: Path) -> float | None:
    """Cores' worth of time that a container may use; None without a limit (cgroup v2)."""
    words = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return round(int(words[0]) / int(words[1]), 2)


def _os_name(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release"), re.MULTILINE)
    return found.group(1) if found else platform.system()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
