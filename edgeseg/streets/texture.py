"""An index of faces -> colours: asphalt, slabs, grass, facades with windows, leaves, sky, air."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from edgeseg.streets.render import SKY_MATERIAL, View
from edgeseg.streets.weather import Weather
from edgeseg.streets.world import (
    ASPHALT,
    BRICK,
    CLOTH,
    FACADE,
    FOLIAGE,
    GRASS,
    METAL,
    PAINT,
    SLABS,
    TILES,
)

TILE = 256
GROUND = (ASPHALT, SLABS, GRASS, PAINT)


@lru_cache(maxsize=2)
def _tile(soft: bool) -> np.ndarray:
    """(256, 256) float32 noise that repeats; mean 0, deviation 1; soft: large spots over small."""
    rng = np.random.default_rng(7 + soft)
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    fy, fx = np.fft.fftfreq(TILE)[:, None] * TILE, np.fft.rfftfreq(TILE)[None] * TILE
    reach = np.hypot(fy, fx)
    spectrum *= 1 / (1 + reach / 2) ** 1.7 if soft else np.exp(-((reach / 95) ** 2))
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (TILE, TILE))
    return np.ascontiguousarray(noise / noise.std(), np.float32)


def _noise(u: np.ndarray, v: np.ndarray, soft: bool) -> np.ndarray:
    """Noise at places given in units of the tile's own pixels."""
    column = np.floor(u).astype(np.int32) & (TILE - 1)
    row = np.floor(v).astype(np.int32) & (TILE - 1)
    found: np.ndarray = _tile(soft).ravel()[(row << 8) | column]
    return found


