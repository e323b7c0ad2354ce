"""Lamp posts, traffic signs and lights, bollards, bins, and the trees that line the street."""

from __future__ import annotations

import math

from edgeseg.streets.layout import Side, Street
from edgeseg.streets.plants import add_bush, add_tree
from edgeseg.streets.world import (
    FLAT,
    GLOW,
    LIGHT,
    METAL,
    POLE,
    SIGN,
    VOID,
    Colour,
    Dice,
    World,
    shade,
)

RED: Colour = (0.68, 0.09, 0.10)
BLUE: Colour = (0.08, 0.22, 0.56)
WHITE: Colour = (0.86, 0.86, 0.85)
YELLOW: Colour = (0.85, 0.68, 0.12)
GREEN: Colour = (0.08, 0.36, 0.22)
DARK: Colour = (0.07, 0.07, 0.08)


def add_furniture(world: World, dice: Dice, street: Street, *, lit: bool) -> None:
    """Everything that stands at the kerbs."""
    for side in street.sides:
        _lamps(world, dice, street, side, lit)
        _trees(world, dice, street, side)
        _signs(world, dice, street, side)
        _small_things(world, dice, street, side)
    if (street.junction and dice.chance(0.8)) or (street.zebra and dice.chance(0.4)):
        _traffic_lights(world, dice, street)


def _post(
    world: World, x: float, z: float, height: float, thick: float, colour: Colour, tilt: float = 0
) -> None:
    """A pole of that thickness in metres, lighter on one half as round things are."""
    half = thick / 2
    for a, b, gain in ((-half, 0.0, 0.8), (0.0, half, 1.15)):
        points = [
            (x + a, 0.0, z),
            (x + b, 0.0, z),
            (x + tilt + b, height, z),
            (x + tilt + a, height, z),
        ]
        world.face(points, POLE, shade(colour, gain), METAL)
    world.stand(x, z, half, half, height)


def _lamps(world: World, dice: Dice, street: Street, side: Side, lit: bool) -> None:
    if dice.chance(0.25):
        return
    gap, height = dice.between(18, 34), dice.between(4.5, 9)
    colour = dice.tint(dice.pick(((0.45, 0.46, 0.46), (0.16, 0.20, 0.17), (0.3, 0.3, 0.31))), 0.25)
    arm = -side.sign * dice.between(0.8, 2.4) if dice.chance(0.7) else 0.0
    x = side.sign * (side.edge + dice.between(0.3, 0.6))
    z = dice.between(2.5, gap)
    wires = dice.chance(0.25)
    while z < 130:
        if not street.open_at(z):
            world.key = z
            _post(world, x, z, height, dice.between(0.11, 0.17), colour)
            lamp: Colour = (1.0, 0.9, 0.65) if lit else (0.7, 0.7, 0.68)
            if arm:
                points = [(x, height - 0.1, z), (x + arm, height + 0.35, z)]
                points += [(x + arm, height + 0.45, z), (x, height + 0.05, z)]
                world.face(points, POLE, colour)
                a, b = sorted((x + arm, x + arm * 1.35))
                world.upright(
                    a,
                    b,
                    height + 0.28,
                    height + 0.46,
                    z,
                    POLE,
                    lamp,
                    GLOW if lit else FLAT,
                )
            else:
                world.upright(
                    x - 0.2, x + 0.2, height, height + 0.45, z, POLE, lamp, GLOW if lit else FLAT
                )
            if wires:
                _post(world, x, z, height + 1, 0.18, colour)
        z += gap


def _trees(world: World, dice: Dice, street: Street, side: Side) -> None:
    if not dice.chance(min(0.5 * street.style.trees, 0.92)):
        return
    gap = dice.between(6, 15) / street.style.trees**0.5
    height = dice.between(5, 11)
    offset = side.edge + (side.verge / 2 if side.verge else 0.7)
    z = dice.between(3, 3 + gap)
    while z < 140:
        if not street.open_at(z) and dice.chance(0.85):
            x = side.sign * (offset + dice.between(-0.2, 0.3))
            add_tree(world, dice, x, z, height * dice.between(0.75, 1.2))
        z += gap * dice.between(0.8, 1.3)


