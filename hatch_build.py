"""Compiles edgeseg/runtime/decode.c and prepare.c when edgeseg is installed or built; by hand:

    python hatch_build.py

The library is plain C without Python's ABI, so one wheel (`py3-none-PLATFORM`) serves every Python.
EDGESEG_NATIVE says what is wanted: "auto" (the default: without a compiler the wheel is pure and
numpy prepares frames and decodes labels, which `edgeseg doctor` and every result name), "require"
(without a compiler the installation fails) or "no" (a pure wheel). CC names the compiler.

EDGESEG_PLATFORM, such as manylinux_2_28_aarch64, makes a wheel for other machines than this one:
the library is compiled for that processor, bound to the oldest version of glibc's functions, and
refused if it asks for a newer glibc than the name says (`make wheels`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path("edgeseg/runtime")
SOURCES = (
    "decode.c", "decode_scores.h", "decode_isa.h", "decode_arithmetic.h", "decode_kernels.h",
    "prepare.c", "prepare_arithmetic.h", "prepare_colours.h", "prepare_neon.h", "lattice.c",
    "lattice_filters.h", "strips.h",
)  # fmt: skip
FLAGS = (
    "-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
)  # fmt: skip
COMPILERS = ("cc", "gcc", "clang")
WANTED = ("auto", "require", "no")
FIRST = {"x86_64": "GLIBC_2.2.5", "aarch64": "GLIBC_2.17"}
"""glibc's oldest version of pthread_create; linkers take the newest, which came with 2.34."""
THREADS = ("-Wl,--no-as-needed", "-l:libpthread.so.0", "-Wl,--as-needed")
"""Before 2.34 threads have a library of their own; later it is there, and empty."""
GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0")
MACHINES = {62: "x86_64", 183: "aarch64"}
"""e_machine of ELF."""


class Target(NamedTuple):
    """EDGESEG_PLATFORM: a processor, and the oldest glibc that the wheel is for."""

    machine: str
    glibc: tuple[int, int]


def target() -> Target | None:
    """EDGESEG_PLATFORM, checked; None for this machine."""
    word = os.environ.get("EDGESEG_PLATFORM")
    if not word:
        return None
    found = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", word)
    if found is None or found[3] not in FIRST:
        names = " or ".join(f"manylinux_2_28_{machine}" for machine in FIRST)
        sys.exit(f"EDGESEG_PLATFORM is '{word}'; expected a name such as {names}")
    return Target(found[3], (int(found[1]), int(found[2])))


def library_path(root: Path) -> Path:
    """Where decode_native.py looks for the library."""
    other = target()
    if other is not None:
        return root / FOLDER / f"decode.linux_{other.machine}.so"
    return root / FOLDER / f"decode.{sys.platform}_{platform.machine()}.so"


def compilers() -> tuple[str, ...]:
    """What compiles for EDGESEG_PLATFORM, or for this machine."""
    other = target()
    return COMPILERS if other is None else (f"{other.machine}-linux-gnu-gcc",)


