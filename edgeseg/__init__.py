"""edgeseg: light semantic segmentation on edge devices."""

from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter, load
from edgeseg.runtime.stream import Captured, stream

__version__ = "0.1.0"
__all__ = ["Captured", "FakeEngine", "Segmenter", "__version__", "load", "stream"]
