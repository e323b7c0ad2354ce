"""Writing to disk so that nothing is lost: write aside, then rename."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.errors import BundleError, UsageError


@contextlib.contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` if the block ends without an error."""
    import tempfile  # only who writes pays for its import

    check_file(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(aside)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`; it becomes `path` if the block ends without an error.

    A model folder that is there already is replaced; any other folder with something in it is
    refused.
    """
    import shutil
    import tempfile

    check_replaceable(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield aside
            aside.chmod(0o755)
            _replace(path, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system names `path`, not what is written beside it."""
    try:
        yield
    except OSError as error:
        parts = Path(str(error.filename or f".{path.name}.")).parts
        if error.errno is None or not any(part.startswith(f".{path.name}.") for part in parts):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, aside: Path) -> None:
    """Rename the folder `aside` to `path`; what was there comes back if that fails."""
    import shutil

    old = aside.with_name(aside.name + ".old")
    try:
        if path.exists():
            path.rename(old)
        aside.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """BundleError unless a model folder may be written at `path`."""
    if path.is_dir() and any(path.iterdir()) and not (path / "manifest.json").exists():
        raise BundleError(
            f"{path} is a folder with other things in it; give --out a new or empty folder"
        )
    check_folder(path)
    _check_place(path)


def check_folder(path: Path) -> None:
    """BundleError or UsageError unless files may be written into the folder `path`."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path} is a file; --out expects a folder")
    _check_place(path / "file")


def check_new_folder(path: Path) -> None:
    """BundleError or UsageError unless `path` is an empty folder, or may become one."""
    check_folder(path)
    if path.exists() and any(path.iterdir()):
        raise UsageError(f"--out {path} is there already; give a new or empty folder")


def check_file(path: Path) -> None:
    """UsageError unless a file may be written at `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the path of a file")
    _check_place(path)


def _check_place(path: Path) -> None:
    """UsageError unless the nearest folder above `path` that is there may be written to."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{path}: {above} is a file, so nothing can be written below it")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: no permission to write in {above}; give another place")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with writing_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; nan and infinity are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
