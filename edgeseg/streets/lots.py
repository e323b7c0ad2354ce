"""What stands along the street: houses, walls, fences, hedges, and what is seen between them."""

from __future__ import annotations

from edgeseg.streets.layout import FAR, Side, Street
from edgeseg.streets.plants import add_bush_row, add_tree
from edgeseg.streets.world import (
    BRICK,
    BUILDING,
    FACADE,
    FENCE,
    FLAT,
    GRASS,
    SIDEWALK,
    SLABS,
    TERRAIN,
    TILES,
    UNLABELLED,
    UNSEEN,
    VEGETATION,
    WALL,
    Colour,
    Dice,
    World,
    shade,
)

FACADES: tuple[Colour, ...] = (
    (0.72, 0.66, 0.55),
    (0.66, 0.62, 0.58),
    (0.78, 0.75, 0.70),
    (0.58, 0.42, 0.34),
    (0.50, 0.33, 0.27),
    (0.62, 0.58, 0.46),
    (0.52, 0.53, 0.54),
    (0.70, 0.55, 0.42),
    (0.45, 0.44, 0.42),
    (0.74, 0.68, 0.48),
    (0.60, 0.64, 0.66),
)
ROOFS: tuple[Colour, ...] = ((0.42, 0.22, 0.17), (0.28, 0.27, 0.28), (0.36, 0.28, 0.23))


def add_lots(world: World, dice: Dice, street: Street) -> None:
    """Fill both sides from beside the camera to the far end."""
    _backdrop(world, dice, street)
    for side in street.sides:
        z = dice.between(-9, 0)
        while z < 170:
            length = dice.between(8, 24)
            if street.junction and z < street.junction[1] and z + length > street.junction[0]:
                if street.junction[0] - z > 4:
                    length = street.junction[0] - z - dice.between(0.5, 3)
                else:
                    z = street.junction[1] + dice.between(0.5, 3)
                    continue
            _lot(world, dice, street, side, z, z + length)
            z += length


def _lot(world: World, dice: Dice, street: Street, side: Side, z0: float, z1: float) -> None:
    kind = dice.weighted(street.style.lots)
    s, front = side.sign, side.front
    key = world.key
    world.key = 5e5 - z0
    if kind != "house" or street.style.name != "city":
        label, material = (TERRAIN, GRASS) if dice.chance(0.55) else (SIDEWALK, SLABS)
        soil: Colour = (0.33, 0.35, 0.18) if label == TERRAIN else (0.50, 0.47, 0.43)
        soil = dice.tint(soil, 0.25)
        a, b = max(z0, 0.8), max(z1, 0.9)
        points = [(s * side.pavement[1], 0.12, a), (s * (front + 12), 0.12, a)]
        points += [(s * (front + 12), 0.12, b), (s * side.pavement[1], 0.12, b)]
        world.face(points, label, soil, material)
    world.key = key
    if kind == "house":
        add_house(world, dice, street, s, front, z0, z1)
        if front - side.pavement[1] > 1.5 and dice.chance(0.6):
            edge = side.pavement[1] + 0.1
            _border(world, dice, s, edge, z0, z1, dice.pick(("wall", "fence", "hedge")), low=True)
        return
    edge = side.pavement[1] + 0.2
    if kind != "open":
        _border(world, dice, s, edge, z0, z1, kind, low=False)
    for _ in range(dice.whole(1, 3)):
        x, z = s * (edge + dice.between(3, 11)), dice.between(z0, z1)
        add_tree(world, dice, x, z, dice.between(5, 12))


def _border(
    world: World, dice: Dice, s: int, x: float, z0: float, z1: float, kind: str, *, low: bool
) -> None:
    world.key = max(z1, 0.5)
    if kind == "hedge":
        add_bush_row(world, dice, s * (x + 0.4), z0, z1, dice.between(0.8, 1.3 if low else 2.2))
    elif kind == "wall":
        height = dice.between(0.5, 1.1) if low else dice.between(1.3, 3.2)
        colour = dice.tint(dice.pick(FACADES), 0.3)
        material = BRICK if dice.chance(0.6) else SLABS
        world.box((s * x, s * (x + 0.3)), (0, height), (z0, z1), WALL, colour, material)
        world.shadows.append((_foot(s * x, s * (x + 0.3), z0, z1), height))
    else:
        _fence(
            world, dice, s * x, z0, z1, dice.between(0.8, 1.2) if low else dice.between(1.3, 2.4)
        )


