"""What papers and releases say that the classic systems cost. Plain data; no torch.

Tests count the same anew: tests/torch/test_classics.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Published parameters (M) and MACs (G) at `size`, and what we count in the same setting.

    The setting is `options` and `outputs`; with `auxiliary` the auxiliary head is counted too.
    None: not published. Of figures given as operations the half is taken for MACs; to a size that
    the network does not take, MACs are scaled by the pixels.
    """

    params: float | None
    counted_params: float
    source: str
    macs: float | None = None
    size: tuple[int, int] | None = None
    counted_macs: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    outputs: int = 19
    auxiliary: bool = False
    note: str = ""


_TORCHVISION = "torchvision"
_SIDE = (520, 520)
_LARGE = (1024, 2048)
_V3: dict[str, Any] = {"stride": 8, "grid": []}
_MB = "the published number seems to be the weights' megabytes"

# fmt: off
FIGURES = {
    "enet": Figure(0.37, 0.364, "paper", 1.92, (360, 640), 1.72),
    "fast_scnn": Figure(1.11, 1.14, "paper"),
    "bisenetv1_x39": Figure(5.8, 1.26, "paper", note=_MB),
    "bisenetv1_r18": Figure(13.3, 13.2, "public counts", 118.0, _LARGE, 118.3),
    "bisenetv2": Figure(3.4, 3.36, "public counts", 98.4, _LARGE, 98.4),
    "icnet": Figure(26.5, 6.70, "public counts", 28.3, _LARGE, 29.2, note=_MB),
    "fcn_r50": Figure(35.32, 35.32, _TORCHVISION, 152.7, _SIDE, 152.7, {}, 21, True),
    "fcn_r101": Figure(54.31, 54.31, _TORCHVISION, 232.7, _SIDE, 232.7, {}, 21, True),
    "unet": Figure(31.0, 31.0, "public counts", outputs=2),
    "segnet": Figure(29.46, 29.46, "public counts", 143.0, (360, 640), 143.2, outputs=21),
    "deeplabv1": Figure(20.5, 20.5, "paper", outputs=21),
    "deeplabv3_r50": Figure(42.0, 42.0, _TORCHVISION, 178.7, _SIDE, 178.7, _V3, 21, True),
    "deeplabv3_r101": Figure(61.0, 61.0, _TORCHVISION, 258.7, _SIDE, 258.7, _V3, 21, True),
    "pspnet_r101": Figure(65.7, 65.7, "ESPNet's paper"),
    "cascadepsp_r50": Figure(67.7, 67.7, "size of the released weights", outputs=1),
}
# fmt: on
"""By the name in MODELS or REFINERS; systems of which nothing was found are missing."""