def find_compiler() -> list[str] | None:
    """The words of CC, else the first compiler that is installed."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([path] for name in compilers() if (path := shutil.which(name))), None)


def source_hash(root: Path) -> str:
    """sha256 of the sources, as decode_native.py has it; it is written into the library."""
    sources = b"".join((root / FOLDER / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(sources).hexdigest()


def is_current(root: Path) -> bool:
    """The library is there and was made of these sources."""
    library = library_path(root)
    return library.exists() and source_hash(root).encode() in library.read_bytes()


def build(root: Path) -> str:
    """Compile the library, in place of an older one; why that failed, or nothing."""
    library = library_path(root)
    compiler = find_compiler()
    if compiler is None:
        return f"there is no C compiler ({', '.join(compilers())}; or name one by CC)"
    named = f'-DEDGESEG_SOURCE="{source_hash(root)}"'
    sources = [str(root / FOLDER / name) for name in SOURCES if name.endswith(".c")]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".decode") as aside:
        made = Path(aside) / library.name
        bound, linked = _bound(Path(aside))
        command = [*compiler, *FLAGS, named, *bound, *sources, "-o", str(made), "-lm", *linked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"{shlex.join(compiler)} can't be run: {error}"
        if done.returncode:
            return f"{shlex.join(compiler)} failed: {done.stderr.strip()}"
        other = target()
        if other is not None and (why := why_not(read_needs(made.read_bytes()), other)):
            return f"{shlex.join(compiler)} made a library that {why}"
        made.replace(library)
    return ""


def _bound(folder: Path) -> tuple[list[str], list[str]]:
    """Flags of compiler and linker that bind a library for EDGESEG_PLATFORM to an old glibc."""
    other = target()
    if other is None:
        return [], []
    header = folder / "old_glibc.h"
    name = f"pthread_create, pthread_create@{FIRST[other.machine]}"
    header.write_text(f'__asm__(".symver {name}");\n')
    return ["-include", str(header)], list(THREADS)


class Needs(NamedTuple):
    """What a library asks of its system: other libraries, and versions with their symbols."""

    machine: str
    libraries: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]


def read_needs(content: bytes) -> Needs:
    """The needs of a 64-bit little-endian ELF library, from its section headers."""
    if content[:6] != b"\x7fELF\x02\x01":
        sys.exit("edgeseg: what was compiled is no 64-bit little-endian ELF library")
    (number,) = struct.unpack_from("<H", content, 18)
    (at,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", content, at + i * size) for i in range(count)]
    held = {h[1]: content[h[4] : h[4] + h[5]] for h in headers}
    texts = {h[1]: content[headers[h[6]][4] :] for h in headers}  # sh_link: the section's strings
    dynamic, symbols, needed, kinds = 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
    libraries = [
        _text(texts[dynamic], value)
        for tag, value in struct.iter_unpack("<qQ", held[dynamic])
        if tag == 1
    ]
    versions = _versions(held.get(needed, b""), texts.get(needed, b""))
    found: dict[str, list[str]] = {name: [] for name in versions.values()}
    of_symbols = struct.iter_unpack("<IBBHQQ", held[symbols])
    for symbol, (kind,) in zip(
        of_symbols, struct.iter_unpack("<H", held.get(kinds, b"")), strict=False
    ):
        if kind & 0x7FFF in versions:
            found[versions[kind & 0x7FFF]].append(_text(texts[symbols], symbol[0]))
    return Needs(
        MACHINES.get(number, f"machine {number}"),
        tuple(libraries),
        {name: tuple(sorted(found[name])) for name in sorted(found, key=_numbers)},
    )


def _versions(section: bytes, text: bytes) -> dict[int, str]:
    """Numbers and names in .gnu.version_r: a chain of files, each with a chain of versions."""
    versions, at, step = {}, 0, len(section)
    while step:
        _, _, _, first, step = struct.unpack_from("<HHIII", section, at)
        inner, further = at + first, True
        while further:
            _, _, number, name, skip = struct.unpack_from("<IHHII", section, inner)
            versions[number] = _text(text, name)
            inner, further = inner + skip, skip > 0
        at += step
    return versions


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 34) of "GLIBC_2.34"."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def why_not(needs: Needs, other: Target) -> str:
    """Why a library with these needs does not serve that platform, or nothing."""
    if needs.machine != other.machine:
        return f"is for {needs.machine}, not {other.machine}"
    strange = [name for name in needs.libraries if name not in GLIBC]
    if strange:
        return f"needs {', '.join(strange)}, which not every system has"
    if "libpthread.so.0" not in needs.libraries:
        return "does not name libpthread.so.0, where threads are before glibc 2.34"
    for name, symbols in needs.versions.items():
        if not re.match(r"GLIBC_\d", name) or _numbers(name) > other.glibc:
            limit = ".".join(map(str, other.glibc))
            return f"needs {name} ({', '.join(symbols)}); expected {limit} or older"
    return ""


def platform_tag() -> str:
    """The platform of a wheel with the library, such as linux_x86_64."""
    if target() is not None:
        return os.environ["EDGESEG_PLATFORM"]
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")


def wanted() -> str:
    """EDGESEG_NATIVE, checked."""
    word = os.environ.get("EDGESEG_NATIVE") or "auto"
    if word not in WANTED:
        sys.exit(f"EDGESEG_NATIVE is '{word}'; expected one of {', '.join(WANTED)}")
    return word


def native(root: Path, in_place: bool = True) -> bool:
    """Compile as EDGESEG_NATIVE says; whether there is a library to ship.

    Where the tree itself is installed (`in_place`), one from earlier is compiled again, or removed;
    a wheel takes it as it is.
    """
    word = wanted()
    if word != "no" and not in_place and target() is None and is_current(root):
        return True
    why = "EDGESEG_NATIVE=no" if word == "no" else build(root)
    if why and in_place:
        library_path(root).unlink(missing_ok=True)
    if why and (word == "require" or target() is not None):
        sys.exit(f"edgeseg: no native decode: {why}")
    if why:
        sys.stderr.write(f"edgeseg: no native decode, labels are decoded in numpy: {why}\n")
    return not why


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if native(here):
        sys.stdout.write(f"{library_path(here)}\n")
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class DecodeHook(BuildHookInterface):  # type: ignore[type-arg]
        """Puts the library into the wheel, and beside its source for an editable install."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile before the wheel is filled; `version` is "standard" or "editable"."""
            root = Path(self.root)
            if self.target_name == "wheel" and native(root, version == "editable"):
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform_tag()}"
                build_data["artifacts"].append(f"/{library_path(root).relative_to(root)}")
