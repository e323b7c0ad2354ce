"""Drawn stick persons with the places of their joints: a dense task that is no segmentation.

Every limb has a hue of its own, as in usual pictures of poses, so that a person's sides can be told
apart; thinner lines of any colour, and noise, lie behind. Nothing to download; a seed is a picture.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

from edgeseg.frame import Size

# fmt: off
JOINTS = (
    "head", "neck", "hip",
    "left elbow", "left hand", "right elbow", "right hand",
    "left knee", "left foot", "right knee", "right foot",
)
BONES = {
    # to          (from,          length,  lowest and highest angle)
    "hip":         ("neck",        0.30,  -0.35, 0.35),
    "head":        ("neck",        0.14,   2.80, 3.48),
    "left elbow":  ("neck",        0.17,   0.20, 2.00),
    "left hand":   ("left elbow",  0.16,  -0.30, 2.60),
    "right elbow": ("neck",        0.17,  -2.00, -0.20),
    "right hand":  ("right elbow", 0.16,  -2.60, 0.30),
    "left knee":   ("hip",         0.23,   0.00, 0.80),
    "left foot":   ("left knee",   0.23,  -0.40, 0.60),
    "right knee":  ("hip",         0.23,  -0.80, 0.00),
    "right foot":  ("right knee",  0.23,  -0.60, 0.40),
}
# fmt: on
"""Lengths are shares of the person's height; angles are from straight down, towards the left."""
HUES = {
    to: tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / len(BONES), 0.9, 0.9))
    for i, to in enumerate(BONES)
}
"""Joint -> the colour of the limb that ends there."""
HEIGHTS = (0.7, 0.95)
"""Of a person, as shares of the picture's height."""
LINES = 6
"""Lines behind the person."""
NOISE = 8.0
"""Standard deviation, in units of uint8."""


def draw_person(seed: int | tuple[int, ...], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """One person: (H, W, 3) uint8 RGB, and (len(JOINTS), 2) int64 pixels as (row, column)."""
    generator = np.random.default_rng(seed)
    height, width = size
    points = _pose(generator, size)
    picture = Image.new("RGB", (width, height), _tint(generator, (110, 110, 110), 50))
    draw = ImageDraw.Draw(picture)
    for _ in range(LINES):
        line = generator.uniform(0, 1, (2, 2)) * (width, height)
        draw.line(line.ravel().tolist(), _tint(generator, (128, 128, 128), 127))
    wide = max(1, round(height / 40))
    for to, (start, *_) in BONES.items():
        line = np.concatenate([points[name][::-1] for name in (start, to)])
        draw.line(line.tolist(), _tint(generator, HUES[to], 20), wide)
    row, column = points["head"]
    head = (column - 2 * wide, row - 2 * wide, column + 2 * wide, row + 2 * wide)
    draw.ellipse(head, fill=_tint(generator, HUES["head"], 20))
    noisy = np.asarray(picture) + generator.normal(0, NOISE, (height, width, 3))
    joints = np.array([points[name] for name in JOINTS])
    return noisy.round().clip(0, 255).astype(np.uint8), joints


def _pose(generator: np.random.Generator, size: Size) -> dict[str, np.ndarray]:
    """Joint -> (row, column), all inside the picture."""
    tall = generator.uniform(*HEIGHTS) * size[0]
    places = {"neck": np.zeros(2)}
    for to, (start, share, low, high) in BONES.items():
        angle = generator.uniform(low, high)
        places[to] = places[start] + share * tall * np.array([math.cos(angle), math.sin(angle)])
    cloud = np.stack(list(places.values()))
    low, high = cloud.min(0), cloud.max(0)
    edge = np.full(2, 0.03 * size[0])
    room = np.array(size) - 1 - 2 * edge
    shrink = min(1.0, float((room / (high - low)).min()))
    offset = edge + generator.uniform(0, 1, 2) * (room - shrink * (high - low))
    return {k: np.rint((p - low) * shrink + offset).astype(np.int64) for k, p in places.items()}


def _tint(
    generator: np.random.Generator, colour: tuple[int, ...], spread: int
) -> tuple[int, int, int]:
    """A colour near that one."""
    red, green, blue = (
        int(np.clip(c + generator.integers(-spread, spread + 1), 0, 255)) for c in colour
    )
    return red, green, blue
