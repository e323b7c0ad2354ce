"""Which NVIDIA GPU is here, and which JetPack: asked of the driver and of files, nothing is run."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# fmt: off
JETPACKS = {
    # L4T    JetPack
    "36.3": "6.0",
    "36.4": "6.1 or 6.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
}
# fmt: on
_NAME_BYTES = 128
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name, its compute capability ("8.7"), the newest CUDA of its driver."""

    name: str
    compute_capability: str
    cuda: str


def open_driver() -> Any | None:
    """The CUDA driver's library, or None without one."""
    name = ctypes.util.find_library("cuda")
    if name is None:
        return None
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def find_gpu(driver: Callable[[], Any | None] = open_driver) -> Gpu | None:
    """The first GPU as its driver names it; None without a driver or a GPU."""
    cuda = driver()
    if cuda is None or cuda.cuInit(0) != 0:
        return None
    device, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(value.value)
    return Gpu(
        name.value.decode(errors="replace"),
        ".".join(map(str, numbers)),
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def used_mib(driver: Callable[[], Any | None] = open_driver) -> float | None:
    """MiB of the first GPU's memory that are taken, by all programs; None without a GPU.

    Asked in the primary context, which engines and torch share. On a board whose GPU has no memory
    of its own it is the board's.
    """
    cuda = driver()
    if cuda is None or cuda.cuInit(0) != 0:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        if cuda.cuCtxPushCurrent_v2(context) != 0:
            return None
        told = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    return round((total.value - free.value) / 2**20, 1) if told else None


def read_jetpack(root: Path = Path("/")) -> str | None:
    """`"6.1 or 6.2 (L4T 36.4.3)"` of a Jetson; None on other machines."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+) .*?REVISION: ([\d.]+)", text)
    if not found:
        return None
    l4t = f"{found.group(1)}.{found.group(2)}"
    known = JETPACKS.get(".".join(l4t.split(".")[:2]))
    return f"{known} (L4T {l4t})" if known else f"L4T {l4t}"
