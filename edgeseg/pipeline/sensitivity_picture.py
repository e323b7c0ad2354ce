"""The layers of a network as bars: what each loses as INT8."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeseg.calibration.sensitivity import Layer
from edgeseg.picture import DIFFERENT, GROUND, INK, Colour
from edgeseg.pipeline.sensitivity import Sensitivity

REGAINED: Colour = (64, 196, 170)
GREY: Colour = (150, 152, 158)
SHOWN = 40
"""Layers in the picture, the worst; the rest are counted below."""
PITCH, BAR, LEFT, WIDTH, RIGHT, TOP = 24, 8, 300, 420, 420, 92


def bars(result: Sensitivity) -> np.ndarray:
    """(H, W, 3) uint8: two bars for each layer, its mIoU beside them where it was taken."""
    shown = result.layers[:SHOWN]
    rest = len(result.layers) - len(shown)
    height = TOP + PITCH * len(shown) + (PITCH if rest else 0) + 12
    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, height), GROUND)
    draw = ImageDraw.Draw(canvas)
    _head(draw, result)
    longest = max([*(layer.changed for layer in shown), *(x.regained for x in shown), 1e-9])
    for index, layer in enumerate(shown):
        _row(draw, TOP + PITCH * index, layer, longest)
    if rest:
        y = TOP + PITCH * len(shown) + PITCH // 2
        draw.text((LEFT - 12, y), f"and {rest} layers below", GREY, _font(14), anchor="rm")
    return np.array(canvas)


def _head(draw: ImageDraw.ImageDraw, result: Sensitivity) -> None:
    title = (
        f"{result.model}, {result.target}: all {len(result.layers)} layers in INT8 change "
        f"{result.changed:.2f} % of the labels, mIoU {-result.whole.miou:+.2f}"
    )
    draw.text((16, 20), title, INK, _font(18), anchor="lm")
    for x, colour, text in (
        (LEFT, DIFFERENT, "labels changed when it alone is INT8, %"),
        (LEFT + WIDTH, REGAINED, "labels that come back when it alone stays in float, %"),
    ):
        draw.rectangle((x, 50, x + 14, 64), colour)
        draw.text((x + 22, 57), text, INK, _font(14), anchor="lm")


def _row(draw: ImageDraw.ImageDraw, y: int, layer: Layer, longest: float) -> None:
    draw.text((LEFT - 12, y + BAR), layer.layer, INK, _font(14), anchor="rm")
    for top, colour, value in (
        (y, DIFFERENT, layer.changed),
        (y + BAR, REGAINED, max(layer.regained, 0.0)),
    ):
        length = round(WIDTH * value / longest)
        draw.rectangle((LEFT, top, LEFT + max(length, 1), top + BAR - 2), colour)
    text = f"{layer.changed:.2f} / {layer.regained:+.2f}   {100 * layer.macs:.1f} % of the MACs"
    if layer.alone and layer.without:
        text += f"   mIoU alone {-layer.alone.miou:+.2f}, without {-layer.without.miou:+.2f}"
    draw.text((LEFT + WIDTH + 12, y + BAR), text, GREY, _font(13), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
