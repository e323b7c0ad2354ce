"""TensorRT's logger: one for the process and each library, for builds and engines alike."""

from __future__ import annotations

import functools
import threading
from collections import deque
from types import ModuleType
from typing import Any

MOST_LINES = 10_000
"""A robot runs for months: old lines go."""


@functools.cache
def log_of(trt: ModuleType) -> Any:
    """The logger of that library: it keeps warnings and errors, those of each thread apart too."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[tuple[str, str]] = deque(maxlen=MOST_LINES)
            self._thread = threading.local()

        def log(self, severity: Any, message: str) -> None:
            if severity > trt.ILogger.WARNING:
                return
            self.lines.append((severity.name, message.strip()))
            if severity.name != "WARNING":
                self._thread.error = message.strip()

        def last_error(self) -> str:
            errors = [text for severity, text in self.lines if severity != "WARNING"]
            return errors[-1] if errors else SILENT

        def forget(self) -> None:
            """Before a call whose error `why` is to tell."""
            self._thread.error = SILENT

        def why(self) -> str:
            """The last error that this thread was told."""
            return str(getattr(self._thread, "error", SILENT))

    return Log()


SILENT = "it does not say why"
