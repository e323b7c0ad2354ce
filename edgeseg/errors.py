"""Every error that is the user's to mend.

EdgesegError                 exit code 2: one line, no traceback
├── UsageError               what was typed: unknown verb, target, model, size, key
├── RecipeError              a TOML file: unknown key, wrong type, value out of range
├── DataError                a data set: missing folder, broken image, labels outside the table
├── FrameError               a frame handed to the runtime: dtype, shape, memory layout
├── BundleError              a model folder: missing, tampered, from another schema, not writable
├── WeightsError             a weights file: truncated, foreign, keys that do not fit the model
├── GraphError               an ONNX graph: broken, or with operators that we can't take
├── EngineError              an engine: library missing, build or inference failed
├── TrainingError            a training run that can't go on: NaN, no checkpoint to resume
├── GateError                exit code 1: the built engine departs from the float model
└── ComparisonError          exit code 1: a result is worse than the one it is compared with

A message says what came, what was expected and what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


class EdgesegError(Exception):
    """Base of all errors above; the command line prints it as one line."""

    exit_code = 2


class UsageError(EdgesegError):
    """What was typed can't be done."""


class RecipeError(EdgesegError):
    """A recipe file is not as it should be."""


class DataError(EdgesegError):
    """A data set is not as it should be."""


class FrameError(EdgesegError, ValueError):
    """A frame is no (H, W, 3) uint8 array."""


class BundleError(EdgesegError):
    """A model folder can't be trusted or used."""


class WeightsError(EdgesegError):
    """A weights file does not fit."""


class GraphError(EdgesegError):
    """An ONNX graph can't be taken."""


class EngineError(EdgesegError):
    """An engine can't be opened or run."""


class TrainingError(EdgesegError):
    """A training run can't go on."""


class GateError(EdgesegError):
    """The accuracy gate refused an engine."""

    exit_code = 1


class ComparisonError(EdgesegError):
    """A result is worse than allowed."""

    exit_code = 1


def exit_code(run: Callable[[], object]) -> int:
    """0 if `run` ends well; else its error as one line on standard error, and the code of that."""
    try:
        run()
    except EdgesegError as error:
        print(f"edgeseg: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def guess(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`" Did you mean 'x'?"` for the nearest known word, else `otherwise`, else all known words."""
    import difflib  # only who has to guess pays for its import

    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" Did you mean '{near[0]}'?"
    if otherwise:
        return f" {otherwise}"
    return f" Known: {', '.join(known)}." if known else ""
