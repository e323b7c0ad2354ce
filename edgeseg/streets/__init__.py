"""Seeded procedural streets with the labels of Cityscapes' 19 classes; no download, no torch.

`draw_street(seed, (256, 512))` -> image and labels. The scene depends on the seed alone: another
size shows the same street.
"""

from __future__ import annotations

import numpy as np

from edgeseg.streets.furniture import add_furniture
from edgeseg.streets.layout import pave_street, plan_street
from edgeseg.streets.lots import add_lots
from edgeseg.streets.photo import develop
from edgeseg.streets.render import look
from edgeseg.streets.texture import colour
from edgeseg.streets.traffic import add_traffic
from edgeseg.streets.weather import choose_camera, choose_weather
from edgeseg.streets.world import Dice, World

__all__ = ["draw_street"]


def draw_street(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One street at `size` (height, width) -> image (H, W, 3) uint8 RGB, labels (H, W) uint8.

    Labels are Cityscapes train ids, 255 without a class. Same seed and size: same bytes.
    """
    weather = choose_weather(Dice(seed, "weather"))
    camera = choose_camera(Dice(seed, "camera"), weather)
    street = plan_street(Dice(seed, "street"))
    world = World()
    pave_street(world, Dice(seed, "ground"), street)
    add_lots(world, Dice(seed, "lots"), street)
    add_furniture(world, Dice(seed, "furniture"), street, lit=weather.lit)
    add_traffic(world, Dice(seed, "traffic"), street, lit=weather.lit)
    own = Dice(seed, "bonnet")
    if own.chance(0.25):
        grey = own.between(0.02, 0.5)
        world.bonnet = (grey, grey, grey * 1.05)
    view = look(world, weather, camera, size)
    return develop(colour(view, weather), camera, seed), view.labels
