"""edgeseg: light semantic segmentation on edge devices."""

TYPE_CHECKING = False  # as in typing, whose import would cost more than all of this
if TYPE_CHECKING:
    from edgeseg.runtime.engine_fake import FakeEngine
    from edgeseg.runtime.refiner import EngineRefiner, load_refiner
    from edgeseg.runtime.segmenter import Segmenter, load
    from edgeseg.runtime.stream import Captured, stream

__version__ = "0.1.0"
__all__ = [
    "Captured",
    "EngineRefiner",
    "FakeEngine",
    "Segmenter",
    "__version__",
    "load",
    "load_refiner",
    "stream",
]

_PLACES = {
    "Captured": "edgeseg.runtime.stream",
    "EngineRefiner": "edgeseg.runtime.refiner",
    "FakeEngine": "edgeseg.runtime.engine_fake",
    "Segmenter": "edgeseg.runtime.segmenter",
    "load": "edgeseg.runtime.segmenter",
    "load_refiner": "edgeseg.runtime.refiner",
    "stream": "edgeseg.runtime.stream",
}

if not TYPE_CHECKING:  # a checker knows the names above and no others

    def __getattr__(name: str) -> object:
        """Each name is imported when it is first used: not every robot streams."""
        if name not in _PLACES:
            raise AttributeError(f"module 'edgeseg' has no attribute '{name}'")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
