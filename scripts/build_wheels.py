"""The wheels for x86-64 and Arm Linux from glibc 2.28 on, and what each needs: make wheels

    python scripts/build_wheels.py [--out dist] [PLATFORM ...]

Each is built of a source distribution in a folder of its own, by PROCESSOR-linux-gnu-gcc (Debian:
apt-get install gcc gcc-aarch64-linux-gnu). hatch_build.py refuses a library that needs a newer
glibc than its platform names, so a wheel that is there may be called what it is called.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64")

sys.path.insert(0, str(ROOT))
from hatch_build import read_needs  # noqa: E402


def build(out: Path, platforms: tuple[str, ...]) -> list[Path]:
    """One wheel for each platform, in `out`; those of the same name are replaced."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgeseg-wheels") as folder:
        made = Path(folder)
        _hatch(ROOT, "sdist", made, {})
        (source,) = made.glob("edgeseg-*.tar.gz")
        return [_wheel(source, made / platform, out, platform) for platform in platforms]


def _wheel(source: Path, tree: Path, out: Path, platform: str) -> Path:
    """Unpack `source` in `tree` and build there, where no other library lies."""
    with tarfile.open(source) as packed:
        packed.extractall(tree, filter="data")
    (root,) = tree.iterdir()
    _hatch(root, "wheel", tree, {"EDGESEG_NATIVE": "require", "EDGESEG_PLATFORM": platform})
    (wheel,) = tree.glob(f"edgeseg-*-py3-none-{platform}.whl")
    target = out / wheel.name
    target.write_bytes(wheel.read_bytes())
    return target


def _hatch(root: Path, kind: str, out: Path, variables: dict[str, str]) -> None:
    """Hatchling on the tree in `root`; CC names the compiler of one machine, and has no say."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    here = {name: word for name, word in os.environ.items() if name != "CC"}
    done = subprocess.run(
        command, cwd=root, env={**here, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr.strip() or f"hatchling ended with {done.returncode}")


def describe(wheel: Path) -> str:
    """A wheel's name and size, and of its library the processor and all that it needs."""
    with zipfile.ZipFile(wheel) as packed:
        (library,) = (name for name in packed.namelist() if name.endswith(".so"))
        needs = read_needs(packed.read(library))
    lines = [
        f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB",
        f"  {library}, {needs.machine}, needs {', '.join(needs.libraries)}",
    ]
    lines += [f"  {name:<12} {', '.join(symbols)}" for name, symbols in needs.versions.items()]
    return "\n".join(lines)


def main() -> int:
    """Run one command line."""
    parser = argparse.ArgumentParser(description="Build the wheels for glibc 2.28 and later.")
    parser.add_argument("platforms", nargs="*", default=PLATFORMS, metavar="PLATFORM")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheels")
    given = parser.parse_args()
    for wheel in build(given.out, tuple(given.platforms)):
        sys.stdout.write(f"{describe(wheel)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