def _smooth(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Soft noise, bilinear between the tile's pixels."""
    u0, v0 = np.floor(u), np.floor(v)
    a, b = u - u0, v - v0
    low = _noise(u0, v0, True) * (1 - a) + _noise(u0 + 1, v0, True) * a
    high = _noise(u0, v0 + 1, True) * (1 - a) + _noise(u0 + 1, v0 + 1, True) * a
    mixed: np.ndarray = low * (1 - b) + high * b
    return mixed


def colour(view: View, weather: Weather) -> np.ndarray:
    """(H, W, 3) float32 colours, 1 is white, before the lens and the sensor."""
    height, width = view.labels.shape
    table = np.clip(view.colour * 200, 0, 255).astype(np.uint8)
    large = Image.fromarray(np.take(table, view.index, axis=0))
    image: np.ndarray = np.asarray(large.reduce(2), np.float32).reshape(-1, 3) * (1 / 200)
    index = view.index[1::2, 1::2].ravel()
    x = np.tile((np.arange(width, dtype=np.float32) + 0.5 - view.middle[0]) / view.focal, height)
    y = np.repeat((np.arange(height, dtype=np.float32) + 0.5 - view.middle[1]) / view.focal, width)
    material = view.material[index]
    closeness = _closeness(view, index, x, y)
    _ground(image, view, weather, material, x, y)
    _facades(image, view, weather, index, material, x, y, closeness)
    _surfaces(image, view, index, material, x, y, closeness)
    sky = np.flatnonzero(material == SKY_MATERIAL)
    image[sky] = _sky(view, weather, x[sky], y[sky])
    clear = np.exp(-weather.fog / np.maximum(closeness, 1 / 400))[:, None]
    clear[sky] = 1
    air = np.array(weather.horizon, np.float32)
    image = image * clear + air * (1 - clear)
    image = image.reshape(height, width, 3)
    if weather.wet:
        image = _wet(image, view, weather, material.reshape(height, width))
    return image


def _closeness(view: View, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 / depth in 1/metre for each pixel."""
    inverse = view.plane[:, :, 2][index]
    closeness = inverse[:, 0] * x + inverse[:, 1] * y + inverse[:, 2]
    kept: np.ndarray = np.clip(np.abs(closeness), 1e-4, 4)
    return kept


def _ground(
    image: np.ndarray,
    view: View,
    weather: Weather,
    material: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    at = np.flatnonzero((material >= ASPHALT) & (material <= PAINT))
    x, y, kind = x[at], y[at], material[at]
    g = view.ground
    close = np.maximum(g[0, 2] * x + g[1, 2] * y + g[2, 2], 1 / 300)
    u = (g[0, 0] * x + g[1, 0] * y + g[2, 0]) / close
    v = (g[0, 1] * x + g[1, 1] * y + g[2, 1]) / close
    footprint = 1 / (view.focal * close * np.clip(close * 1.4, 0.004, 1))
    fine = np.clip(1.2 - footprint * 12, 0, 1)
    middle = np.clip(1.2 - footprint * 2.5, 0.1, 1)
    gain = 1 + 0.055 * fine * _noise(u * 45, v * 45, False) + 0.05 * _smooth(u * 2.2, v * 0.7)
    gain += 0.045 * middle * _noise(u * 6, v * 6, True)
    grass = kind == GRASS
    gain[grass] *= (1 + 0.16 * middle * _noise(u * 14, v * 9, False) + 0.1 * _smooth(u * 3, v * 3))[
        grass
    ]
    slab = kind == SLABS
    joint = (np.mod(u, 0.5) < 0.025) | (np.mod(v, 0.7) < 0.04)
    tone = 0.06 * middle * _noise(u * 2, v * 1.43, False) - 0.2 * fine * joint
    gain[slab] += tone[slab]
    worn = np.clip(1 - 0.55 * (_noise(u * 22, v * 12, True) > 1.0), 0, 1)
    paint = kind == PAINT
    gain[paint] *= worn[paint]
    rgb = image[at] * gain[:, None]
    if grass.any():
        dry = np.clip(0.5 + 0.5 * _smooth(u[grass] * 1.2, v[grass] * 1.2), 0, 1)[:, None]
        rgb[grass] *= 1 + dry * np.array([0.30, 0.10, 0.0], np.float32)
    ambient, sun = np.array(weather.ambient), np.array(weather.sun) * weather.towards_sun[1]
    kept = (ambient / (ambient + sun)).astype(np.float32)
    dark = view.sunless.ravel()[at][:, None] * np.float32(1 / 255)
    rgb *= 1 - dark * (1 - kept)
    rgb *= 1 - view.contact.ravel()[at][:, None] * np.float32(0.62 / 255)
    image[at] = rgb


def _uv(
    view: View, index: np.ndarray, x: np.ndarray, y: np.ndarray, closeness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    plane = view.plane[index]
    u = (plane[:, 0, 0] * x + plane[:, 1, 0] * y + plane[:, 2, 0]) / closeness
    v = (plane[:, 0, 1] * x + plane[:, 1, 1] * y + plane[:, 2, 1]) / closeness
    return u, v


def _facades(
    image: np.ndarray,
    view: View,
    weather: Weather,
    index: np.ndarray,
    material: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    closeness: np.ndarray,
) -> None:
    at = np.flatnonzero(material == FACADE)
    index, close = index[at], closeness[at]
    u, v = _uv(view, index, x[at], y[at], close)
    storey, bay, wide, high, seed, style = view.parameters[index].T
    metre = view.focal * close
    fine = np.clip(metre / 14, 0, 1)
    rgb = image[at]
    gain = 1 + 0.05 * fine * _noise(u * 18, v * 18, False) + 0.05 * _smooth(u * 1.5 + seed, v * 0.6)
    gain *= 0.82 + 0.18 * np.clip(v / 2.5, 0, 1)
    bricks = (style >= 2) & (np.mod(v, 0.28) < 0.06)
    gain -= 0.10 * fine * bricks
    level, column = np.floor(v / storey), np.floor(u / bay)
    ground_floor = (level < 1) & (np.mod(style, 2) >= 1)
    high = np.where(ground_floor, 0.8, high)
    wide = np.where(ground_floor, 0.86, wide)
    b, a = v / storey - level, u / bay - column
    da, db = np.abs(a - 0.5) - wide / 2, np.abs(b - 0.52) - high / 2
    gain -= 0.13 * fine * (b < 0.035) * (style >= 2)
    rgb = rgb * gain[:, None]
    chance = _noise(column * 17 + seed * 3, level * 29 + seed, False)
    curtain = np.clip(0.4 * chance, 0, 0.5)
    pane = _window_colour(weather, chance, curtain, ground_floor, a, b)
    outside, off_middle = (da * bay, db * storey), np.abs(a - 0.5) * bay
    rgb = _window_frames(rgb, pane, chance, outside, off_middle, b, fine, metre * bay)
    image[at] = rgb


def _window_frames(
    wall: np.ndarray,
    pane: np.ndarray,
    chance: np.ndarray,
    outside: tuple[np.ndarray, np.ndarray],
    off_middle: np.ndarray,
    up: np.ndarray,
    fine: np.ndarray,
    bay: np.ndarray,
) -> np.ndarray:
    """Panes, their frames, bars and sills laid over the wall; all (n, 3).

    `outside` are metres beyond the window's edge (across, up), `off_middle` metres from its middle,
    `up` the height within the storey from 0 to 1, `bay` the width of a bay in pixels.
    """
    across, above = outside
    frame = (across < 0.07) & (above < 0.07)
    inside = (across < 0) & (above < 0)
    cross = (off_middle < 0.03) & inside & (chance > -0.4)
    sill = (up > 0.02) & (up < 0.5) & (above > -0.01) & (above < 0.1) & (across < 0.08)
    trim = np.minimum(wall * np.where(chance > 0.8, 0.7, 1.22)[:, None], 1)
    sharp = np.clip(bay / 9, 0.45, 1)[:, None]
    rgb = np.where((frame & ~inside)[:, None], wall + (trim - wall) * fine[:, None], wall)
    rgb = np.where((inside & ~cross)[:, None], rgb + (pane - rgb) * sharp, rgb)
    finished: np.ndarray = np.where(sill[:, None], trim, rgb)
    return finished


def _window_colour(
    weather: Weather,
    chance: np.ndarray,
    curtain: np.ndarray,
    shop: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
) -> np.ndarray:
    """Glass: the dark room, the mirrored sky, curtains, and lamps when the day is dull."""
    ambient, horizon = np.array(weather.ambient, np.float32), np.array(weather.horizon, np.float32)
    room = np.array([0.10, 0.11, 0.13], np.float32) * ambient
    mirror = np.clip(0.25 + 0.25 * b + 0.12 * chance, 0.05, 0.6)[:, None]
    pane = room + mirror * horizon * ambient * 0.75
    pane += curtain[:, None] * ambient * (0.3 + 0.7 * (b[:, None] > 0.45 + 0.2 * chance[:, None]))
    lamp = (chance > (0.4 if weather.lit else 2.2)) | (
        shop & (chance > (-0.6 if weather.lit else 0.6))
    )
    warm = np.array([0.75, 0.58, 0.34], np.float32) * (0.6 if weather.lit else 0.45)
    lit: np.ndarray = np.where(
        lamp[:, None], pane * 0.6 + warm * (0.7 + 0.3 * np.cos(a * 19))[:, None], pane
    )
    return lit.astype(np.float32)


def _surfaces(
    image: np.ndarray,
    view: View,
    index: np.ndarray,
    material: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    closeness: np.ndarray,
) -> None:
    at = np.flatnonzero((material == 0) | (material >= FOLIAGE))
    index, kind, close = index[at], material[at], closeness[at]
    u, v = _uv(view, index, x[at], y[at], close)
    metre = view.focal * close
    fine = np.clip(metre / 16, 0, 1)
    u, v = u + index * 0.37, v + index * 0.61
    small = _noise(u * 11, v * 11, False)
    gain = 1 + 0.03 * small * fine
    leaf = kind == FOLIAGE
    gain[leaf] += _leaves(u[leaf], v[leaf], small[leaf], metre[leaf])
    body = np.flatnonzero(kind == METAL)
    gain[body] *= _bodywork(view, x[at[body]], y[at[body]], close[body])
    brick = (kind == BRICK) | (kind == TILES)
    rows = np.mod(v, 0.3) < 0.07
    gain[brick] += (
        0.07 * small * fine - 0.16 * rows * fine + 0.05 * _noise(u * 1.5, v * 3.4, False)
    )[brick]
    cloth = kind == CLOTH
    gain[cloth] += (0.10 * _noise(u * 6, v * 4, False))[cloth]
    image[at] *= gain[:, None]


def _leaves(u: np.ndarray, v: np.ndarray, small: np.ndarray, metre: np.ndarray) -> np.ndarray:
    """Light and dark in a crown at three scales, the finest only where it can be seen."""
    tiny = _noise(u * 29, v * 29, False) * np.clip(metre / 40 - 0.3, 0, 1)
    large = _smooth(u * 5, v * 5)
    deep: np.ndarray = 0.05 + 0.15 * tiny + 0.17 * small + 0.13 * large
    return deep


def _bodywork(view: View, x: np.ndarray, y: np.ndarray, closeness: np.ndarray) -> np.ndarray:
    """Bodywork is dark and dirty below and mirrors a bright band of sky above the belt line."""
    axes = view.axes
    height = view.eye + (axes[0, 1] * x + axes[1, 1] * y + axes[2, 1]) / closeness
    band = np.exp(-(((height - 0.86) / 0.09) ** 2)) - 0.5 * np.exp(-(((height - 0.6) / 0.1) ** 2))
    gain: np.ndarray = 0.72 + 0.36 * np.clip(height / 0.8, 0, 1) + 0.16 * band
    return gain


def _sky(view: View, weather: Weather, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    axes = view.axes
    long = np.sqrt(x * x + y * y + 1)
    dx, dy, dz = ((axes[0, i] * x + axes[1, i] * y + axes[2, i]) / long for i in range(3))
    up = np.clip(dy, 0.0, 1)
    blue = np.clip(up / 0.42, 0, 1)[:, None] ** 0.6
    horizon, zenith = np.array(weather.horizon, np.float32), np.array(weather.zenith, np.float32)
    rgb = horizon * (1 - blue) + zenith * blue
    sun = np.array(weather.towards_sun)
    towards = np.clip(dx * sun[0] + dy * sun[1] + dz * sun[2], 0, 1)[:, None]
    if max(weather.sun) > 0.2:
        rgb = rgb + (0.35 * towards**24 + 0.5 * towards**300) * np.array(weather.sun, np.float32)
    if weather.clouds > 0:
        u, v = dx / (up + 0.09) * 16, dz / (up + 0.09) * 16
        puff = _smooth(u, v) + 0.45 * _smooth(u * 3.1 + 40, v * 3.1)
        cover = np.clip((puff - 1.6 + 2.6 * weather.clouds) * 0.75, 0, 1)[:, None]
        bright = np.mean(horizon) + 0.05 * _smooth(u * 2 + 90, v * 2)[:, None] - 0.10 * cover
        cloud = bright * (0.6 + 0.4 * horizon / max(float(horizon.max()), 0.1)) * 1.08
        rgb = rgb + (cloud - rgb) * cover * np.clip(0.25 + up * 6, 0, 0.9)[:, None]
    sky: np.ndarray = rgb
    return sky


def _wet(image: np.ndarray, view: View, weather: Weather, material: np.ndarray) -> np.ndarray:
    """Wet asphalt mirrors what stands above the horizon, blurred from top to bottom."""
    height, width = material.shape
    axes = view.axes
    horizon = view.middle[1] + view.focal * float(-axes[2, 1] / axes[1, 1])
    rows = np.arange(height)
    source = np.clip(np.round(2 * horizon - rows), 0, height - 1).astype(int)
    tall = max(height // 24, 1)
    sums = np.cumsum(np.concatenate((image[:1].repeat(tall, 0), image), 0), axis=0)
    smooth = (sums[tall:] - sums[:-tall]) / tall
    mirrored = smooth[source]
    ground = ((material == ASPHALT) | (material == PAINT) | (material == SLABS))[..., None]
    far = np.clip(1 - (rows - horizon) / (height - horizon + 1), 0, 1) ** 1.5
    share = (0.12 + 0.45 * far)[:, None, None].astype(np.float32) * weather.wet
    ripple = _smooth(np.arange(width)[None] * 24 / width, rows[:, None] * 60 / height)[..., None]
    share = np.clip(share * (1 + 0.35 * ripple), 0, 0.75) * ground
    dull = np.where(ground, image * (1 - 0.3 * weather.wet), image)
    wet: np.ndarray = dull * (1 - share) + mirrored * share
    return wet.astype(np.float32)
