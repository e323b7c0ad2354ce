"""edgeseg: light semantic segmentation on edge devices."""

from edgeseg.runtime.segmenter import Segmenter, load

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__", "load"]
