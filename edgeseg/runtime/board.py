"""Which Jetson this is: model, JetPack, TensorRT, CUDA, memory, power mode. Read from files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from edgeseg.runtime.gpu import JETPACKS

# fmt: off
SOCS = {
    # device tree      GPU                 compute capability
    "nvidia,tegra234": ("Ampere (Orin)",    "8.7"),
    "nvidia,tegra264": ("Blackwell (Thor)", "11.0"),
    "nvidia,tegra194": ("Volta (Xavier)",   "7.2"),
}
RECIPES = {
    # in the model's name  recipe of edgeseg export --board
    "Orin Nano":           "orin-nano",
    "Orin NX":             "orin-nx",
    "AGX Orin":            "agx-orin",
    "Thor":                "thor",
}
GENERATIONS = {
    # L4T   JetPack
    "32":   "4",
    "34":   "5",
    "35":   "5",
    "36":   "6",
    "38":   "7",
    "39":   "7",
}
REFUSED = {
    "4": "it has Python 3.6 and TensorRT 8.2 at most, and edgeseg needs Python 3.10",
    "5": "it has Python 3.8 and TensorRT 8.5, and edgeseg needs Python 3.10 and TensorRT 8.6",
}
# fmt: on
SUPPORTED = ("6", "7")


@dataclass(frozen=True)
class Board:
    """A Jetson; memory and swap in MiB. What a file does not tell is None or "".

    `refused` says why edgeseg does not support it; `recipe` is for `edgeseg export --board`.
    """

    model: str
    recipe: str | None
    l4t: str | None
    jetpack: str | None
    refused: str
    gpu: str | None
    compute_capability: str | None
    tensorrt: str | None
    cuda: str | None
    memory_mib: int | None
    available_mib: int | None
    swap_mib: int | None
    swap_free_mib: int | None
    swaps: tuple[str, ...]
    power_mode: str | None
    power_modes: tuple[str, ...]


def read_board(root: Path = Path("/")) -> Board | None:
    """The Jetson whose files lie under `root`; None for any other machine."""
    model = file_text(root / "proc/device-tree/model").strip("\0\n ")
    socs = file_text(root / "proc/device-tree/compatible").split("\0")
    packages = read_packages(root)
    l4t = _l4t(root, packages)
    soc = next((s for s in socs if s in SOCS), None)
    if l4t is None and soc is None and "jetson" not in model.lower():
        return None
    gpu, capability = SOCS.get(soc or "", (None, None))
    memory = read_memory(root)
    return Board(
        model or "a Jetson without a name",
        next((recipe for word, recipe in RECIPES.items() if word in model), None),
        l4t,
        _jetpack(l4t, packages),
        _refused(l4t),
        gpu,
        capability,
        _tensorrt(packages),
        _cuda(root, packages),
        memory.get("MemTotal"),
        memory.get("MemAvailable"),
        memory.get("SwapTotal"),
        memory.get("SwapFree"),
        tuple(line.split()[0] for line in file_text(root / "proc/swaps").splitlines()[1:]),
        nvpmodel(root),
        tuple(f"{number} {name}" for number, name in _modes(root).items()),
    )


def nvpmodel(root: Path = Path("/")) -> str | None:
    """The power mode in force, such as "2 MAXN_SUPER"; None where there are no modes."""
    status = re.search(r"pmode:\s*(\d+)", file_text(root / "var/lib/nvpmodel/status"))
    if not status:
        return None
    number = int(status.group(1))
    name = _modes(root).get(number)
    return f"{number} {name}" if name else str(number)


def read_packages(root: Path = Path("/")) -> dict[str, str]:
    """Name -> version of the Debian packages that are installed."""
    found = {}
    for entry in file_text(root / "var/lib/dpkg/status").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields.get("Package", "")] = fields.get("Version", "")
    return found


def file_text(path: Path) -> str:
    """The text of a file that a machine may or may not have."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _l4t(root: Path, packages: dict[str, str]) -> str | None:
    """`"36.4.4"`, of the release file or of the package that brings it."""
    release = file_text(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) .*?REVISION: ([\d.]+)", release)
    if found:
        return f"{found.group(1)}.{found.group(2)}"
    return packages.get("nvidia-l4t-core", "").partition("-")[0] or None


def _jetpack(l4t: str | None, packages: dict[str, str]) -> str | None:
    """`"6.2.1"` of the package, else what belongs to that L4T."""
    package = re.match(r"[\d.]+", packages.get("nvidia-jetpack", ""))
    if package:
        return package.group()
    if l4t is None:
        return None
    known = JETPACKS.get(".".join(l4t.split(".")[:2]))
    return known or GENERATIONS.get(l4t.split(".")[0])


def _refused(l4t: str | None) -> str:
    """Why a release of JetPack is not supported; "" for one that is."""
    if l4t is None:
        return ""
    generation = GENERATIONS.get(l4t.split(".")[0])
    if generation in SUPPORTED:
        return ""
    way_out = "flash JetPack 6.1 or later (Orin) or 7 (Orin, Thor)"
    if generation is None:
        return f"L4T {l4t} belongs to no JetPack that this edgeseg knows; {way_out}"
    return f"JetPack {generation} (L4T {l4t}) is not supported: {REFUSED[generation]}; {way_out}"


def _tensorrt(packages: dict[str, str]) -> str | None:
    """`"10.3.0.30"`, of the library's package."""
    for name in ("libnvinfer11", "libnvinfer10", "libnvinfer8", "tensorrt"):
        found = re.match(r"[\d.]+", packages.get(name, ""))
        if found:
            return found.group()
    return None


def _cuda(root: Path, packages: dict[str, str]) -> str | None:
    """`"12.6"`, of /usr/local/cuda or of the packages."""
    try:
        content = json.loads(file_text(root / "usr/local/cuda/version.json"))
        version = str(content["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        names = [re.fullmatch(r"cuda-(?:toolkit|cudart)-(\d+)-(\d+)", name) for name in packages]
        versions = [(int(n.group(1)), int(n.group(2))) for n in names if n]
        return ".".join(map(str, max(versions))) if versions else None
    return ".".join(version.split(".")[:2])


def read_memory(root: Path = Path("/")) -> dict[str, int]:
    """MiB by name, of /proc/meminfo."""
    lines = re.findall(r"^(\w+):\s*(\d+) kB", file_text(root / "proc/meminfo"), re.MULTILINE)
    return {name: int(value) // 1024 for name, value in lines}


def _modes(root: Path) -> dict[int, str]:
    """Number -> name of the power modes that this board has."""
    found = {}
    for line in file_text(root / "etc/nvpmodel.conf").splitlines():
        model = re.match(r"\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", line)
        if model:
            found[int(model.group(1))] = model.group(2)
    return found
