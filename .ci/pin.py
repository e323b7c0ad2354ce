"""Print the versions installed here as constraints.txt: `.venv/bin/python .ci/pin.py`.

A release that Python 3.10 can't take is pinned for later Pythons only. Build tags of this machine
(`+cpu`) are left away, so that the same line finds the file that fits.
"""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.specifiers import SpecifierSet

OURS = {"edgeseg", "pip", "setuptools", "wheel"}
OLDEST = "3.10"
HEAD = """\
# The exact versions that CI runs. Rewritten, never edited:
#   .venv/bin/python .ci/pin.py > constraints.txt
"""


def pins() -> list[str]:
    """One line for each installed distribution, sorted by name."""
    lines = {}
    for distribution in metadata.distributions():
        name = distribution.name.lower().replace("_", "-")
        if name in OURS:
            continue
        if name.startswith("nvidia") or "cuda" in name:
            sys.exit(f"pin: {name} is installed: this is not the CPU build of torch")
        needs = SpecifierSet(distribution.metadata["Requires-Python"] or "")
        marker = "" if OLDEST in needs else f'; python_version > "{OLDEST}"'
        lines[name] = f"{name}=={distribution.version.partition('+')[0]}{marker}"
    return [lines[name] for name in sorted(lines)]


if __name__ == "__main__":
    sys.stdout.write(HEAD + "\n".join(pins()) + "\n")
