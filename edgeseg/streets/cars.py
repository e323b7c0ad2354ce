"""Cars and vans."""

from __future__ import annotations

import math

from edgeseg.streets.body import GREYS, WINDOW, Body, Pose, Profile, stand_on
from edgeseg.streets.world import CAR, FLAT, GLASS, GLOW, Colour, Dice, World, shade

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
    stand_on(world, pose, long, half, roof)
    body.floor((-long * 0.78, long * 0.78), half, 0.42 + lift)
    _car_shape(body, kind, paint, (long, half, lift), (belt, roof))
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


def _car_shape(
    body: Body,
    kind: str,
    paint: Colour,
    size: tuple[float, float, float],
    heights: tuple[float, float],
) -> None:
    """The lower body and the cabin; `size` is half length, half width and ground clearance."""
    (long, half, lift), (belt, roof) = size, heights
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
