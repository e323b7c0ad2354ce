"""edgeseg: light semantic segmentation on edge devices."""

from typing import TYPE_CHECKING, Any

from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter, load

if TYPE_CHECKING:
    from edgeseg.runtime.stream import Captured, stream

__version__ = "0.1.0"
__all__ = ["Captured", "FakeEngine", "Segmenter", "__version__", "load", "stream"]


def __getattr__(name: str) -> Any:
    """`Captured` and `stream` are imported when they are first used: not every robot streams."""
    if name in ("Captured", "stream"):
        from edgeseg.runtime import stream

        return getattr(stream, name)
    raise AttributeError(f"module 'edgeseg' has no attribute '{name}'")