def _signs(world: World, dice: Dice, street: Street, side: Side) -> None:
    for _ in range(dice.weighted({0: 1, 1: 2, 2: 2, 3: 1})):
        z = 5 + 45 * dice.unit() ** 1.5
        x = side.sign * (side.edge + dice.between(0.3, 0.8))
        if street.open_at(z):
            continue
        world.key = z
        height = dice.between(2.0, 2.9)
        _post(world, x, z, height + 0.8, 0.08, dice.tint((0.5, 0.5, 0.5), 0.2))
        y = height + 0.4
        for _ in range(dice.whole(1, 2)):
            size = dice.between(0.24, 0.36)
            add_sign(world, dice, x, y, z - 0.03, size)
            y -= 2.1 * size
    if dice.chance(0.12 if street.style.name != "arterial" else 0.35):
        z = dice.between(15, 50)
        world.key = z
        x = side.sign * (side.edge + 0.8)
        _post(world, x, z, 5.2, 0.2, (0.45, 0.46, 0.46))
        colour = dice.pick((BLUE, GREEN, YELLOW, WHITE))
        wide = dice.between(1.2, 2.6)
        x -= side.sign * wide * 0.6
        world.upright(
            x - wide, x + wide, 3.9, 5.5, z - 0.1, SIGN, WHITE if colour != WHITE else DARK
        )
        world.upright(x - wide + 0.06, x + wide - 0.06, 3.96, 5.44, z - 0.1, SIGN, colour)
        _writing(
            world,
            dice,
            x,
            4.7,
            z - 0.1,
            wide * 0.8,
            0.55,
            WHITE if colour in (BLUE, GREEN) else DARK,
        )


def _writing(
    world: World, dice: Dice, x: float, y: float, z: float, half: float, rise: float, ink: Colour
) -> None:
    for row in (-0.5, 0.1, 0.7):
        a = x - half
        while a < x + half * 0.6:
            b = a + dice.between(0.1, 0.35) * half
            world.upright(a, b, y + row * rise, y + row * rise + 0.22 * rise, z, SIGN, ink)
            a = b + 0.08 * half


def add_sign(world: World, dice: Dice, x: float, y: float, z: float, size: float) -> None:
    """A round, three-cornered, square or oblong sign of that half width."""
    kind = dice.weighted({"ban": 3, "warn": 2, "order": 1.5, "park": 2, "prio": 1, "plate": 1})

    def polygon(corners: int, reach: float, start: float, colour: Colour) -> None:
        step = 2 * math.pi / corners
        points = [
            (x + reach * math.cos(start + i * step), y + reach * math.sin(start + i * step), z)
            for i in range(corners)
        ]
        world.face(points, SIGN, dice.tint(colour, 0.12))

    if kind == "ban":
        polygon(12, size, 0, RED)
        polygon(12, size * 0.74, 0, WHITE if dice.chance(0.75) else BLUE)
        world.upright(x - size * 0.3, x + size * 0.3, y - size * 0.3, y + size * 0.3, z, SIGN, DARK)
    elif kind == "warn":
        polygon(3, size * 1.2, math.pi / 2 if dice.chance(0.7) else -math.pi / 2, RED)
        polygon(3, size * 0.75, math.pi / 2, WHITE)
        world.upright(
            x - size * 0.08, x + size * 0.08, y - size * 0.2, y + size * 0.4, z, SIGN, DARK
        )
    elif kind == "order":
        polygon(12, size, 0, BLUE)
        head = [(x - size * 0.5, y, z), (x, y + size * 0.6, z), (x + size * 0.5, y, z)]
        world.face(head, SIGN, WHITE)
        world.upright(x - size * 0.15, x + size * 0.15, y - size * 0.6, y, z, SIGN, WHITE)
    elif kind == "park":
        world.upright(x - size, x + size, y - size, y + size, z, SIGN, BLUE)
        world.upright(
            x - size * 0.4, x - size * 0.15, y - size * 0.6, y + size * 0.6, z, SIGN, WHITE
        )
        world.upright(x - size * 0.2, x + size * 0.4, y, y + size * 0.6, z, SIGN, WHITE)
    elif kind == "prio":
        polygon(4, size * 1.2, 0, WHITE)
        polygon(4, size * 0.9, 0, YELLOW)
    else:
        world.upright(x - size, x + size, y - size * 0.5, y + size * 0.5, z, SIGN, WHITE)
        _writing(world, dice, x, y, z, size * 0.8, size * 0.4, DARK)


