"""Cars, vans, trucks, buses and trams as bodies of a side profile drawn out over their width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.streets.world import (
    BUS,
    CAR,
    FLAT,
    GLASS,
    GLOW,
    METAL,
    TRAIN,
    TRUCK,
    Colour,
    Dice,
    Point,
    World,
    shade,
)

Profile = Sequence[tuple[float, float]]
"""(along, up) in metres, along forward."""

GREYS: tuple[Colour, ...] = (
    (0.05, 0.05, 0.06),
    (0.10, 0.10, 0.11),
    (0.20, 0.21, 0.22),
    (0.34, 0.35, 0.37),
    (0.52, 0.53, 0.55),
    (0.66, 0.66, 0.66),
    (0.82, 0.82, 0.81),
)
PAINTS: tuple[Colour, ...] = (
    (0.09, 0.13, 0.26),
    (0.13, 0.22, 0.42),
    (0.42, 0.07, 0.07),
    (0.55, 0.10, 0.09),
    (0.18, 0.26, 0.20),
    (0.45, 0.38, 0.29),
    (0.33, 0.25, 0.20),
    (0.58, 0.44, 0.16),
    (0.35, 0.47, 0.55),
)
LIVERIES: tuple[Colour, ...] = (
    (0.75, 0.12, 0.10),
    (0.78, 0.62, 0.10),
    (0.80, 0.80, 0.78),
    (0.12, 0.30, 0.55),
    (0.15, 0.42, 0.28),
    (0.85, 0.45, 0.10),
)
RUBBER: Colour = (0.06, 0.06, 0.06)
WINDOW: Colour = (0.10, 0.12, 0.14)


@dataclass(frozen=True)
class Pose:
    """Where a vehicle stands, and the way it points: heading 0 is along the street, as we go."""

    x: float
    z: float
    heading: float

    def at(self, along: float, across: float, up: float) -> Point:
        """From the vehicle's own axes to the street's."""
        s, c = math.sin(self.heading), math.cos(self.heading)
        return (self.x + along * s + across * c, up, self.z + along * c - across * s)


class Body:
    """Adds the parts of one vehicle to the world, hidden faces left out by the renderer."""

    def __init__(self, world: World, pose: Pose, label: int) -> None:
        self.world, self.pose, self.label = world, pose, label
        self.centre = pose.at(0, 0, 0.8)

    def extrude(
        self,
        profile: Profile,
        half: float,
        colour: Colour,
        *,
        taper: float = 1.0,
        glass: Sequence[int] = (),
        material: int = METAL,
    ) -> None:
        """A convex profile over a width of 2 * half; the top is `taper` times as wide."""
        low, high = min(y for _, y in profile), max(y for _, y in profile)
        middle = sum(a for a, _ in profile) / len(profile)
        self.centre = self.pose.at(middle, 0, (low + high) / 2)
        span = max(high - low, 1e-3)
        wide = [half * (1 + (taper - 1) * (y - low) / span) for _, y in profile]
        count = len(profile)
        for i in range(count):
            j = (i + 1) % count
            (a0, y0), (a1, y1) = profile[i], profile[j]
            points = [
                self.pose.at(a0, -wide[i], y0),
                self.pose.at(a0, wide[i], y0),
                self.pose.at(a1, wide[j], y1),
                self.pose.at(a1, -wide[j], y1),
            ]
            if i in glass:
                self._face(points, WINDOW, GLASS)
            else:
                self._face(points, colour, material)
        for sign in (-1, 1):
            points = [self.pose.at(a, sign * w, y) for (a, y), w in zip(profile, wide, strict=True)]
            self._face(points, colour, material)

    def side(self, profile: Profile, half: float, colour: Colour, material: int = FLAT) -> None:
        """A flat patch on both sides, at `half` from the middle."""
        for sign in (-1, 1):
            self._face([self.pose.at(a, sign * half, y) for a, y in profile], colour, material)

    def end(
        self,
        along: float,
        across: tuple[float, float],
        up: tuple[float, float],
        colour: Colour,
        material: int = FLAT,
    ) -> None:
        """A flat patch on the front (along > 0) or back."""
        (b0, b1), (y0, y1) = across, up
        corners = ((b0, y0), (b1, y0), (b1, y1), (b0, y1))
        self._face([self.pose.at(along, b, y) for b, y in corners], colour, material)

    def wheels(self, axles: Sequence[float], half: float, radius: float) -> None:
        """Wheels at both sides of each axle, and the dark floor between them."""
        self.centre = self.pose.at(0, 0, 0.6)
        for along in axles:
            for size, colour in ((radius, RUBBER), (radius * 0.6, (0.38, 0.38, 0.39))):
                rim = [
                    (along + size * math.cos(k * 0.628), radius + size * math.sin(k * 0.628))
                    for k in range(10)
                ]
                self.side(rim, half + 0.01 * (size == radius), colour)

    def floor(self, ends: tuple[float, float], half: float, height: float) -> None:
        """The dark space under the body, and tyres seen from the ends."""
        a, b = ends
        self.extrude(
            [(a, 0.16), (a, height), (b, height), (b, 0.16)],
            half * 0.94,
            (0.04,) * 3,
            material=FLAT,
        )
        self.centre = self.pose.at(0, 0, 0.6)
        for along in ends:
            for sign in (-1, 1):
                inner, outer = sorted((sign * (half - 0.24), sign * (half - 0.02)))
                self.end(along, (inner, outer), (0.0, height), RUBBER)

    def _face(self, points: Sequence[Point], colour: Colour, material: int) -> None:
        self.world.face(points, self.label, colour, material, self.centre)


def _ground(world: World, pose: Pose, long: float, half: float, height: float) -> None:
    corners = ((-long, -half), (-long, half), (long, half), (long, -half))
    foot = [pose.at(a, b, 0) for a, b in corners]
    ground = [(x, z) for x, _, z in foot]
    world.contacts.append(ground)
    world.shadows.append((ground, height))


def add_car(world: World, dice: Dice, pose: Pose, lit: bool) -> None:
    """A hatchback, saloon, estate or van."""
    world.key = pose.z
    kind = dice.weighted({"hatch": 0.36, "saloon": 0.26, "estate": 0.14, "suv": 0.16, "van": 0.08})
    paint = dice.tint(dice.pick(GREYS if dice.chance(0.68) else PAINTS), 0.25)
    long = {"hatch": 1.98, "saloon": 2.3, "estate": 2.3, "suv": 2.2, "van": 2.45}[kind]
    long *= dice.between(0.94, 1.05)
    half = dice.between(0.84, 0.93) + 0.05 * (kind in ("suv", "van"))
    lift = {"suv": 0.14, "van": 0.1}.get(kind, 0.0)
    roof = {"suv": 1.68, "van": 1.98}.get(kind, dice.between(1.40, 1.52))
    belt = {"suv": 1.05, "van": 1.15}.get(kind, 0.92)
    body = Body(world, pose, CAR)
    _ground(world, pose, long, half, roof)
    body.floor((-long * 0.78, long * 0.78), half, 0.42 + lift)
    bonnet = belt - 0.12
    nose = 0.52 if kind != "van" else 0.72
    body.extrude(
        [
            (-long, 0.3 + lift),
            (-long, 0.72 + lift),
            (-long * 0.97, belt),
            (long * nose, belt),
            (long * 0.93, bonnet),
            (long, 0.55 + lift),
            (long * 0.98, 0.25 + lift),
        ],
        half,
        paint,
        taper=0.95,
    )
    rear = {"hatch": 0.8, "saloon": 0.44, "estate": 0.9, "suv": 0.86, "van": 0.98}[kind]
    back = {"saloon": -long * 0.80}.get(kind, -long * 0.97)
    cabin = [
        (back, belt),
        (-long * rear, roof - 0.04),
        (-long * 0.1, roof),
        (long * 0.16, roof - 0.06),
    ]
    cabin.append((long * nose, belt))
    body.extrude(cabin, half * 0.94, paint, taper=0.8, glass=(0, 3))
    _car_windows(body, cabin, half * 0.94, belt, roof, long)
    for axle in (-long * 0.62, long * 0.64):
        arch = [
            (axle + 0.39 * math.cos(k * 0.524), 0.31 + 0.39 * math.sin(k * 0.524)) for k in range(7)
        ]
        body.side(arch, half, (0.03, 0.03, 0.03))
    if pose.z < 35:
        _car_sides(body, paint, half, belt, lift, long)
    body.wheels((-long * 0.62, long * 0.64), half, 0.31 + lift / 3)
    if pose.z < 60:
        _car_ends(body, dice, long, half, lift, lit)


def _car_windows(
    body: Body, cabin: Profile, half: float, belt: float, roof: float, long: float
) -> None:
    """Side windows inside the cabin's profile, parted by the middle pillar."""
    low, high = belt + 0.03, roof - 0.09
    (back, _), (rear, _), _, (front, _), (nose, _) = cabin

    def at(share: float, y: float) -> float:
        edge = (y - belt) / (roof - belt)
        a, b = back + (rear - back) * edge + 0.12, nose + (front - nose) * edge - 0.12
        return a + (b - a) * share

    wide = half * (1 - 0.2 * 0.5) + 0.005
    for a, b in ((0.0, 0.46), (0.5, 1.0)):
        quad = [(at(a, low), low), (at(b, low), low), (at(b, high), high), (at(a, high), high)]
        body.side(quad, wide, WINDOW, GLASS)


