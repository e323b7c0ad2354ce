"""People on foot, and riders on bicycles and motorcycles."""

from __future__ import annotations

import math

from edgeseg.streets.world import (
    BICYCLE,
    CLOTH,
    FLAT,
    GLOW,
    METAL,
    MOTORCYCLE,
    PERSON,
    RIDER,
    UNLABELLED,
    UNSEEN,
    Colour,
    Dice,
    Point,
    World,
    shade,
)

SKINS: tuple[Colour, ...] = (
    (0.78, 0.60, 0.50),
    (0.65, 0.47, 0.36),
    (0.45, 0.31, 0.23),
    (0.28, 0.19, 0.15),
)
HAIRS: tuple[Colour, ...] = (
    (0.08, 0.06, 0.05),
    (0.22, 0.15, 0.09),
    (0.50, 0.38, 0.20),
    (0.55, 0.54, 0.52),
)
CLOTHES: tuple[Colour, ...] = (
    (0.08, 0.08, 0.09),
    (0.14, 0.16, 0.22),
    (0.12, 0.20, 0.38),
    (0.35, 0.36, 0.38),
    (0.62, 0.60, 0.56),
    (0.80, 0.79, 0.76),
    (0.50, 0.12, 0.12),
    (0.30, 0.34, 0.22),
    (0.48, 0.36, 0.24),
    (0.75, 0.60, 0.18),
    (0.20, 0.38, 0.36),
    (0.55, 0.32, 0.42),
)
TYRE: Colour = (0.06, 0.06, 0.06)


