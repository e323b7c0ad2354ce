"""Trees, bushes and hedges: crowns of many ragged leaf clusters, dark below and light above."""

from __future__ import annotations

import math

from edgeseg.streets.world import FOLIAGE, VEGETATION, Colour, Dice, World, shade

LEAVES: tuple[Colour, ...] = (
    (0.27, 0.36, 0.14),
    (0.22, 0.32, 0.14),
    (0.34, 0.41, 0.18),
    (0.20, 0.27, 0.15),
    (0.25, 0.36, 0.20),
    (0.31, 0.37, 0.24),
    (0.38, 0.38, 0.16),
    (0.42, 0.33, 0.15),
)
BARK: Colour = (0.25, 0.20, 0.16)


def add_tree(world: World, dice: Dice, x: float, z: float, height: float) -> None:
    """A tree of that height in metres: broad-leaved, now and then a conifer or a bare one."""
    if z < 1.5:
        return
    world.key = z
    leaf = dice.tint(dice.pick(LEAVES), 0.3)
    kind = dice.weighted({"broad": 0.8, "conifer": 0.1, "bare": 0.1})
    trunk = height * (dice.between(0.25, 0.42) if kind != "conifer" else 0.12)
    thick = 0.016 * height * dice.between(0.7, 1.2)
    bark = dice.tint(BARK, 0.35)
    top = trunk * 1.5
    points = [(x - thick, 0.0, z), (x + thick, 0.0, z)]
    points += [(x + thick * 0.7, top, z), (x - thick * 0.7, top, z)]
    world.face(points, VEGETATION, bark, FOLIAGE)
    if kind == "conifer":
        _conifer(world, dice, x, z, trunk, height, leaf)
    elif kind == "bare":
        _branches(world, dice, x, z, top, height, bark)
    else:
        _crown(world, dice, x, z, trunk, height, leaf)
    radius = height * 0.25
    world.stand(x, z, thick, thick, trunk)
    disc = [(x + radius * math.cos(k), z + radius * math.sin(k)) for k in range(6)]
    world.shadows.append((disc, -(trunk + height) / 2))


def _crown(
    world: World, dice: Dice, x: float, z: float, trunk: float, height: float, leaf: Colour
) -> None:
    rx, ry = height * dice.between(0.24, 0.4), (height - trunk) / 2
    middle = (height + trunk) / 2
    clusters = 34 if z < 25 else 20 if z < 60 else 9
    world.blob(x, middle, z, rx * 0.9, ry * 0.9, dice, VEGETATION, shade(leaf, 0.55), corners=11)
    spots = []
    for _ in range(clusters):
        angle, reach = dice.unit() * 6.283, math.sqrt(dice.unit())
        spots.append((reach * math.sin(angle), reach * math.cos(angle)))
    spots.sort()
    for up, across in spots:
        size = dice.between(0.24, 0.42)
        light = 0.82 + 0.38 * up + dice.between(-0.16, 0.16)
        world.blob(
            x + rx * 0.85 * across,
            middle + ry * 0.82 * up,
            z,
            rx * size,
            ry * size * 0.9,
            dice,
            VEGETATION,
            shade(leaf, light),
            corners=13 if z < 25 else 7,
        )
        if z < 30:
            size *= dice.between(0.3, 0.5)
            out = dice.between(0.95, 1.2)
            world.blob(
                x + rx * out * across,
                middle + ry * out * up,
                z,
                rx * size,
                ry * size,
                dice,
                VEGETATION,
                shade(leaf, light * dice.between(0.8, 1.2)),
            )


def _conifer(
    world: World, dice: Dice, x: float, z: float, trunk: float, height: float, leaf: Colour
) -> None:
    dark = shade(leaf, 0.6)
    layers = 6
    for i in range(layers):
        low = trunk + (height - trunk) * i / layers * 0.9
        half = height * 0.22 * (1 - i / (layers + 0.5)) * dice.between(0.85, 1.15)
        points = [
            (x - half, low, z),
            (x - half * 0.3, low - 0.25, z),
            (x + half * 0.4, low - 0.2, z),
        ]
        points += [(x + half, low, z), (x, min(low + height * 0.34, height), z)]
        world.face(points, VEGETATION, shade(dark, 0.8 + 0.08 * i), FOLIAGE)


def _branches(
    world: World, dice: Dice, x: float, z: float, fork: float, height: float, bark: Colour
) -> None:
    for _ in range(9 if z < 40 else 5):
        x1 = x + height * dice.between(-0.26, 0.26)
        y0, y1 = fork * dice.between(0.7, 1.0), height * dice.between(0.7, 1.0)
        thick = 0.006 * height
        points = [(x - thick, y0, z), (x + thick, y0, z), (x1 + thick / 3, y1, z), (x1, y1, z)]
        world.face(points, VEGETATION, bark, FOLIAGE)
        for _ in range(3):
            share = dice.between(0.35, 0.85)
            xa, ya = x + (x1 - x) * share, y0 + (y1 - y0) * share
            xb, yb = xa + height * dice.between(-0.13, 0.13), ya + height * dice.between(0.05, 0.16)
            points = [(xa, ya, z), (xa + thick, ya, z), (xb, yb, z)]
            world.face(points, VEGETATION, bark, FOLIAGE)


def add_bush_row(world: World, dice: Dice, x: float, z0: float, z1: float, height: float) -> None:
    """A hedge along the street."""
    leaf = dice.tint(dice.pick(LEAVES[:4]), 0.25)
    z0 = max(z0, 0.6)
    if z1 <= z0:
        return
    half = 0.4
    world.key = z1
    world.box((x - half, x + half), (0, height * 0.9), (z0, z1), VEGETATION, leaf, FOLIAGE)
    z = z1
    while z > z0:
        size = dice.between(0.35, 0.6)
        light = shade(leaf, dice.between(0.8, 1.25))
        for _ in range(2 if z < 30 else 1):
            y = height * dice.between(0.4, 0.95)
            across = dice.between(-half, half)
            world.blob(x + across, y, z, size, size * 0.6, dice, VEGETATION, light, corners=7)
        z -= dice.between(0.35, 0.7) * (1 if z < 25 else 3)
    world.shadows.append((((x - half, z0), (x + half, z0), (x + half, z1), (x - half, z1)), height))


def add_bush(world: World, dice: Dice, x: float, z: float, height: float) -> None:
    """A single bush."""
    world.key = z
    leaf = dice.tint(dice.pick(LEAVES), 0.3)
    for i in range(7):
        world.blob(
            x + height * dice.between(-0.5, 0.5),
            height * (0.3 + 0.08 * i),
            z,
            height * 0.45,
            height * 0.33,
            dice,
            VEGETATION,
            shade(leaf, 0.7 + 0.08 * i),
            corners=7,
        )
