"""A labelled frame or a whole image -> a training crop: random scale, mirror image, colour."""

from __future__ import annotations

import numpy as np

from edgeseg.dataset import Sample
from edgeseg.frame import Box, Size, resize_image, resize_labels
from edgeseg.labels import IGNORE
from edgeseg.training.plan import AugmentPlan

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Share of R, G and B in grey (ITU-R BT.601)."""


SCALES = 17
"""Scales are drawn from that many, evenly spread; resize weights are kept for the next time."""


def crop(
    sample: Sample,
    size: Size,
    plan: AugmentPlan,
    fill: tuple[int, int, int],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Frame and labels -> (h, w, 3) uint8 and (h, w) uint8, both of `size`: that of the labels.

    Where the scaled frame is smaller than the crop, the rest is `fill` and IGNORE. Always draws the
    same number of random values, so that one setting does not shift another.
    """
    low, high = plan.scale
    draws = generator.random(7)
    scale = low * (high / low) ** (int(draws[0] * SCALES) / (SCALES - 1))
    height, width = sample.labels.shape
    top, bottom, above, rows = _span(height, size[0], scale, draws[1])
    left, right, before, columns = _span(width, size[1], scale, draws[2])
    source = Box(top, left, bottom, right).slices
    part = resize_image(sample.image[source], (rows, columns))
    part = jitter(part, plan, draws[4:7])
    truth = resize_labels(sample.labels[source], (rows, columns))
    if draws[3] < plan.flip:
        part, truth = part[:, ::-1], truth[:, ::-1]
    image = np.empty((*size, 3), np.uint8)
    image[:] = fill
    labels = np.full(size, IGNORE, np.uint8)
    target = Box(above, before, above + rows, before + columns).slices
    image[target], labels[target] = part, truth
    return image, labels


def _span(have: int, want: int, scale: float, draw: float) -> tuple[int, int, int, int]:
    """One axis: [start, stop) of the frame, where it goes in the crop, and its length there.

    Cutting before scaling does the work for the crop's pixels only.
    """
    part = min(have, max(1, round(want / scale)))
    length = want if part < have else min(want, max(1, round(have * scale)))
    start = int(draw * (have - part + 1))
    offset = int(draw * (want - length + 1))
    return start, start + part, offset, length


ATTEMPTS = 10
"""Areas and ratios that are tried before the middle of the image is taken."""


def resized_crop(
    image: np.ndarray, size: Size, plan: AugmentPlan, generator: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8 of `size`: a random box of the image, scaled to it.

    Its share of the image is uniform in `plan.area`, its width over height log-uniform in
    `plan.ratio` (Szegedy et al. 2015). Always draws the same number of random values.
    """
    draws = generator.random((ATTEMPTS, 2))
    place, rest = generator.random(2), generator.random(4)
    height, width = _box_size((image.shape[0], image.shape[1]), plan, draws)
    top = int(place[0] * (image.shape[0] - height + 1))
    left = int(place[1] * (image.shape[1] - width + 1))
    part = resize_image(image[top : top + height, left : left + width], size)
    part = jitter(part, plan, rest[1:])
    return np.ascontiguousarray(part[:, ::-1]) if rest[0] < plan.flip else part


def _box_size(image: Size, plan: AugmentPlan, draws: np.ndarray) -> Size:
    """The first drawn box that fits; else the largest one of a legal ratio."""
    (low, high), (narrow, wide) = plan.area, plan.ratio
    for share, slant in draws:
        area = image[0] * image[1] * (low + (high - low) * share)
        ratio = narrow * (wide / narrow) ** slant
        height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < height <= image[0] and 0 < width <= image[1]:
            return height, width
    ratio = min(max(image[1] / image[0], narrow), wide)
    return min(image[0], round(image[1] / ratio)), min(image[1], round(image[0] * ratio))


def jitter(image: np.ndarray, plan: AugmentPlan, draws: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same with changed brightness, contrast and saturation.

    `draws` are three values in [0, 1); 0.5 changes nothing. Hue stays.
    """
    amounts = (plan.brightness, plan.contrast, plan.saturation)
    if not any(amounts):
        return image
    brightness, contrast, saturation = (
        np.float32(1 + amount * (2 * draw - 1)) for amount, draw in zip(amounts, draws, strict=True)
    )
    pixels = image.astype(np.float32)
    grey = pixels @ LUMA
    middle = np.float32(grey.mean())
    pixels *= saturation
    pixels += (grey * (1 - saturation))[..., None]
    pixels *= brightness * contrast
    pixels += brightness * (1 - contrast) * middle + np.float32(0.5)
    np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8)
