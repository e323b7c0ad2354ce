"""The light, the air and the camera of one frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgeseg.streets.world import Colour, Dice, Point, mix

BLACK: Colour = (0.0, 0.0, 0.0)
KINDS = {"sun": 0.38, "overcast": 0.28, "dusk": 0.12, "fog": 0.07, "rain": 0.15}


@dataclass(frozen=True)
class Weather:
    """Light and air. `towards_sun` is a unit vector, `fog` the loss of contrast per metre."""

    kind: str
    towards_sun: Point
    sun: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    fog: float
    wet: float
    lit: bool


@dataclass(frozen=True)
class Camera:
    """Where the camera is and how it sees.

    `focal` is in frame heights, so a wider frame shows more at its sides; `bend` and `rise` are the
    street's own curvature to the side and upwards, 1/metre; `mirrored` means traffic on the left;
    `exposure` is the mean brightness that the camera aims at.
    """

    height: float
    pitch: float
    yaw: float
    focal: float
    bend: float
    rise: float
    mirrored: bool
    exposure: float
    cast: Colour
    contrast: float
    blur: float
    noise: float
    vignette: float


def choose_weather(dice: Dice) -> Weather:
    """One of sun, overcast, dusk, fog and rain."""
    kind = dice.weighted(KINDS)
    azimuth = dice.between(0, 2 * math.pi)
    low = kind == "dusk"
    elevation = math.radians(dice.between(5, 14) if low else dice.between(20, 62))
    flat = math.cos(elevation)
    sun_at = (flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth))
    grey = dice.between(0.72, 0.95)
    cloudy: Colour = (grey * 0.97, grey * 0.99, grey * 1.02)
    if kind == "sun":
        return _sunny(dice, sun_at)
    if kind == "dusk":
        return _dusk(dice, sun_at)
    light = dice.between(0.55, 0.95)
    ambient = (light * 0.99, light, light * 1.03)
    grey_day = Weather(kind, sun_at, BLACK, ambient, cloudy, cloudy, 0.0, 0.0018, 0, lit=False)
    if kind == "overcast":
        top = mix(cloudy, (0.6, 0.63, 0.68), dice.unit())
        return replace(grey_day, sun=(0.1, 0.1, 0.1), zenith=top, clouds=dice.between(0.6, 1))
    if kind == "fog":
        return replace(grey_day, fog=dice.between(0.010, 0.035), lit=dice.chance(0.5))
    dull = mix(cloudy, (0.50, 0.52, 0.55), dice.between(0.2, 0.9))
    wet, fog, lit = dice.between(0.35, 1.0), dice.between(0.003, 0.009), dice.chance(0.7)
    return replace(grey_day, zenith=dull, horizon=dull, clouds=0.5, fog=fog, wet=wet, lit=lit)


def _sunny(dice: Dice, sun_at: Point) -> Weather:
    blue = mix((0.30, 0.48, 0.78), (0.45, 0.60, 0.82), dice.unit())
    pale = mix((0.72, 0.80, 0.88), (0.86, 0.87, 0.86), dice.unit())
    power = dice.between(0.65, 1.0)
    sun = (power * 1.04, power * 0.98, power * 0.86)
    shadow = dice.between(0.38, 0.55)
    ambient = (shadow * 0.92, shadow * 0.98, shadow * 1.10)
    clouds = dice.between(0, 0.75)
    return Weather("sun", sun_at, sun, ambient, blue, pale, clouds, 0.0012, 0, lit=False)


def _dusk(dice: Dice, sun_at: Point) -> Weather:
    warm = mix((0.92, 0.60, 0.36), (0.80, 0.62, 0.60), dice.unit())
    deep = mix((0.22, 0.28, 0.45), (0.40, 0.42, 0.52), dice.unit())
    power = dice.between(0.1, 0.5)
    sun = (power * 1.2, power * 0.75, power * 0.45)
    shadow = dice.between(0.22, 0.42)
    ambient = (shadow, shadow * 0.95, shadow * 1.08)
    clouds = dice.between(0, 0.8)
    return Weather("dusk", sun_at, sun, ambient, deep, warm, clouds, 0.002, 0, lit=True)


def choose_camera(dice: Dice, weather: Weather) -> Camera:
    """A camera behind the windscreen, and a street that may bend and climb."""
    bend = dice.between(-0.0016, 0.0016) if dice.chance(0.45) else 0.0
    rise = dice.between(-0.00025, 0.0005) if dice.chance(0.4) else 0.0
    turning = dice.chance(0.1)
    return Camera(
        height=dice.between(1.15, 1.65),
        pitch=math.radians(dice.between(-1.0, 4.5)),
        yaw=math.radians(dice.between(-11, 11) if turning else dice.between(-3.5, 3.5)),
        focal=dice.between(1.75, 2.35),
        bend=bend,
        rise=rise,
        mirrored=dice.chance(0.15),
        exposure=dice.between(0.24, 0.40) if weather.lit else dice.between(0.34, 0.54),
        cast=(dice.between(0.94, 1.07), 1.0, dice.between(0.92, 1.08)),
        contrast=dice.between(0.85, 1.25),
        blur=dice.between(0.0, 0.0016),
        noise=dice.between(1.0, 5.5) * (1.7 if weather.kind == "dusk" else 1.0),
        vignette=dice.between(0.0, 0.25),
    )