def _car_sides(
    body: Body, paint: Colour, half: float, belt: float, lift: float, long: float
) -> None:
    """Sill, door gaps and handles."""
    low = 0.27 + lift
    a, b = -long * 0.42, long * 0.44
    body.side([(a, low), (b, low), (b, low + 0.1), (a, low + 0.1)], half, (0.05, 0.05, 0.05))
    gap = shade(paint, 0.45)
    for along in (-long * 0.34, long * 0.06, long * 0.42):
        line = [
            (along, low),
            (along + 0.03, low),
            (along + 0.03, belt - 0.04),
            (along, belt - 0.04),
        ]
        body.side(line, half * 0.985, gap)
    for along in (-long * 0.28, long * 0.1):
        top = belt - 0.1
        grip = [(along, top), (along + 0.2, top), (along + 0.2, top + 0.04), (along, top + 0.04)]
        body.side(grip, half * 0.985, gap)
    mirror = long * 0.42
    for sign in (-1, 1):
        inner, outer = sorted((sign * half, sign * (half + 0.2)))
        for along in (mirror, mirror + 0.08):
            body.end(along, (inner, outer), (belt, belt + 0.15), shade(paint, 0.8))


def _car_ends(body: Body, dice: Dice, long: float, half: float, lift: float, lit: bool) -> None:
    back, front = -long - 0.01, long + 0.01
    red: Colour = (0.55, 0.05, 0.04)
    for sign in (-1, 1):
        outer, inner = sign * (half - 0.05), sign * (half - 0.33)
        span = (min(outer, inner), max(outer, inner))
        bright = lit or dice.chance(0.15)
        tail = (0.95, 0.12, 0.08) if bright else red
        body.end(back, span, (0.62 + lift, 0.80 + lift), tail, GLOW if bright else FLAT)
        lamp = (1.0, 0.97, 0.85) if lit else (0.72, 0.74, 0.76)
        body.end(front, span, (0.55 + lift, 0.70 + lift), lamp, GLOW if lit else FLAT)
    plate = dice.pick(((0.85, 0.85, 0.83), (0.85, 0.75, 0.2), (0.85, 0.85, 0.85)))
    body.end(back, (-0.26, 0.26), (0.48 + lift, 0.59 + lift), plate)
    body.end(back, (-half * 0.9, half * 0.9), (0.26 + lift, 0.40 + lift), (0.1, 0.1, 0.1))
    body.end(front, (-half * 0.5, half * 0.5), (0.50 + lift, 0.64 + lift), (0.07, 0.07, 0.07))
    body.end(front, (-0.26, 0.26), (0.38 + lift, 0.49 + lift), plate)


