"""Trucks, buses and trams."""

from __future__ import annotations

import math

from edgeseg.streets.body import GREYS, WINDOW, Body, Pose, stand_on
from edgeseg.streets.world import BUS, GLASS, GLOW, TRAIN, TRUCK, Colour, Dice, World, shade

LIVERIES: tuple[Colour, ...] = (
    (0.75, 0.12, 0.10),
    (0.78, 0.62, 0.10),
    (0.80, 0.80, 0.78),
    (0.12, 0.30, 0.55),
    (0.15, 0.42, 0.28),
    (0.85, 0.45, 0.10),
)
CAB = 1.7
"""Metres from the nose of a truck to the back of its cab."""


def nearest(pose: Pose, long: float) -> float:
    """The painting key of a long vehicle: what stands beside it, further out, comes before it."""
    return max(pose.z - 0.9 * long, 1.0)


def add_truck(world: World, dice: Dice, pose: Pose, lit: bool) -> None:
    """A lorry: a cab and a load that is a box, a tank or an open bed."""
    long, half = dice.between(3.2, 5.2), dice.between(1.1, 1.25)
    world.key = nearest(pose, long)
    top = dice.between(2.6, 3.8)
    cab, load = (
        dice.tint(dice.pick(GREYS + LIVERIES), 0.2),
        dice.tint(dice.pick(GREYS + LIVERIES), 0.2),
    )
    body = Body(world, pose, TRUCK)
    stand_on(world, pose, long, half, top)
    body.floor((-long * 0.92, long * 0.92), half, 0.95)
    cab_top = min(top, dice.between(2.4, 3.0))

    if math.cos(pose.heading) > 0:
        _cab(body, cab, long, half, cab_top)
        _load(body, dice, load, long, half, top)
    else:
        _load(body, dice, load, long, half, top)
        _cab(body, cab, long, half, cab_top)
    body.wheels((-long * 0.75, -long * 0.5, long - 1.0), half, 0.48)
    body.lamps(long, half, (0.75, 0.92), (0.6, 0.8), lit)


def _cab(body: Body, paint: Colour, long: float, half: float, top: float) -> None:
    split = long - CAB
    body.extrude(
        [(split, 0.5), (split, top), (long - 0.25, top), (long, 1.5), (long, 0.4)],
        half * 0.97,
        paint,
    )
    quad = [(split + 0.4, 1.5), (long - 0.15, 1.5), (long - 0.3, 2.2), (split + 0.4, 2.2)]
    body.side(quad, half * 0.98, WINDOW, GLASS)
    body.end(long + 0.01, (-half * 0.85, half * 0.85), (1.5, 2.25), WINDOW, GLASS)
    body.end(long + 0.01, (-half * 0.6, half * 0.6), (0.8, 1.2), (0.08, 0.08, 0.08))


def _load(body: Body, dice: Dice, paint: Colour, long: float, half: float, top: float) -> None:
    split = long - CAB
    bed = top if dice.chance(0.75) else 1.6
    box = [(-long, 0.8), (-long, bed), (split - 0.1, bed), (split - 0.1, 0.8)]
    body.extrude(box, half, paint)
    if bed == top and dice.chance(0.6):
        stripe = dice.tint(dice.pick(LIVERIES), 0.2)
        a, b, low, high = -long * 0.8, split * 0.7, top * 0.55, top * 0.8
        body.side([(a, low), (b, low), (b, high), (a, high)], half + 0.01, stripe)
    body.end(-long - 0.01, (-0.02, 0.02), (0.9, bed), shade(paint, 0.5))


def add_bus(world: World, dice: Dice, pose: Pose, lit: bool) -> None:
    """A city bus, now and then with two decks."""
    double = dice.chance(0.15)
    long, half, top = dice.between(4.6, 6.2), 1.27, 4.2 if double else dice.between(2.9, 3.2)
    world.key = nearest(pose, long)
    paint = dice.tint(dice.pick(LIVERIES), 0.25)
    body = Body(world, pose, BUS)
    stand_on(world, pose, long, half, top)
    _carriage(body, dice, long, half, top, paint, decks=2 if double else 1)
    body.wheels((-long * 0.55, long * 0.6), half, 0.48)
    body.lamps(long, half, (0.8, 1.1), (0.6, 0.8), lit)


def add_tram(world: World, dice: Dice, pose: Pose) -> None:
    """Two to four cars of a tram on their rails; Cityscapes calls it a train."""
    paint = dice.tint(dice.pick(LIVERIES), 0.3)
    cars, long = dice.whole(2, 4), dice.between(4.0, 6.0)
    middles = [(i - (cars - 1) / 2) * (2 * long + 0.5) for i in range(cars)]
    for middle in sorted(middles, key=lambda a: -pose.at(a, 0, 0)[2]):
        x, _, z = pose.at(middle, 0, 0)
        if z < -long:
            continue
        part = Pose(x, z, pose.heading)
        body = Body(world, part, TRAIN)
        stand_on(world, part, long, 1.25, 3.4)
        world.key = nearest(part, long)
        roof = [(-long * 0.6, 3.4), (-long * 0.6, 3.75), (long * 0.5, 3.75), (long * 0.5, 3.4)]
        body.extrude(roof, 0.8, (0.45, 0.45, 0.46))
        _carriage(body, dice, long, 1.22, 3.4, paint, decks=1)


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