def _fence(world: World, dice: Dice, x: float, z0: float, z1: float, height: float) -> None:
    colour = dice.tint(
        dice.pick(((0.20, 0.22, 0.20), (0.45, 0.34, 0.22), (0.55, 0.55, 0.53), (0.75, 0.74, 0.7))),
        0.3,
    )
    z0 = max(z0, 0.4)
    if z1 <= z0:
        return

    def panel(a: float, b: float, low: float, high: float, label: int, material: int) -> None:
        points = [(x, low, a), (x, low, b), (x, high, b), (x, high, a)]
        world.face(points, label, colour, material)

    if dice.chance(0.35):
        panel(z0, z1, 0.05, height, FENCE, BRICK)
        return
    panel(z0, z1, 0.0, height, FENCE, UNSEEN)
    gap, bar = dice.pick(((0.14, 0.035), (0.20, 0.11), (0.30, 0.05)))
    z = z0
    while z < min(z1, 45):
        panel(z, z + bar, 0.0, height, UNLABELLED, FLAT)
        z += gap * (1 if z < 16 else 2)
    if z < z1:
        panel(z, z1, 0.0, height, UNLABELLED, BRICK)
    for y in (0.12, height - 0.12):
        panel(z0, z1, y, y + 0.06, UNLABELLED, FLAT)


def _foot(x0: float, x1: float, z0: float, z1: float) -> list[tuple[float, float]]:
    return [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]


def add_house(
    world: World, dice: Dice, street: Street, s: int, front: float, z0: float, z1: float
) -> None:
    """A building whose facade faces the street, with the gable end that the camera sees."""
    world.key = max(z1, 0.5)
    storeys = dice.whole(*street.style.storeys)
    storey, bay = dice.between(2.9, 3.6), dice.between(1.7, 3.6)
    depth = dice.between(9, 15)
    colour = dice.tint(dice.pick(FACADES), 0.22)
    shop = street.style.name == "city" and dice.chance(0.55)
    parameters = (
        storey,
        bay,
        dice.between(0.35, 0.78),
        dice.between(0.42, 0.72),
        dice.between(0, 1000),
        (1.0 if shop else 0.0) + (2.0 if dice.chance(0.4) else 0.0),
    )
    height = storeys * storey + dice.between(0.2, 0.9)
    detached = street.style.name != "city" and dice.chance(0.8)
    if detached:
        gap = dice.between(1.0, 3.5)
        z0, z1 = z0 + gap, max(z1 - gap * dice.unit(), z0 + gap + 5)
    near, far = s * front, s * (front + depth)
    pitched = storeys <= 4 and dice.chance(0.75)
    middle = ((near + far) / 2, height / 2, (z0 + z1) / 2)
    facade = [(near, 0.0, z0), (near, 0.0, z1), (near, height, z1), (near, height, z0)]
    end = [(near, 0.0, z0), (far, 0.0, z0), (far, height, z0), (near, height, z0)]
    side = dice.tint(colour, 0.15)
    windows = parameters if dice.chance(0.5) else (storey, 90.0, 0.02, 0.02, 0.0, 0.0)
    world.face(end, BUILDING, side, FACADE, middle, windows)
    if pitched:
        _gable_roof(world, dice, near, far, height, z0, z1, side)
    world.face(facade, BUILDING, colour, FACADE, middle, parameters)
    if not pitched or dice.chance(0.5):
        trim = shade(colour, dice.pick((0.7, 1.2)))
        eave = near - s * 0.25
        points = [(eave, height - 0.3, z0), (eave, height - 0.3, z1)]
        points += [(eave, height + 0.1, z1), (eave, height + 0.1, z0)]
        world.face(points, BUILDING, trim)
    if shop:
        _awnings(world, dice, near, s, z0, z1)
    world.shadows.append((_foot(near, far, z0, z1), height + (2.0 if pitched else 0.0)))


