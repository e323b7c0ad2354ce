"""edgeseg: light semantic segmentation on edge devices."""

from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter, load

__version__ = "0.1.0"
__all__ = ["FakeEngine", "Segmenter", "__version__", "load"]
