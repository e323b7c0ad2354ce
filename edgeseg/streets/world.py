"""What a street is made of: flat faces in metres, each with a class, a colour and a material.

Axes: x to the right of the street, y up, z along it; the camera stands near (0, 1.4, 0) and looks
along z. A part of the scene appends faces to a `World`; `render` projects and paints them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Point = tuple[float, float, float]
Colour = tuple[float, float, float]
Ground = Sequence[tuple[float, float]]
"""Corners on the ground, (x, z)."""

# fmt: off
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)
VOID = 255
UNLABELLED = -1
"""A face that is seen but keeps the label of what is behind it."""

FLAT, ASPHALT, SLABS, GRASS, PAINT, FACADE, FOLIAGE = range(7)
METAL, GLASS, BRICK, TILES, CLOTH, GLOW = range(7, 13)
UNSEEN = -1
"""The material of a face that is labelled but not seen: the air between the bars of a fence."""
# fmt: on

NOWHERE: Point = (math.nan, math.nan, math.nan)
PLAIN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Dice:
    """A seeded source of choices that gives the same ones on every Python and machine."""

    def __init__(self, seed: int, purpose: str) -> None:
        self.unit = random.Random(f"{purpose} {seed}").random

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int((high - low + 1) * self.unit())

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.unit() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[int(self.unit() * len(choices))]

    def weighted(self, choices: dict[T, float]) -> T:
        """A key of `choices`, by the weights that are its values."""
        left = self.unit() * sum(choices.values())
        for choice, weight in choices.items():
            left -= weight
            if left < 0:
                return choice
        return choice

    def tint(self, colour: Colour, spread: float) -> Colour:
        """`colour` made lighter or darker, and a little redder or bluer."""
        gain = 1 + spread * (2 * self.unit() - 1)
        warm = 1 + 0.35 * spread * (2 * self.unit() - 1)
        return (
            min(colour[0] * gain * warm, 1.0),
            min(colour[1] * gain, 1.0),
            min(colour[2] * gain / warm, 1.0),
        )


def shade(colour: Colour, gain: float) -> Colour:
    """`colour` times `gain`."""
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b, the rest of a."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


class World:
    """Faces, and the shadows they cast on the ground.

    `points` holds the corners of all faces one after the other, `counts` how many each has, `rows`
    what is known of it: label, material, key, r, g, b, centre x, y, z and six material parameters.
    Faces are painted from the largest `key` (distance in metres) to the smallest; those of one key
    in the order of their coming. `shadows` are (footprint, height) of things that stand in the sun,
    `contacts` the patches of ground that no light reaches.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.counts: list[int] = []
        self.rows: list[tuple[float, ...]] = []
        self.key = 0.0
        self.shadows: list[tuple[Ground, float]] = []
        self.contacts: list[Ground] = []
        self.bonnet: Colour | None = None

    def face(
        self,
        points: Sequence[Point],
        label: int,
        colour: Colour,
        material: int = FLAT,
        centre: Point = NOWHERE,
        parameters: tuple[float, ...] = PLAIN,
    ) -> None:
        """Add one flat polygon; one that looks away from `centre` and the camera is not drawn."""
        self.points.extend(points)
        self.counts.append(len(points))
        self.rows.append((label, material, self.key, *colour, *centre, *parameters))

    def upright(
        self,
        x0: float,
        x1: float,
        y0: float,
        y1: float,
        z: float,
        label: int,
        colour: Colour,
        material: int = FLAT,
    ) -> None:
        """A rectangle that stands across the street and faces the camera."""
        self.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], label, colour, material)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        label: int,
        colour: Colour,
        material: int = FLAT,
    ) -> None:
        """A box along the axes: its two ends, two sides and top."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        centre = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
        for side in (x0, x1):
            points = [(side, y0, z0), (side, y0, z1), (side, y1, z1), (side, y1, z0)]
            self.face(points, label, colour, material, centre)
        for end in (z1, z0):
            points = [(x0, y0, end), (x1, y0, end), (x1, y1, end), (x0, y1, end)]
            self.face(points, label, colour, material, centre)
        top = [(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)]
        self.face(top, label, colour, material, centre)

    def blob(
        self,
        x: float,
        y: float,
        z: float,
        rx: float,
        ry: float,
        dice: Dice,
        label: int,
        colour: Colour,
        material: int = FOLIAGE,
        corners: int = 8,
    ) -> None:
        """A ragged disc that faces the camera and ends at the ground."""
        start = dice.unit() * 6.283
        points = []
        for i in range(corners):
            angle = start + 6.283 * i / corners
            reach = 0.64 + 0.55 * dice.unit()
            up = max(y + ry * reach * math.sin(angle), 0.0)
            points.append((x + rx * reach * math.cos(angle), up, z))
        self.face(points, label, colour, material)

    def stand(self, x: float, z: float, half_x: float, half_z: float, height: float) -> None:
        """Let a thing of that footprint and height cast its shadows."""
        foot = [
            (x - half_x, z - half_z),
            (x + half_x, z - half_z),
            (x + half_x, z + half_z),
            (x - half_x, z + half_z),
        ]
        self.shadows.append((foot, height))
