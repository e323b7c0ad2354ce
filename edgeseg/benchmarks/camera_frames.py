"""Pictures as a camera would give them: another size, another format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.errors import UsageError
from edgeseg.frame import Size, format_size, parse_size, resize_image
from edgeseg.runtime.prepare import check_format


@dataclass(frozen=True)
class Camera:
    """(height, width) of its frames, and their format (`prepare.FORMATS`)."""

    size: Size
    format: str = "bgr"

    def __post_init__(self) -> None:
        check_format(self.format)
        odd = self.size[1] % 2 or (self.format == "nv12" and self.size[0] % 2)
        if self.format in ("nv12", "yuyv") and odd:
            raise UsageError(
                f"a camera of {format_size(self.size)} gives no {self.format}: pairs of pixels "
                "share their colour; take even sides"
            )

    def __str__(self) -> str:
        return f"{format_size(self.size)}:{self.format}"


def parse_camera(text: str) -> Camera:
    """`"720x1280:nv12"`, or `"720x1280"` for bgr."""
    size, _, form = text.partition(":")
    return Camera(parse_size(size), form or "bgr")


def as_camera(image: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> a frame of the camera, stretched to its size."""
    rgb = resize_image(image, camera.size)
    if camera.format in ("rgb", "bgr"):
        return np.ascontiguousarray(rgb if camera.format == "rgb" else rgb[..., ::-1])
    luma, u, v = _planes(rgb)
    if camera.format == "grey":
        return luma
    height, width = camera.size
    if camera.format == "yuyv":
        pairs = np.stack([_pairs(u, 1), _pairs(v, 1)], -1)
        return np.stack([luma, pairs.reshape(height, width)], -1)
    pairs = np.stack([_pairs(u, 2), _pairs(v, 2)], -1)
    return np.concatenate([luma, pairs.reshape(height // 2, width)])


def _planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (H, W) uint8 and U, V (H, W) float of ITU-R BT.601 with Y from 16 to 235."""
    r, g, b = (rgb[..., c].astype(np.float32) for c in range(3))
    luma = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return np.rint(luma).astype(np.uint8), u, v


def _pairs(plane: np.ndarray, rows: int) -> np.ndarray:
    """(H, W) -> (H / rows, W / 2) uint8: the mean of so many rows and two columns."""
    height, width = plane.shape
    means = plane.reshape(height // rows, rows, width // 2, 2).mean((1, 3))
    found: np.ndarray = np.rint(means).astype(np.uint8)
    return found