def _gable_roof(
    world: World,
    dice: Dice,
    near: float,
    far: float,
    height: float,
    z0: float,
    z1: float,
    wall: Colour,
) -> None:
    roof = dice.tint(dice.pick(ROOFS), 0.25)
    ridge = height + dice.between(2.2, 4.0)
    middle = (near + far) / 2
    if dice.chance(0.65):
        gable = [(near, height, z0), (far, height, z0), (middle, ridge, z0)]
        world.face(gable, BUILDING, wall, BRICK)
        slope = [(near, height, z0), (near, height, z1), (middle, ridge, z1), (middle, ridge, z0)]
        world.face(slope, BUILDING, roof, TILES)
    else:
        along = (z0 + z1) / 2
        gable = [(near, height, z0), (near, height, z1), (near, ridge, along)]
        slope = [(near, height, z0), (near, ridge, along), (far, ridge, along), (far, height, z0)]
        world.face(slope, BUILDING, roof, TILES)
        world.face(gable, BUILDING, wall, BRICK)
    if dice.chance(0.5):
        z = dice.between(z0 + 1, z1 - 1)
        top = ridge + dice.between(0.4, 1.0)
        chimney = dice.tint((0.4, 0.27, 0.22), 0.3)
        world.upright(middle - 0.35, middle + 0.35, height + 1, top, z, BUILDING, chimney, BRICK)


def _awnings(world: World, dice: Dice, near: float, s: int, z0: float, z1: float) -> None:
    z = z0 + dice.between(0.5, 2)
    while z + 3 < z1:
        wide = dice.between(2, 4)
        if dice.chance(0.35) and z > 1:
            colour: Colour = (dice.unit(), dice.unit() * 0.8, dice.unit() * 0.8)
            out = near - s * dice.between(0.7, 1.3)
            points = [(near, 3.0, z), (near, 3.0, z + wide), (out, 2.5, z + wide), (out, 2.5, z)]
            world.face(points, BUILDING, colour)
        elif dice.chance(0.35) and z > 1:
            colour = (dice.unit(), dice.unit(), dice.unit())
            out = near - s * 0.12
            points = [(out, 2.8, z), (out, 2.8, z + wide), (out, 3.4, z + wide), (out, 3.4, z)]
            world.face(points, BUILDING, colour, BRICK)
        z += wide + dice.between(0.4, 3)


def _backdrop(world: World, dice: Dice, street: Street) -> None:
    """The end of the street and the second row, seen through the gaps."""
    built = {"city": 0.8, "suburb": 0.4, "arterial": 0.5, "park": 0.1}[street.style.name]
    x = -170.0
    while x < 170:
        wide = dice.between(9, 26)
        world.key = FAR - 10
        if dice.chance(built):
            _block(world, dice, x, x + wide, dice.between(7, 20), FAR - 10)
        else:
            colour = dice.tint((0.24, 0.31, 0.15), 0.3)
            high = dice.between(4, 13)
            world.blob(
                x + wide / 2, high * 0.4, FAR - 10, wide * 0.75, high, dice, VEGETATION, colour
            )
        x += wide * 0.85
    for side in street.sides:
        z = 180.0
        while z > 8:
            x0 = side.sign * (side.front + dice.between(17, 30))
            world.key = z
            if dice.chance(built):
                x1 = x0 + side.sign * dice.between(10, 20)
                _block(world, dice, min(x0, x1), max(x0, x1), dice.between(6, 17), z)
            else:
                add_tree(world, dice, x0, z, dice.between(7, 13))
            z -= dice.between(9, 22)


def _block(world: World, dice: Dice, x0: float, x1: float, height: float, z: float) -> None:
    colour = dice.tint(dice.pick(FACADES), 0.2)
    parameters = (3.1, dice.between(2, 3.5), 0.5, 0.55, dice.between(0, 1000), 0.0)
    points = [(x0, 0.0, z), (x1, 0.0, z), (x1, height, z), (x0, height, z)]
    world.face(points, BUILDING, colour, FACADE, parameters=parameters)
    if dice.chance(0.6):
        roof = dice.tint(dice.pick(ROOFS), 0.2)
        top = height + dice.between(2, 4)
        inset = dice.between(0, 3)
        points = [(x0, height, z), (x1, height, z), (x1 - inset, top, z), (x0 + inset, top, z)]
        world.face(points, BUILDING, roof, TILES)
