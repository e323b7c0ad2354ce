"""World, weather and camera -> an index of the visible face for each pixel, and the labels.

Faces are painted from far to near. The index is drawn at twice the frame's size, so that colours
can be averaged over 2x2 (smooth edges); labels are drawn at the frame's size and stay hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from edgeseg.streets.weather import Camera, Weather
from edgeseg.streets.world import (
    CLOTH,
    FOLIAGE,
    GLASS,
    GLOW,
    METAL,
    SKY,
    UNLABELLED,
    UNSEEN,
    VOID,
    Ground,
    World,
)

NEAR = 0.25
"""Metres before the camera where faces are cut off."""
SKY_MATERIAL = -2


@dataclass(frozen=True)
class View:
    """What the camera sees; F faces: index 0 is the sky, face i is i + 1, the bonnet F + 1.

    `index` (2H, 2W) int32, `labels` (H, W) uint8, `sunless` and `contact` (H, W) uint8: how much of
    the sun and of the sky's light is kept from the ground. Tables with a row for each index:
    `material` (F+2,), `colour` (F+2, 3) lit, `plane` (F+2, 3, 3): a ray (x, y, 1) times it gives
    (u, v, 1) / depth on the face in metres, `parameters` (F+2, 6). `ground` is the plane of the
    street, u = x and v = z; `axes` (3, 3) are the camera's right, down and forward in the street's
    axes. `eye` is the camera's height in metres; `focal` and `middle` (x, y) are in pixels.
    """

    index: np.ndarray
    labels: np.ndarray
    sunless: np.ndarray
    contact: np.ndarray
    material: np.ndarray
    colour: np.ndarray
    plane: np.ndarray
    parameters: np.ndarray
    ground: np.ndarray
    axes: np.ndarray
    eye: float
    focal: float
    middle: tuple[float, float]


def look(world: World, weather: Weather, camera: Camera, size: tuple[int, int]) -> View:
    """Project and paint all faces of the world into a frame of `size` (height, width)."""
    height, width = size
    rows = np.array(world.rows)
    counts = np.array(world.counts)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    axes = _axes(camera)
    points = _bend(np.array(world.points), camera)
    seen = (points - (0.0, camera.height, 0.0)) @ axes.T
    focal, middle = camera.focal * height, (width / 2, height / 2)
    normals, facing = _normals(points, starts, rows, camera)
    drawn = _in_view(seen, starts, focal, size) & facing
    order = np.argsort(-rows[:, 2], kind="stable")
    order = order[drawn[order]]
    index, labels = _paint(seen, starts, counts, rows, order, focal, size)
    _paint_bonnet(index, labels, world, len(rows))
    plane = _planes(seen, starts, normals @ axes.T)
    sunless, contact = _shadows(world, weather, camera, axes, focal, size)
    return View(
        np.asarray(index),
        np.array(labels),
        sunless,
        contact,
        np.concatenate(([SKY_MATERIAL], rows[:, 1], [METAL])).astype(np.int8),
        _lit(rows, normals, weather, world),
        plane,
        np.concatenate((np.zeros((1, 6)), rows[:, 9:15], np.zeros((1, 6)))).astype(np.float32),
        _ground_plane(axes, camera),
        axes.astype(np.float32),
        camera.height,
        focal,
        middle,
    )


def _axes(camera: Camera) -> np.ndarray:
    """(3, 3): rows are the camera's right, down and forward in the axes of the street."""
    cy, sy = np.cos(camera.yaw), np.sin(camera.yaw)
    cp, sp = np.cos(camera.pitch), np.sin(camera.pitch)
    right = np.array([cy, 0.0, -sy])
    forward = np.array([sy * cp, -sp, cy * cp])
    axes: np.ndarray = np.stack((right, np.cross(right, forward), forward))
    return axes


def _bend(points: np.ndarray, camera: Camera) -> np.ndarray:
    bent: np.ndarray = points.copy()
    if camera.mirrored:
        bent[:, 0] *= -1
    far = np.clip(points[:, 2], 0, 140)
    bent[:, 0] += camera.bend * far * far
    bent[:, 1] += camera.rise * far * far
    return bent


