"""The body of a vehicle: side profiles drawn out over its width, wheels, patches on its sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.streets.world import FLAT, GLASS, GLOW, METAL, Colour, Point, World

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
RUBBER: Colour = (0.06, 0.06, 0.06)
RED: Colour = (0.52, 0.06, 0.05)
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

    def lamps(
        self,
        long: float,
        half: float,
        tail: tuple[float, float],
        head: tuple[float, float],
        lit: bool,
    ) -> None:
        """Tail lamps and head lamps between those heights, at half lengths `long`."""
        back, front = ((0.95, 0.12, 0.08), (1.0, 0.97, 0.85)) if lit else (RED, (0.72, 0.73, 0.74))
        for sign in (-1, 1):
            inner, outer = sorted((sign * (half - 0.05), sign * (half - 0.3)))
            self.end(-long - 0.02, (inner, outer), tail, back, GLOW if lit else FLAT)
            self.end(long + 0.02, (inner, outer), head, front, GLOW if lit else FLAT)

    def _face(self, points: Sequence[Point], colour: Colour, material: int) -> None:
        self.world.face(points, self.label, colour, material, self.centre)


def stand_on(world: World, pose: Pose, long: float, half: float, height: float) -> None:
    """Let a vehicle of that half length, half width and height darken the ground."""
    corners = ((-long, -half), (-long, half), (long, half), (long, -half))
    foot = [pose.at(a, b, 0) for a, b in corners]
    ground = [(x, z) for x, _, z in foot]
    world.contacts.append(ground)
    world.shadows.append((ground, height))