class Figure:
    """Draws limbs in a plane through (x, z) that is turned by `angle` from facing the camera."""

    def __init__(
        self, world: World, x: float, z: float, angle: float, size: float, label: int
    ) -> None:
        self.world, self.x, self.z, self.size, self.label = world, x, z, size, label
        self.c, self.s = math.cos(angle), math.sin(angle)

    def at(self, across: float, up: float) -> Point:
        """From the figure's own plane to the street."""
        b = across * self.size
        return (self.x + b * self.c, up * self.size, self.z + b * self.s)

    def shape(
        self, points: list[tuple[float, float]], colour: Colour, material: int = CLOTH
    ) -> None:
        """A polygon of (across, up) points."""
        self.world.face([self.at(*p) for p in points], self.label, colour, material)

    def limb(
        self, a: tuple[float, float], b: tuple[float, float], wide: float, colour: Colour
    ) -> None:
        """A bar from a to b; it gets narrower towards b."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        long = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / long * wide / 2, dx / long * wide / 2
        self.shape(
            [
                (a[0] + nx, a[1] + ny),
                (a[0] - nx, a[1] - ny),
                (b[0] - nx * 0.7, b[1] - ny * 0.7),
                (b[0] + nx * 0.7, b[1] + ny * 0.7),
            ],
            colour,
        )

    def disc(self, across: float, up: float, rx: float, ry: float, colour: Colour) -> None:
        """An oval."""
        self.shape(
            [(across + rx * math.cos(k * 0.785), up + ry * math.sin(k * 0.785)) for k in range(8)],
            colour,
        )

    def ring(self, across: float, up: float, radius: float, thick: float, colour: Colour) -> None:
        """A wheel: labelled as a disc, seen as a ring."""
        turn = [k * 0.5236 for k in range(13)]
        outer = [(across + radius * math.cos(t), up + radius * math.sin(t)) for t in turn]
        inner = [
            (across + (radius - thick) * math.cos(t), up + (radius - thick) * math.sin(t))
            for t in reversed(turn)
        ]
        self.world.face([self.at(*p) for p in outer], self.label, colour, UNSEEN)
        self.world.face([self.at(*p) for p in outer + inner], UNLABELLED, colour, FLAT)


def add_person(world: World, dice: Dice, x: float, z: float) -> None:
    """Someone who walks or stands, seen from the front, back or side."""
    world.key = z
    size = dice.between(1.0, 1.25) if dice.chance(0.1) else dice.between(1.52, 1.92)
    world.stand(x, z, 0.22, 0.15, size)
    world.contacts.append(
        [(x - 0.3, z - 0.2), (x + 0.3, z - 0.2), (x + 0.3, z + 0.2), (x - 0.3, z + 0.2)]
    )
    figure = Figure(world, x, z, dice.between(-0.5, 0.5), size, PERSON)
    skin, hair = dice.pick(SKINS), dice.tint(dice.pick(HAIRS), 0.3)
    top, legs = dice.tint(dice.pick(CLOTHES), 0.35), dice.tint(dice.pick(CLOTHES[:6]), 0.35)
    side_on = dice.chance(0.45)
    stride = dice.between(0.0, 0.16 if side_on else 0.05)
    shoe = shade(dice.pick(CLOTHES[:5]), 0.7)
    _legs(figure, legs, shoe, skin if dice.chance(0.12) else None, stride, side_on=side_on)
    shoulder = 0.085 if side_on else 0.125
    if dice.chance(0.25):
        long = dice.between(0.32, 0.42)
        figure.shape([(-0.1, long), (0.1, long), (0.08, 0.6), (-0.08, 0.6)], top)
    figure.shape(
        [
            (-0.085, 0.47),
            (0.085, 0.47),
            (shoulder, 0.78),
            (0.05, 0.83),
            (-0.05, 0.83),
            (-shoulder, 0.78),
        ],
        top,
    )
    sleeve = skin if dice.chance(0.25) else shade(top, 0.85)
    _arms(figure, dice, (sleeve, skin), shoulder, side_on=side_on)
    _bag(figure, dice, shoulder)
    _head(figure, dice, 0.0, 0.915, skin, hair)


def _legs(
    figure: Figure,
    trousers: Colour,
    shoe: Colour,
    bare: Colour | None,
    stride: float,
    *,
    side_on: bool,
) -> None:
    """Two legs; `bare` is the skin below a skirt."""
    gap = 0.015 if side_on else 0.055
    for sign in (-1, 1):
        hip, knee = (sign * gap, 0.5), (sign * (gap + stride * 0.45), 0.27)
        foot = (sign * (gap + stride), 0.03 + 0.03 * (sign > 0) * (stride > 0.08))
        cloth = shade(trousers, 0.82 if sign < 0 else 1.0)
        figure.limb(hip, knee, 0.1, cloth)
        figure.limb(knee, foot, 0.075, bare or cloth)
        figure.limb(foot, (foot[0] + (0.07 if side_on else 0.01 * sign), 0.015), 0.05, shoe)


def _arms(
    figure: Figure, dice: Dice, colours: tuple[Colour, Colour], shoulder: float, *, side_on: bool
) -> None:
    sleeve, skin = colours
    for sign in (-1, 1):
        swing = dice.between(-0.1, 0.1) if side_on else sign * 0.05
        joint = (sign * (shoulder - 0.015) * (0.3 if side_on else 1), 0.78)
        elbow = (joint[0] + swing * 0.5 + sign * 0.012, 0.63)
        figure.limb(joint, elbow, 0.058, sleeve)
        figure.limb(elbow, (elbow[0] + swing * 0.5, 0.48), 0.045, sleeve)
        figure.disc(elbow[0] + swing * 0.5, 0.465, 0.02, 0.025, skin)


def _bag(figure: Figure, dice: Dice, shoulder: float) -> None:
    colour = dice.tint(dice.pick(CLOTHES), 0.3)
    kind = dice.unit()
    if kind < 0.15:
        figure.shape([(-0.08, 0.55), (0.08, 0.55), (0.07, 0.76), (-0.07, 0.76)], colour)
    elif kind < 0.3:
        b = shoulder + 0.03
        figure.shape(
            [(b - 0.05, 0.36), (b + 0.05, 0.36), (b + 0.05, 0.47), (b - 0.05, 0.47)], colour
        )


def _head(figure: Figure, dice: Dice, across: float, up: float, skin: Colour, hair: Colour) -> None:
    figure.limb((across, up - 0.1), (across, up), 0.05, shade(skin, 0.8))
    figure.disc(across, up, 0.055, 0.078, skin)
    reach = 0.0 if dice.chance(0.4) else 0.06
    figure.shape(
        [
            (across - 0.06, up - reach),
            (across + 0.06, up - reach),
            (across + 0.055, up + 0.06),
            (across, up + 0.087),
            (across - 0.055, up + 0.06),
        ],
        hair,
    )


def add_two_wheeler(
    world: World, dice: Dice, x: float, z: float, *, motor: bool, ridden: bool, across: bool
) -> None:
    """A bicycle or motorcycle, seen from its side (`across`) or from its end."""
    world.key = z
    label = MOTORCYCLE if motor else BICYCLE
    turn = dice.between(-0.6, 0.6) if across else 0.0
    figure = Figure(world, x, z, turn, 1.0, label)
    half = 0.9 if across else 0.25
    world.contacts.append(
        [(x - half, z - 0.25), (x + half, z - 0.25), (x + half, z + 0.3), (x - half, z + 0.3)]
    )
    world.stand(x, z, half * 0.8, 0.15, 1.6 if ridden else 0.8)
    colour = dice.tint(dice.pick(CLOTHES), 0.3)
    if across:
        sign = dice.pick((-1, 1))
        (_motor_side if motor else _cycle_side)(figure, colour, sign)
        if ridden:
            _rider_side(world, dice, x, z, turn, sign, motor)
    else:
        if motor:
            _motor_end(figure, colour)
        else:
            _cycle_end(figure, colour)
        if ridden:
            _rider_end(world, dice, x, z, motor)


def _cycle_side(figure: Figure, colour: Colour, s: int) -> None:
    hull = [(-0.52, 0.34), (0.52, 0.34), (s * 0.42, 0.98), (-s * 0.2, 0.92)]
    figure.world.face([figure.at(*p) for p in hull], figure.label, colour, UNSEEN)
    for hub in (-0.53, 0.53):
        figure.ring(hub, 0.34, 0.34, 0.045, TYRE)
    rear, front, pedal = (-s * 0.53, 0.34), (s * 0.53, 0.34), (-s * 0.05, 0.3)
    seat, bar = (-s * 0.2, 0.85), (s * 0.38, 0.9)
    for a, b in (
        (rear, pedal),
        (pedal, seat),
        (seat, rear),
        (pedal, bar),
        (seat, bar),
        (bar, front),
    ):
        figure.limb(a, b, 0.045, colour)
    figure.limb((-s * 0.3, 0.92), (-s * 0.1, 0.92), 0.06, TYRE)
    figure.limb((s * 0.3, 1.0), (s * 0.42, 0.98), 0.04, TYRE)


def _motor_side(figure: Figure, colour: Colour, s: int) -> None:
    for a in (-0.66, 0.66):
        figure.disc(a, 0.31, 0.31, 0.31, TYRE)
        figure.disc(a, 0.31, 0.17, 0.17, (0.4, 0.4, 0.42))
    figure.shape([(-0.45, 0.3), (0.4, 0.3), (0.5, 0.55), (-0.5, 0.55)], (0.16, 0.16, 0.17), METAL)
    tank = [
        (-s * 0.75, 0.72),
        (-s * 0.1, 0.55),
        (s * 0.55, 0.6),
        (s * 0.5, 0.95),
        (0.0, 0.85),
        (-s * 0.7, 0.85),
    ]
    figure.shape(tank, colour, METAL)
    figure.limb((s * 0.66, 0.31), (s * 0.45, 1.0), 0.08, (0.3, 0.3, 0.3))
    figure.shape([(-s * 0.7, 0.82), (-s * 0.05, 0.8), (-s * 0.05, 0.88), (-s * 0.7, 0.92)], TYRE)
    figure.shape([(s * 0.4, 0.9), (s * 0.62, 0.85), (s * 0.5, 1.2)], shade(colour, 0.7), METAL)


def _cycle_end(figure: Figure, colour: Colour) -> None:
    figure.limb((0.0, 0.0), (0.0, 0.68), 0.07, TYRE)
    figure.limb((0.0, 0.5), (0.0, 0.98), 0.05, colour)
    figure.limb((-0.28, 0.98), (0.28, 0.98), 0.05, TYRE)
    figure.shape([(-0.09, 0.84), (0.09, 0.84), (0.09, 0.92), (-0.09, 0.92)], TYRE)


def _motor_end(figure: Figure, colour: Colour) -> None:
    steel: Colour = (0.30, 0.30, 0.31)
    figure.shape([(-0.075, 0.0), (0.075, 0.0), (0.085, 0.62), (-0.085, 0.62)], TYRE)
    for s in (-1, 1):
        figure.limb((s * 0.13, 0.22), (s * 0.11, 0.7), 0.06, steel)
        figure.limb((s * 0.2, 0.3), (s * 0.12, 0.42), 0.09, steel)
        figure.limb((s * 0.16, 1.0), (s * 0.39, 1.07), 0.05, TYRE)
        figure.disc(s * 0.33, 1.2, 0.07, 0.045, steel)
        figure.limb((s * 0.3, 1.06), (s * 0.33, 1.18), 0.025, steel)
    body = [(-0.11, 0.5), (0.11, 0.5), (0.2, 0.68), (0.17, 0.9), (-0.17, 0.9), (-0.2, 0.68)]
    figure.shape(body, colour, METAL)
    figure.shape(
        [(-0.13, 0.88), (0.13, 0.88), (0.1, 1.12), (-0.1, 1.12)], shade(colour, 0.6), METAL
    )
    red: Colour = (0.9, 0.1, 0.08)
    figure.shape([(-0.08, 0.74), (0.08, 0.74), (0.08, 0.82), (-0.08, 0.82)], red, GLOW)
    figure.shape([(-0.09, 0.55), (0.09, 0.55), (0.09, 0.67), (-0.09, 0.67)], (0.8, 0.8, 0.78))


def _rider_side(
    world: World, dice: Dice, x: float, z: float, turn: float, s: int, motor: bool
) -> None:
    figure = Figure(world, x, z, turn, 1.0, RIDER)
    skin, top = dice.pick(SKINS), dice.tint(dice.pick(CLOTHES), 0.35)
    legs = dice.tint(dice.pick(CLOTHES[:6]), 0.35)
    hip, neck = (-s * 0.2, 0.95), (s * (0.05 if motor else 0.12), 1.48)
    for phase, gain in ((0.0, 0.75), (3.14, 1.0)):
        foot = (-s * 0.05 + 0.16 * math.cos(phase), 0.3 + 0.14 * math.sin(phase + 0.7))
        knee = (s * 0.18 + 0.06 * math.cos(phase), 0.68 + 0.06 * math.sin(phase))
        figure.limb(hip, knee, 0.16, shade(legs, gain))
        figure.limb(knee, foot, 0.12, shade(legs, gain))
    figure.limb(hip, neck, 0.32, top)
    figure.limb((neck[0], neck[1] - 0.08), (s * 0.2, 1.2), 0.11, shade(top, 0.85))
    figure.limb((s * 0.2, 1.2), (s * 0.38, 1.04), 0.09, skin)
    _helmet(figure, dice, neck[0] + s * 0.06, neck[1] + 0.16, skin, motor)


def _rider_end(world: World, dice: Dice, x: float, z: float, motor: bool) -> None:
    figure = Figure(world, x, z, 0.0, 1.0, RIDER)
    skin, top = dice.pick(SKINS), dice.tint(dice.pick(CLOTHES), 0.35)
    legs = dice.tint(dice.pick(CLOTHES[:6]), 0.35)
    for s, low in ((-1, 0.25), (1, 0.42)):
        figure.limb((s * 0.1, 0.92), (s * 0.19, 0.62), 0.16, legs)
        figure.limb((s * 0.19, 0.62), (s * 0.13, low), 0.12, legs)
        figure.limb((s * 0.2, 1.42), (s * 0.3, 1.18), 0.11, shade(top, 0.85))
        figure.limb((s * 0.3, 1.18), (s * 0.26, 1.0), 0.09, skin)
    figure.shape(
        [(-0.17, 0.88), (0.17, 0.88), (0.23, 1.4), (0.1, 1.5), (-0.1, 1.5), (-0.23, 1.4)], top
    )
    _helmet(figure, dice, 0.0, 1.64, skin, motor)


def _helmet(
    figure: Figure, dice: Dice, across: float, up: float, skin: Colour, motor: bool
) -> None:
    figure.disc(across, up, 0.1, 0.13, skin)
    cover = dice.tint(dice.pick(CLOTHES if motor or dice.chance(0.6) else HAIRS), 0.3)
    low = up - (0.1 if motor else 0.0)
    figure.shape(
        [
            (across - 0.12, low),
            (across + 0.12, low),
            (across + 0.11, up + 0.1),
            (across, up + 0.16),
            (across - 0.11, up + 0.1),
        ],
        cover,
    )