def add_truck(world: World, dice: Dice, pose: Pose, lit: bool) -> None:
    """A lorry: a cab and a load that is a box, a tank or an open bed."""
    world.key = pose.z
    long, half = dice.between(3.2, 5.2), dice.between(1.1, 1.25)
    top = dice.between(2.6, 3.8)
    cab, load = (
        dice.tint(dice.pick(GREYS + LIVERIES), 0.2),
        dice.tint(dice.pick(GREYS + LIVERIES), 0.2),
    )
    body = Body(world, pose, TRUCK)
    _ground(world, pose, long, half, top)
    body.floor((-long * 0.92, long * 0.92), half, 0.95)
    split = long - 1.7
    cab_top = min(top, dice.between(2.4, 3.0))

    def add_cab() -> None:
        body.extrude(
            [(split, 0.5), (split, cab_top), (long - 0.25, cab_top), (long, 1.5), (long, 0.4)],
            half * 0.97,
            cab,
        )
        quad = [(split + 0.4, 1.5), (long - 0.15, 1.5), (long - 0.3, 2.2), (split + 0.4, 2.2)]
        body.side(quad, half * 0.98, WINDOW, GLASS)
        body.end(long + 0.01, (-half * 0.85, half * 0.85), (1.5, 2.25), WINDOW, GLASS)
        body.end(long + 0.01, (-half * 0.6, half * 0.6), (0.8, 1.2), (0.08, 0.08, 0.08))

    def add_load() -> None:
        bed = top if dice.chance(0.75) else 1.6
        body.extrude(
            [(-long, 0.8), (-long, bed), (split - 0.1, bed), (split - 0.1, 0.8)], half, load
        )
        if bed == top and dice.chance(0.6):
            stripe = dice.tint(dice.pick(LIVERIES), 0.2)
            quad = [(-long * 0.8, top * 0.55), (split * 0.7, top * 0.55)]
            body.side(
                [*quad, (split * 0.7, top * 0.8), (-long * 0.8, top * 0.8)], half + 0.01, stripe
            )
        body.end(-long - 0.01, (-0.02, 0.02), (0.9, bed), shade(load, 0.5))

    parts = (add_cab, add_load)
    for part in parts if math.cos(pose.heading) > 0 else parts[::-1]:
        part()
    body.wheels((-long * 0.75, -long * 0.5, long - 1.0), half, 0.48)
    for sign in (-1, 1):
        span = tuple(sorted((sign * (half - 0.05), sign * (half - 0.3))))
        tail = (0.95, 0.12, 0.08) if lit else (0.5, 0.06, 0.05)
        body.end(-long - 0.02, (span[0], span[1]), (0.75, 0.92), tail, GLOW if lit else FLAT)
        lamp = (1.0, 0.97, 0.85) if lit else (0.7, 0.7, 0.7)
        body.end(long + 0.02, (span[0], span[1]), (0.6, 0.8), lamp, GLOW if lit else FLAT)


