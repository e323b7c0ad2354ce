"""The street itself: lanes, pavements, verges, markings, and the lots along both sides."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from edgeseg.streets.world import (
    ASPHALT,
    GRASS,
    PAINT,
    ROAD,
    SIDEWALK,
    SLABS,
    TERRAIN,
    Colour,
    Dice,
    World,
    shade,
)

FAR = 250.0
STEPS = (0.8, 2.5, 4.5, 7, 11, 16, 24, 35, 50, 70, 100, 145, FAR)
GROUND_KEY = 1e6
CURB = 0.12

# fmt: off
STYLES = {
    # style:     share, storeys, houses, walls, fences, hedges, open, people, trees
    "city":     (0.42, (3, 7),   0.86,   0.03,  0.02,   0.02,   0.05,  1.3,    0.6),
    "suburb":   (0.28, (1, 3),   0.55,   0.09,  0.12,   0.15,   0.08,  0.5,    1.1),
    "arterial": (0.16, (2, 6),   0.36,   0.18,  0.14,   0.12,   0.20,  0.3,    1.0),
    "park":     (0.14, (2, 4),   0.20,   0.10,  0.16,   0.22,   0.28,  0.6,    1.7),
}
# fmt: on


@dataclass(frozen=True)
class Style:
    """What a kind of neighbourhood has along its streets."""

    name: str
    storeys: tuple[int, int]
    lots: dict[str, float]
    people: float
    trees: float


@dataclass(frozen=True)
class Side:
    """One side of the street; distances are metres from the middle of the ego lane, outwards."""

    sign: int
    edge: float
    parking: bool
    verge: float
    pavement: tuple[float, float]
    front: float


@dataclass
class Street:
    """The cross-section, the junction, and what the other parts of the scene must know of it."""

    style: Style
    sides: tuple[Side, Side]
    lanes: list[tuple[float, int]]
    lane_width: float
    junction: tuple[float, float] | None
    zebra: float | None
    tram: float | None
    lot_colours: list[Colour] = field(default_factory=list)

    def open_at(self, z: float) -> bool:
        """Whether the junction crosses the pavements at z."""
        return self.junction is not None and self.junction[0] - 1 < z < self.junction[1] + 1


def choose_style(dice: Dice) -> Style:
    """One of the neighbourhoods, by their share."""
    name = dice.weighted({name: row[0] for name, row in STYLES.items()})
    _, storeys, house, wall, fence, hedge, free, people, trees = STYLES[name]
    lots = {"house": house, "wall": wall, "fence": fence, "hedge": hedge, "open": free}
    return Style(name, storeys, lots, people, trees)


def plan_street(dice: Dice) -> Street:
    """Choose lanes, pavements and junction of one street."""
    style = choose_style(dice)
    width = dice.between(2.9, 3.6)
    same, opposite = dice.weighted({(1, 1): 5, (2, 1): 1, (2, 2): 2, (1, 0): 1, (2, 0): 0.7})
    ego = dice.whole(0, same - 1)
    lanes = [((i - ego) * width, 1) for i in range(same)]
    tram = None
    left = lanes[0][0] - width / 2
    if opposite and style.name in ("city", "arterial") and dice.chance(0.28):
        tram = left - 1.9
        left -= 3.8
    lanes += [(left - (i + 0.5) * width, -1) for i in range(opposite)]
    left -= opposite * width
    right = lanes[same - 1][0] + width / 2
    junction = None
    if dice.chance(0.4):
        start = dice.between(13, 60)
        junction = (start, start + dice.between(6, 11))
    zebra = junction[0] - 4.2 if junction and dice.chance(0.5) else None
    if zebra is None and dice.chance(0.1):
        zebra = dice.between(10, 35)
    sides = (_plan_side(dice, style, -1, -left), _plan_side(dice, style, 1, right))
    return Street(style, sides, lanes, width, junction, zebra, tram)


def _plan_side(dice: Dice, style: Style, sign: int, edge: float) -> Side:
    parking = dice.chance(0.25 if style.name == "arterial" else 0.5)
    outer = edge + (2.1 if parking else 0.35)
    verge = dice.between(0.8, 3.0) if dice.chance(0.15 if style.name == "city" else 0.4) else 0.0
    inner = outer + verge
    pavement = (inner, inner + dice.between(1.7, 5.5 if style.name == "city" else 3.4))
    setback = 0.0 if style.name == "city" and dice.chance(0.8) else dice.between(0.5, 6)
    return Side(sign, outer, parking, verge, pavement, pavement[1] + setback)


def pave_street(world: World, dice: Dice, street: Street) -> None:
    """Add the ground: fields, road, cross road, verges, kerbs, pavements, markings."""
    world.key = GROUND_KEY + 9
    grass = dice.tint(dice.pick(((0.30, 0.36, 0.16), (0.36, 0.36, 0.2), (0.26, 0.33, 0.14))), 0.25)
    _strip(world, -400, 400, TERRAIN, grass, GRASS)
    asphalt = dice.tint(shade((0.36, 0.36, 0.37), dice.between(0.75, 1.25)), 0.12)
    left, right = street.sides
    world.key -= 1
    slabs = dice.tint(dice.pick(((0.50, 0.48, 0.46), (0.44, 0.43, 0.42), (0.52, 0.45, 0.40))), 0.25)
    for side in street.sides:
        if street.style.name == "city":
            paved = dice.tint(slabs, 0.1)
            _strip(world, side.sign * side.edge, side.sign * 60, SIDEWALK, paved, SLABS)
    world.key -= 1
    _strip(world, -left.edge, right.edge, ROAD, asphalt, ASPHALT)
    for side in street.sides:
        if side.parking and dice.chance(0.4):
            bay = dice.tint(dice.pick((asphalt, slabs)), 0.2)
            outer, inner = side.sign * side.edge, side.sign * (side.edge - 2.0)
            _strip(world, inner, outer, ROAD, bay, SLABS)
    _patches(world, dice, street, asphalt)
    for side in street.sides:
        _pave_side(world, dice, street, side, slabs, grass)
    if street.junction:
        world.key = GROUND_KEY
        z0, z1 = street.junction
        crossing = dice.tint(asphalt, 0.06)
        for side in street.sides:
            inner, outer = side.sign * side.edge, side.sign * 90.0
            _quad(world, inner, outer, z0, z1, 0.0, ROAD, crossing, ASPHALT)
    world.key = GROUND_KEY - 1
    _markings(world, dice, street)


def _pave_side(
    world: World, dice: Dice, street: Street, side: Side, slabs: Colour, grass: Colour
) -> None:
    world.key = GROUND_KEY + 4
    slabs = dice.tint(slabs, 0.12)
    kerb = dice.tint((0.56, 0.55, 0.53), 0.2)
    s = side.sign
    pieces = [(STEPS[0], FAR)]
    if street.junction:
        pieces = [(STEPS[0], street.junction[0]), (street.junction[1], FAR)]
    material = dice.weighted({SLABS: 0.7, ASPHALT: 0.3})
    for z0, z1 in pieces:
        for a, b in _cut(z0, z1):
            points = [
                (s * side.edge, 0.0, a),
                (s * side.edge, 0.0, b),
                (s * side.edge, CURB, b),
                (s * side.edge, CURB, a),
            ]
            world.face(points, SIDEWALK, kerb)
        _strip(world, s * side.edge, s * (side.edge + 0.18), SIDEWALK, kerb, PAINT, CURB, z0, z1)
        inner = side.edge + 0.18
        if side.verge:
            outer = side.pavement[0]
            strip = dice.tint(grass, 0.15)
            _strip(world, s * inner, s * outer, TERRAIN, strip, GRASS, CURB, z0, z1)
            inner = outer
        _strip(world, s * inner, s * side.pavement[1], SIDEWALK, slabs, material, CURB, z0, z1)


def _cut(z0: float, z1: float) -> list[tuple[float, float]]:
    stops = [z0, *(z for z in STEPS if z0 + 0.1 < z < z1 - 0.1), z1]
    return list(itertools.pairwise(stops))


def _strip(
    world: World,
    x0: float,
    x1: float,
    label: int,
    colour: Colour,
    material: int,
    y: float = 0.0,
    z0: float = STEPS[0],
    z1: float = FAR,
) -> None:
    for a, b in _cut(z0, z1):
        _quad(world, x0, x1, a, b, y, label, colour, material)


def _quad(
    world: World,
    x0: float,
    x1: float,
    z0: float,
    z1: float,
    y: float,
    label: int,
    colour: Colour,
    material: int,
) -> None:
    points = [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]
    world.face(points, label, colour, material)


def _patches(world: World, dice: Dice, street: Street, asphalt: Colour) -> None:
    """Repairs, manholes, oil and tar: what makes asphalt look used."""
    world.key -= 1
    left, right = -street.sides[0].edge, street.sides[1].edge
    for _ in range(dice.whole(1, 7)):
        x, z = dice.between(left, right - 1), 3 + 45 * dice.unit() ** 2
        wide, long = dice.between(0.4, 2.2), dice.between(0.5, 9)
        x1 = min(x + wide, right)
        _quad(world, x, x1, z, z + long, 0, ROAD, dice.tint(asphalt, 0.3), ASPHALT)
    for _ in range(dice.whole(0, 3)):
        x, z = dice.between(left + 0.5, right - 0.5), 4 + 30 * dice.unit() ** 2
        circle = [
            (x + 0.33 * math.cos(k * 0.628), 0.0, z + 0.33 * math.sin(k * 0.628)) for k in range(10)
        ]
        world.face(circle, ROAD, dice.tint((0.24, 0.23, 0.22), 0.3), PAINT)
    for _ in range(dice.whole(0, 5)):
        x, z, dark = dice.between(left, right), dice.between(3, 40), dice.tint(asphalt, 0.1)
        dark = (dark[0] * 0.6, dark[1] * 0.6, dark[2] * 0.6)
        for _ in range(dice.whole(3, 8)):
            x1, z1 = x + dice.between(-0.35, 0.35), z + dice.between(0.3, 1.6)
            points = [(x, 0.0, z), (x + 0.05, 0.0, z), (x1 + 0.05, 0.0, z1), (x1, 0.0, z1)]
            world.face(points, ROAD, dark, PAINT)
            x, z = x1, z1


def _markings(world: World, dice: Dice, street: Street) -> None:
    white = dice.tint((0.80, 0.80, 0.78), 0.18)
    wear = dice.between(0.0, 0.45)
    paint: Colour = (
        white[0] * (1 - wear) + 0.36 * wear,
        white[1] * (1 - wear) + 0.36 * wear,
        white[2] * (1 - wear) + 0.36 * wear,
    )
    yellow: Colour = (paint[0], paint[1] * 0.82, paint[2] * 0.35)
    half = street.lane_width / 2
    ordered = sorted(street.lanes)
    for (a, way), (b, other) in itertools.pairwise(ordered):
        solid = way != other and dice.chance(0.4)
        colour = yellow if way != other and dice.chance(0.25) else paint
        for x in {a + half, b - half}:
            _line(world, street, x, colour, solid, dice)
    for side in street.sides:
        x = side.sign * (side.edge - (2.1 if side.parking else 0.3))
        if dice.chance(0.5):
            _line(world, street, x, paint, solid=not side.parking or dice.chance(0.5), dice=dice)
    if street.tram is not None:
        for x in (street.tram - 0.75, street.tram + 0.68):
            _strip(world, x, x + 0.07, ROAD, (0.42, 0.41, 0.40), PAINT)
    if street.zebra is not None:
        x = -street.sides[0].edge + 0.3
        while x < street.sides[1].edge - 0.4:
            _quad(world, x, x + 0.5, street.zebra, street.zebra + 3, 0, ROAD, paint, PAINT)
            x += 1.0
    if street.junction and dice.chance(0.6):
        stop = (street.zebra or street.junction[0]) - 1.6
        x0, x1 = -half, max(x for x, way in street.lanes if way > 0) + half
        _quad(world, x0, x1, stop, stop + 0.45, 0, ROAD, paint, PAINT)
    if dice.chance(0.25):
        _arrow(world, dice.between(6, 14), paint)


def _line(world: World, street: Street, x: float, colour: Colour, solid: bool, dice: Dice) -> None:
    wide = dice.between(0.1, 0.16)
    period, length = (10.0, 10.1) if solid else dice.pick(((9.0, 3.0), (6.0, 3.0), (12.0, 6.0)))
    z = dice.between(-4, 2)
    while z < 110:
        a, b = max(z, STEPS[0]), z + length
        if b > a and not (street.open_at(a) or street.open_at(b)):
            _quad(world, x - wide / 2, x + wide / 2, a, b, 0, ROAD, colour, PAINT)
        z += period


def _arrow(world: World, z: float, paint: Colour) -> None:
    _quad(world, -0.08, 0.08, z, z + 2.4, 0, ROAD, paint, PAINT)
    head = [(-0.35, 0.0, z + 2.4), (0.35, 0.0, z + 2.4), (0.0, 0.0, z + 3.9)]
    world.face(head, ROAD, paint, PAINT)