def _traffic_lights(world: World, dice: Dice, street: Street) -> None:
    z = (street.zebra or (street.junction or (20.0, 0.0))[0]) - 1.0
    state = dice.pick((0, 2, 2, 1))
    frame = dice.pick((DARK, (0.10, 0.16, 0.12), (0.62, 0.50, 0.10)))
    for side in street.sides:
        x = side.sign * (side.edge + 0.4)
        world.key = z
        height = dice.between(3.0, 3.6)
        _post(world, x, z, height, 0.13, (0.35, 0.36, 0.36))
        _lamp_box(world, x, height - 0.6, z - 0.05, frame, state)
        if side.sign > 0 and dice.chance(0.4):
            arm = side.edge + 0.4 - dice.between(0.0, 1.5)
            points = [(x, 5.6, z), (x - arm, 5.8, z), (x - arm, 5.95, z), (x, 5.8, z)]
            _post(world, x, z, 5.8, 0.16, (0.35, 0.36, 0.36))
            world.face(points, POLE, (0.35, 0.36, 0.36), METAL)
            _lamp_box(world, x - arm, 5.3, z - 0.05, frame, state)
    if street.junction and dice.chance(0.6):
        far = street.junction[1] + 1.0
        side = street.sides[1]
        world.key = far
        x = side.edge + 0.5
        _post(world, x, far, 3.3, 0.13, (0.35, 0.36, 0.36))
        _lamp_box(world, x, 2.6, far - 0.05, frame, state)


def _lamp_box(world: World, x: float, y: float, z: float, frame: Colour, state: int) -> None:
    world.upright(x - 0.2, x + 0.2, y, y + 1.0, z, LIGHT, frame)
    for i, (on, off) in enumerate(
        (
            ((0.15, 0.95, 0.55), (0.03, 0.14, 0.09)),
            ((1.0, 0.72, 0.15), (0.16, 0.12, 0.03)),
            ((1.0, 0.16, 0.10), (0.18, 0.03, 0.03)),
        )
    ):
        middle = y + 0.19 + 0.3 * i
        lens = [
            (x + 0.115 * math.cos(k * 0.785), middle + 0.115 * math.sin(k * 0.785), z)
            for k in range(8)
        ]
        world.face(lens, LIGHT, on if i == state else off, GLOW if i == state else FLAT)


def _small_things(world: World, dice: Dice, street: Street, side: Side) -> None:
    if dice.chance(0.22):
        z, gap = dice.between(4, 10), dice.between(1.5, 3)
        colour = dice.tint(dice.pick(((0.2, 0.2, 0.2), (0.5, 0.5, 0.5), (0.55, 0.3, 0.2))), 0.3)
        for _ in range(dice.whole(3, 9)):
            if not street.open_at(z):
                world.key = z
                _post(
                    world, side.sign * (side.edge + 0.35), z, dice.between(0.85, 1.0), 0.13, colour
                )
            z += gap
    for _ in range(dice.weighted({0: 3, 1: 2, 2: 1})):
        z = 5 + 30 * dice.unit()
        x = side.sign * (side.pavement[1] - 0.5)
        if not street.open_at(z):
            world.key = z
            _bin(world, dice, x, z)
    for _ in range(dice.whole(0, 3)):
        z = dice.between(3, 60)
        if side.verge > 1.2 and not street.open_at(z):
            add_bush(
                world, dice, side.sign * (side.edge + side.verge / 2), z, dice.between(0.6, 1.3)
            )


def _bin(world: World, dice: Dice, x: float, z: float) -> None:
    """A rubbish bin or cabinet: a static thing that Cityscapes leaves without a class."""
    colour = dice.tint(
        dice.pick(((0.16, 0.25, 0.18), (0.3, 0.3, 0.32), (0.45, 0.42, 0.2), (0.5, 0.5, 0.48))), 0.3
    )
    half, deep, high = dice.between(0.25, 0.5), dice.between(0.2, 0.4), dice.between(0.8, 1.3)
    world.box((x - half, x + half), (0.1, high), (z - deep, z + deep), VOID, colour)
    world.stand(x, z, half, deep, high)