def add_bus(world: World, dice: Dice, pose: Pose, lit: bool) -> None:
    """A city bus, now and then with two decks."""
    world.key = pose.z
    double = dice.chance(0.15)
    long, half, top = dice.between(4.6, 6.2), 1.27, 4.2 if double else dice.between(2.9, 3.2)
    paint = dice.tint(dice.pick(LIVERIES), 0.25)
    body = Body(world, pose, BUS)
    _ground(world, pose, long, half, top)
    _carriage(body, dice, long, half, top, paint, decks=2 if double else 1)
    body.wheels((-long * 0.55, long * 0.6), half, 0.48)
    for sign in (-1, 1):
        span = sorted((sign * (half - 0.05), sign * (half - 0.3)))
        tail = (0.95, 0.12, 0.08) if lit else (0.5, 0.06, 0.05)
        body.end(-long - 0.02, (span[0], span[1]), (0.8, 1.1), tail, GLOW if lit else FLAT)
        lamp = (1.0, 0.97, 0.85) if lit else (0.75, 0.75, 0.75)
        body.end(long + 0.02, (span[0], span[1]), (0.6, 0.8), lamp, GLOW if lit else FLAT)


def add_tram(world: World, dice: Dice, pose: Pose) -> None:
    """Two to four cars of a tram on their rails; Cityscapes calls it a train."""
    world.key = pose.z
    paint = dice.tint(dice.pick(LIVERIES), 0.3)
    cars, long = dice.whole(2, 4), dice.between(4.0, 6.0)
    middles = [(i - (cars - 1) / 2) * (2 * long + 0.5) for i in range(cars)]
    for middle in sorted(middles, key=lambda a: -pose.at(a, 0, 0)[2]):
        x, _, z = pose.at(middle, 0, 0)
        if z < -long:
            continue
        part = Pose(x, z, pose.heading)
        body = Body(world, part, TRAIN)
        _ground(world, part, long, 1.25, 3.4)
        world.key = max(z, 1.0)
        _carriage(body, dice, long, 1.22, 3.4, paint, decks=1)
        roof = [(-long * 0.6, 3.4), (-long * 0.6, 3.75), (long * 0.5, 3.75), (long * 0.5, 3.4)]
        body.extrude(roof, 0.8, (0.45, 0.45, 0.46))