def _normals(
    points: np.ndarray, starts: np.ndarray, rows: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals that look at the camera, and which faces it sees from outside."""
    first = points[starts]
    normals = np.cross(points[starts + 1] - first, points[starts + 2] - first)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    to_camera = np.array([0.0, camera.height, 0.0]) - first
    towards = np.sum(normals * to_camera, axis=1)
    normals *= np.where(towards < 0, -1.0, 1.0)[:, None]
    centres = rows[:, 6:9]
    solid = np.isfinite(centres[:, 0])
    centres = _bend(np.where(solid[:, None], centres, 0.0), camera)
    outwards = np.sum(normals * (first - centres), axis=1)
    return normals, ~solid | (outwards > 0)


def _in_view(
    seen: np.ndarray, starts: np.ndarray, focal: float, size: tuple[int, int]
) -> np.ndarray:
    """Faces whose bounding box meets the frame and is not much smaller than a pixel."""
    height, width = size
    depth = np.maximum(seen[:, 2], NEAR)
    x, y = seen[:, 0] / depth * focal + width / 2, seen[:, 1] / depth * focal + height / 2
    low_x, high_x = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    low_y, high_y = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    inside = (high_x > 0) & (low_x < width) & (high_y > 0) & (low_y < height)
    large = (high_x - low_x > 0.4) | (high_y - low_y > 0.4)
    visible: np.ndarray = inside & large & (np.maximum.reduceat(seen[:, 2], starts) > NEAR)
    return visible


def _paint(
    seen: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray,
    order: np.ndarray,
    focal: float,
    size: tuple[int, int],
) -> tuple[Image.Image, Image.Image]:
    height, width = size
    index = Image.new("I", (2 * width, 2 * height), 0)
    labels = Image.new("L", (width, height), SKY)
    paint, mark = ImageDraw.Draw(index).polygon, ImageDraw.Draw(labels).polygon
    depth = np.maximum(seen[:, 2:], NEAR)
    flat = seen[:, :2] / depth * focal + (width / 2, height / 2)
    small, large = (flat - 0.5).ravel().tolist(), (2 * flat - 0.5).ravel().tolist()
    nearest = np.minimum.reduceat(seen[:, 2], starts)
    cut = (nearest < NEAR).tolist()
    begins, ends = (2 * starts).tolist(), (2 * (starts + counts)).tolist()
    classes, materials = rows[:, 0].astype(int).tolist(), rows[:, 1].astype(int).tolist()
    for i in order.tolist():
        a, b = begins[i], ends[i]
        if cut[i]:
            clipped = _clip(seen[a // 2 : b // 2])
            if len(clipped) < 3:
                continue
            spot = clipped[:, :2] / clipped[:, 2:] * focal + (width / 2, height / 2)
            one, two = (spot - 0.5).ravel().tolist(), (2 * spot - 0.5).ravel().tolist()
        else:
            one, two = small[a:b], large[a:b]
        if classes[i] != UNLABELLED:
            mark(one, fill=classes[i])
        if materials[i] != UNSEEN:
            paint(two, fill=i + 1)
    return index, labels


def _clip(corners: np.ndarray) -> np.ndarray:
    """(n, 3) corners -> those of the part that lies before the near plane."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept).reshape(-1, 3)


def _paint_bonnet(index: Image.Image, labels: Image.Image, world: World, faces: int) -> None:
    """The own car at the lower edge, which has no class."""
    if world.bonnet is None:
        return
    rise = world.bonnet[0] * 0.2 + 0.06
    for canvas, ink in ((index, faces + 1), (labels, VOID)):
        width, height = canvas.size
        arc = [
            (width / 2 + width * 0.62 * t, height * (1 - rise * (1 - abs(t) ** 2.4)))
            for t in np.linspace(-1, 1, 21)
        ]
        ImageDraw.Draw(canvas).polygon([*arc, (width, height), (0, height)], fill=ink)


def _planes(seen: np.ndarray, starts: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(F+2, 3, 3) for rays (x, y, 1) of the camera; u runs along the first edge of the face."""
    origin = seen[starts]
    along = seen[starts + 1] - origin
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    third = seen[starts + 2] - origin
    up = third - along * np.sum(third * along, axis=1, keepdims=True)
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-9)
    offset = np.sum(normals * origin, axis=1, keepdims=True)
    offset = np.where(np.abs(offset) < 1e-4, -1e-4, offset)
    inverse = normals / offset
    u = along - np.sum(along * origin, axis=1, keepdims=True) * inverse
    v = up - np.sum(up * origin, axis=1, keepdims=True) * inverse
    plane = np.zeros((len(starts) + 2, 3, 3), np.float32)
    plane[1:-1] = np.stack((u, v, inverse), axis=2)
    plane[-1] = np.eye(3)
    plane[-1, 2, 2] = 1.0
    return plane


def _ground_plane(axes: np.ndarray, camera: Camera) -> np.ndarray:
    """(3, 3): a ray times it gives (x, z, 1) / depth where it meets the street."""
    up = axes @ np.array([0.0, 1.0, 0.0])
    inverse = up / -camera.height
    across, ahead = axes @ np.array([1.0, 0.0, 0.0]), axes @ np.array([0.0, 0.0, 1.0])
    return np.stack((across, ahead, inverse), axis=1).astype(np.float32)


def _lit(rows: np.ndarray, normals: np.ndarray, weather: Weather, world: World) -> np.ndarray:
    """(F+2, 3) float32: the faces' colours under sun and sky, 1 is white."""
    facing = np.clip(normals @ np.array(weather.towards_sun), 0, 1)
    upward = normals[:, 1]
    material = rows[:, 1].astype(int)
    soft = np.isin(material, (FOLIAGE, CLOTH))
    facing = np.where(soft, 0.35 + 0.35 * facing, facing)
    sky = np.where(soft, 0.95, 0.82 + 0.18 * upward)
    light = sky[:, None] * np.array(weather.ambient) + facing[:, None] * np.array(weather.sun)
    lit = rows[:, 3:6] * light
    shiny = np.where(material == GLASS, 0.22, np.where(material == METAL, 0.06, 0.0))
    mirrored = np.array(weather.horizon) * (0.35 + 0.65 * np.clip(upward + 0.2, 0, 1))[:, None]
    lit += shiny[:, None] * mirrored * np.array(weather.ambient) * 1.6
    lit = np.where((material == GLOW)[:, None], rows[:, 3:6] * 1.1, lit)
    bonnet = np.array(world.bonnet or (0, 0, 0)) * np.array(weather.ambient)
    table = np.concatenate((np.array([weather.horizon]), lit, bonnet[None]))
    return np.asarray(table, np.float32)


def _shadows(
    world: World,
    weather: Weather,
    camera: Camera,
    axes: np.ndarray,
    focal: float,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 twice: the ground that the sun does not reach, and the ground under things."""
    sun = _project_patches(_cast(world, weather), camera, axes, focal, size)
    under = _project_patches(world.contacts, camera, axes, focal, size)
    soft = size[0] / 512
    return (
        np.asarray(sun.filter(ImageFilter.GaussianBlur(0.8 * soft))),
        np.asarray(under.filter(ImageFilter.GaussianBlur(2.2 * soft))),
    )


def _cast(world: World, weather: Weather) -> list[list[tuple[float, float]]]:
    """Outlines of the shadows on the ground; a negative height is a crown that floats there."""
    if max(weather.sun) < 0.05:
        return []
    sx, sy, sz = weather.towards_sun
    patches = []
    for foot, height in world.shadows:
        reach = min(abs(height) / sy, 60)
        moved = [(x - sx * reach, z - sz * reach) for x, z in foot]
        patches.append(moved if height < 0 else _hull([*foot, *moved]))
    return patches


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Convex hull by Andrew's monotone chain."""
    ordered = sorted(set(points))

    def half(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in run:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(ordered) + half(ordered[::-1])


def _project_patches(
    patches: Sequence[Ground],
    camera: Camera,
    axes: np.ndarray,
    focal: float,
    size: tuple[int, int],
) -> Image.Image:
    height, width = size
    canvas = Image.new("L", (width, height), 0)
    if not patches:
        return canvas
    draw = ImageDraw.Draw(canvas)
    lengths = [len(p) for p in patches]
    flat = np.array([c for p in patches for c in p])
    points = np.stack((flat[:, 0], np.full(len(flat), 0.02), flat[:, 1]), axis=1)
    seen = (_bend(points, camera) - (0.0, camera.height, 0.0)) @ axes.T
    stop = 0
    for length in lengths:
        start, stop = stop, stop + length
        corners = seen[start:stop]
        if corners[:, 2].min() < NEAR:
            corners = _clip(corners)
        if len(corners) > 2:
            spot = corners[:, :2] / corners[:, 2:] * focal + (width / 2 - 0.5, height / 2 - 0.5)
            draw.polygon(spot.ravel().tolist(), fill=255)
    return canvas
