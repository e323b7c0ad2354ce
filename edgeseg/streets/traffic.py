"""Who is on the street: vehicles in the lanes, parked cars, people, riders."""

from __future__ import annotations

import math

from edgeseg.streets.body import Pose
from edgeseg.streets.cars import add_car
from edgeseg.streets.layout import Side, Street
from edgeseg.streets.people import add_person, add_two_wheeler
from edgeseg.streets.vehicles import add_bus, add_tram, add_truck
from edgeseg.streets.world import Dice, World

KINDS = {"car": 0.82, "truck": 0.03, "bus": 0.03, "motorcycle": 0.05, "bicycle": 0.07}


def add_traffic(world: World, dice: Dice, street: Street, *, lit: bool) -> None:
    """Fill the lanes, the parking bays, the pavements and the crossing."""
    for lane, way in street.lanes:
        ego = abs(lane) < 0.1
        z: float = dice.between(9, 60) if ego else dice.between(1, 45)
        busy = dice.between(7, 45)
        while z < 130:
            _vehicle(world, dice, lane, way, z, lit)
            z += 6.5 + busy * dice.between(0.3, 1.7)
    if street.tram is not None and dice.chance(0.7):
        heading = dice.pick((0.0, math.pi))
        add_tram(world, dice, Pose(street.tram, dice.between(14, 60), heading))
    for side in street.sides:
        if side.parking:
            _park(world, dice, street, side, lit=False)
        _walkers(world, dice, street, side)
        _stands(world, dice, street, side)
    if street.zebra is not None:
        for _ in range(dice.weighted({0: 2, 1: 2, 2: 2, 4: 1})):
            x = dice.between(-street.sides[0].edge, street.sides[1].edge)
            add_person(world, dice, x, street.zebra + dice.between(0.4, 2.6))
    if street.junction and dice.chance(0.35):
        z = sum(street.junction) / 2
        x = dice.pick((-1, 1)) * dice.between(4, 14)
        _place(world, dice, "car", Pose(x, z, math.pi / 2 * dice.pick((-1, 1))), lit)


def _vehicle(world: World, dice: Dice, lane: float, way: int, z: float, lit: bool) -> None:
    kind = dice.weighted(KINDS)
    if kind in ("motorcycle", "bicycle"):
        x = lane + (0.9 * way if kind == "bicycle" else dice.between(-0.5, 0.5))
        across = dice.chance(0.2)
        add_two_wheeler(
            world, dice, x, max(z, 5), motor=kind == "motorcycle", ridden=True, across=across
        )
        return
    heading = (0.0 if way > 0 else math.pi) + dice.between(-0.03, 0.03)
    if dice.chance(0.06):
        heading += dice.between(-0.5, 0.5)
    if kind != "car":
        z += 4.5
    _place(world, dice, kind, Pose(lane + dice.between(-0.25, 0.25), z, heading), lit)


def _place(world: World, dice: Dice, kind: str, pose: Pose, lit: bool) -> None:
    add = {"car": add_car, "truck": add_truck, "bus": add_bus}[kind]
    add(world, dice, pose, lit)


def _park(world: World, dice: Dice, street: Street, side: Side, *, lit: bool) -> None:
    z, share = dice.between(-1, 9), dice.between(0.2, 0.9)
    way = 0.0 if side.sign > 0 or dice.chance(0.3) else math.pi
    while z < 110:
        kind = dice.weighted({"car": 0.95, "truck": 0.012, "bus": 0.003, "gap": 0.035})
        free = any(street.open_at(z + d) for d in (-3, 0, 3))
        zebra = street.zebra is not None and abs(z - street.zebra - 1.5) < 5
        if dice.chance(share) and not free and not zebra and kind != "gap":
            x = side.sign * (side.edge - dice.between(0.95, 1.15))
            if kind == "car":
                _place(world, dice, kind, Pose(x, z, way + dice.between(-0.04, 0.04)), lit)
            else:
                _place(world, dice, kind, Pose(x - side.sign * 0.2, z + 2, way), lit)
                z += 5
        z += dice.between(5.0, 6.6)


def _walkers(world: World, dice: Dice, street: Street, side: Side) -> None:
    groups = dice.whole(0, 7)
    for _ in range(groups):
        if not dice.chance(min(street.style.people * 0.75, 1)):
            continue
        z = 4.5 + 50 * dice.unit() ** 1.6
        x = dice.between(side.pavement[0] + 0.3, side.pavement[1] - 0.2)
        for _ in range(dice.weighted({1: 5, 2: 3, 3: 1, 5: 0.5})):
            add_person(world, dice, side.sign * x, z)
            x = min(max(x + dice.between(-0.8, 0.8), side.pavement[0]), side.pavement[1])
            z += dice.between(-0.2, 1.5)


def _stands(world: World, dice: Dice, street: Street, side: Side) -> None:
    """Bicycles and motorcycles that stand at the kerb."""
    for motor, odds in ((False, 0.3), (True, 0.13)):
        if not dice.chance(odds):
            continue
        z = 5 + 25 * dice.unit()
        for _ in range(dice.whole(1, 5 if not motor else 2)):
            x = side.sign * (side.edge + dice.between(0.5, 1.1))
            if not street.open_at(z):
                across = dice.chance(0.75)
                add_two_wheeler(world, dice, x, z, motor=motor, ridden=False, across=across)
            z += dice.between(0.6, 1.8)