def _carriage(
    body: Body, dice: Dice, long: float, half: float, top: float, paint: Colour, decks: int
) -> None:
    """A long box with a band of windows, doors and a wide front window."""
    two = dice.chance(0.5)
    body.floor((-long * 0.9, long * 0.9), half, 0.5)
    slope = dice.between(0.05, 0.45)
    body.extrude(
        [(-long, 0.32), (-long, top), (long - slope, top), (long, 1.4), (long, 0.32)], half, paint
    )
    if two:
        other = dice.tint((0.8, 0.8, 0.78), 0.15)
        body.side([(-long, 0.35), (long, 0.35), (long, 1.0), (-long, 1.0)], half + 0.005, other)
    for deck in range(decks):
        low, high = 1.2 + 1.75 * deck, min(2.35 + 1.55 * deck, top - 0.25)
        panes = max(3, round(long / 0.8))
        for i in range(panes):
            a = -long + 0.25 + (2 * long - 0.6) * i / panes
            b = -long + 0.15 + (2 * long - 0.6) * (i + 1) / panes
            body.side([(a, low), (b, low), (b, high), (a, high)], half + 0.01, WINDOW, GLASS)
        body.end(-long - 0.01, (-half * 0.8, half * 0.8), (low + 0.2, high), WINDOW, GLASS)
        body.end(long + 0.01, (-half * 0.9, half * 0.9), (low - 0.1, high), WINDOW, GLASS)
    for along in (-long * 0.1, long * 0.82):
        door = [
            (along - 0.55, 0.45),
            (along + 0.55, 0.45),
            (along + 0.55, 2.4),
            (along - 0.55, 2.4),
        ]
        body.side(door, half + 0.015, shade(paint, 0.55), GLASS)
    sign = (0.95, 0.6, 0.1) if dice.chance(0.6) else (0.05, 0.05, 0.05)
    body.end(long + 0.02, (-half * 0.6, half * 0.6), (top - 0.38, top - 0.14), (0.04, 0.04, 0.04))
    body.end(long + 0.03, (-half * 0.5, half * 0.5), (top - 0.32, top - 0.2), sign, GLOW)
