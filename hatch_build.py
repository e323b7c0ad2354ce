"""Compiles edgeseg/runtime/decode.c and prepare.c when edgeseg is installed or built; by hand:

    python hatch_build.py

The library is plain C without Python's ABI, so one wheel (`py3-none-PLATFORM`) serves every Python.
EDGESEG_NATIVE says what is wanted: "auto" (the default: without a compiler the wheel is pure and
numpy prepares frames and decodes labels, which `edgeseg doctor` and every result name), "require"
(without a compiler the installation fails) or "no" (a pure wheel). CC names the compiler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path("edgeseg/runtime")
SOURCES = (
    "decode.c", "decode_scores.h", "decode_isa.h", "decode_arithmetic.h", "decode_kernels.h",
    "prepare.c", "prepare_colours.h", "lattice.c",
)  # fmt: skip
FLAGS = (
    "-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
)  # fmt: skip
COMPILERS = ("cc", "gcc", "clang")
WANTED = ("auto", "require", "no")


def library_path(root: Path) -> Path:
    """Where decode_native.py looks for the library."""
    return root / FOLDER / f"decode.{sys.platform}_{platform.machine()}.so"


def find_compiler() -> list[str] | None:
    """The words of CC, else the first compiler that is installed."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([path] for name in COMPILERS if (path := shutil.which(name))), None)


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
        return f"there is no C compiler ({', '.join(COMPILERS)}; or name one by CC)"
    named = f'-DEDGESEG_SOURCE="{source_hash(root)}"'
    sources = [str(root / FOLDER / name) for name in SOURCES if name.endswith(".c")]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".decode") as aside:
        made = Path(aside) / library.name
        command = [*compiler, *FLAGS, named, *sources, "-o", str(made), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"{shlex.join(compiler)} can't be run: {error}"
        if done.returncode:
            return f"{shlex.join(compiler)} failed: {done.stderr.strip()}"
        made.replace(library)
    return ""


def platform_tag() -> str:
    """The platform of a wheel with the library, such as linux_x86_64."""
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
    if word != "no" and not in_place and is_current(root):
        return True
    why = "EDGESEG_NATIVE=no" if word == "no" else build(root)
    if why and in_place:
        library_path(root).unlink(missing_ok=True)
    if why and word == "require":
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
