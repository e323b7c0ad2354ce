"""Charts as SVG text: the accuracy-latency front and latency strips.

Colours and fonts come from the page's style sheet by class, so that dark mode and print apply.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from edgeseg.benchmarks.rows import front

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""

# fmt: off
MARKS = {
    # engine        outline around (0, 0), about 12 px wide
    "onnxruntime":  '<circle r="6"/>',
    "openvino":     '<rect x="-5.5" y="-5.5" width="11" height="11" rx="1.5"/>',
    "torch":        '<path d="M0-7 6.5 5.5h-13z"/>',
    "tensorrt":     '<path d="M0-7.5 7.5 0 0 7.5-7.5 0z"/>',
    "tensorrt-rtx": '<path d="M-7-3h14L0 7.5z"/>',
}
OTHER_MARK =        '<path d="M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"/>'
# fmt: on


@dataclass(frozen=True)
class Point:
    """A row on the front chart: milliseconds, mIoU, label, and what it looks like."""

    x: float
    y: float
    label: str
    engine: str
    precision: str
    title: str


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` -> pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 and their tenfolds within [low, high]; finer where fewer than three of them fit."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + i / 10 for i in range(90))):
        ticks = [
            step * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps
            if low <= step * 10.0**power <= high
        ]
        if len(ticks) >= 3:
            break
    stride = -(-len(ticks) // 9)
    return ticks[::stride]


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round values within [low, high]."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def front_chart(points: Sequence[Point], width: int, height: int, most: int | None = None) -> str:
    """Latency (log) against mIoU: every row, the front line, labels that touch nothing.

    Of more than `most` points those on the front alone are labelled.
    """
    left, right, top, bottom = 46, 16, 30, 44
    x, y = _scales(points, (left, width - right), (height - bottom, top))
    spots = [(x(p.x), y(p.y)) for p in points]
    best = front([(p.x, p.y) for p in points])
    parts = [*_axes(x, y, width, height, (left, right, top, bottom))]
    line = [spots[i] for i in best]
    if len(line) > 1:
        parts.append(f'<polyline class="front" points="{_points(_stairs(line))}"/>')
    inside = (left + 4, top + 2, width - right - 2, height - bottom - 4)
    every = most is None or len(points) <= most
    labels = [p.label if every or i in best else "" for i, p in enumerate(points)]
    placed = place_labels(spots, labels, inside, _along(_stairs(line)))
    for (px, py), label in zip(spots, placed, strict=True):
        if label and label.far:
            cx, cy = label.anchor
            parts.append(f'<path class="leader" d="M{px:.1f} {py:.1f}L{cx:.1f} {cy:.1f}"/>')
    for index, (point, (px, py)) in enumerate(zip(points, spots, strict=True)):
        kind = "on" if index in best else "off"
        parts.append(
            f'<g class="mark {escape(point.precision)} {kind}" '
            f'transform="translate({px:.1f} {py:.1f})"><title>{escape(point.title)}</title>'
            f"{MARKS.get(point.engine, OTHER_MARK)}</g>"
        )
    for point, label in zip(points, placed, strict=True):
        if label:
            bx, _, _, by = label.box
            parts.append(f'<text class="label" x="{bx:.1f}" y="{by - 4:.1f}">{_text(point)}</text>')
    return _svg(width, height, "Accuracy against latency of every row", parts)


def _text(point: Point) -> str:
    return escape(point.label)


def _scales(
    points: Sequence[Point], xs: tuple[float, float], ys: tuple[float, float]
) -> tuple[Scale, Scale]:
    low, high = min(p.x for p in points), max(p.x for p in points)
    margin = max((high / low) ** 0.09, 1.12)
    floor, ceiling = min(p.y for p in points), max(p.y for p in points)
    room = max(0.14 * (ceiling - floor), 0.5)
    return (
        Scale(low / margin, high * margin, *xs, log=True),
        Scale(floor - room, min(ceiling + room, 100.0 + room / 2), *ys),
    )


def _axes(
    x: Scale, y: Scale, width: int, height: int, edges: tuple[int, int, int, int]
) -> list[str]:
    left, right, top, bottom = edges
    base = height - bottom
    parts = []
    for tick in log_ticks(x.low, x.high):
        px = x(tick)
        parts.append(f'<path class="grid" d="M{px:.1f} {top}V{base}"/>')
        parts.append(f'<text class="tick" x="{px:.1f}" y="{base + 18}">{tick:g}</text>')
    ticks = linear_ticks(y.low, y.high)
    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 1
    for tick in ticks:
        py = y(tick)
        parts.append(f'<path class="grid" d="M{left} {py:.1f}H{width - right}"/>')
        parts.append(
            f'<text class="tick end" x="{left - 8}" y="{py + 4:.1f}">{tick:.{places}f}</text>'
        )
    parts.append(
        f'<text class="axis" x="{width - right}" y="{height - 6}">median ms per call, log '
        "\N{RIGHTWARDS ARROW} slower</text>"
    )
    parts.append('<text class="axis start" x="4" y="12">mIoU \N{UPWARDS ARROW} better</text>')
    return parts


def text_width(text: str) -> float:
    """Pixels of a label (12 px) in the widest font that a browser may take for it (DejaVu Sans)."""
    return sum(4.2 if c in " .,:il" else 8.6 if c.isupper() else 7.5 for c in text)


def _stairs(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The front as stairs: what is reachable at a given time."""
    corners = list(line[:1])
    for px, py in line[1:]:
        corners += [(px, corners[-1][1]), (px, py)]
    return corners


def _points(line: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in line)


def _along(line: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line, for labels to keep clear of."""
    boxes = []
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        steps = max(1, int(math.hypot(bx - ax, by - ay) // 5))
        for i in range(steps + 1):
            cx, cy = ax + (bx - ax) * i / steps, ay + (by - ay) * i / steps
            boxes.append((cx - 1, cy - 1, cx + 1, cy + 1))
    return boxes


@dataclass(frozen=True)
class Placed:
    """A label's box; `anchor` is where its leader line ends, drawn when it is `far`."""

    box: Box
    anchor: tuple[float, float]
    far: bool
    cost: float = 0.0


def place_labels(
    spots: Sequence[tuple[float, float]],
    labels: Sequence[str],
    inside: Box,
    lines: Sequence[Box] = (),
) -> list[Placed | None]:
    """A place for each label near its spot that touches no other label and no spot; "" needs none.

    Labels and leaders also keep clear of `lines` and of each other's leaders where they can. None
    where there is no room at all. Labels are placed one by one, nearest ring first; of several
    orders the best outcome is taken.
    """
    dice = random.Random(0)
    everyone = [i for i, label in enumerate(labels) if label]
    orders = [sorted(everyone, key=lambda i: spots[i])]
    orders += [dice.sample(everyone, len(everyone)) for _ in range(24)]
    outcomes = [_place_in_order(order, spots, labels, inside, lines) for order in orders]
    return min(outcomes, key=lambda placed: sum(_cost(placed[i]) for i in everyone))


def _cost(placed: Placed | None) -> float:
    return placed.cost if placed else 2000.0


def _place_in_order(
    order: Sequence[int],
    spots: Sequence[tuple[float, float]],
    labels: Sequence[str],
    inside: Box,
    lines: Sequence[Box],
) -> list[Placed | None]:
    marks: list[Box] = [(px - 8, py - 8, px + 8, py + 8) for px, py in spots]
    placed: list[Placed | None] = [None] * len(spots)
    boxes: list[Box] = []
    soft = list(lines)
    for index in order:
        others = marks[:index] + marks[index + 1 :]
        width = text_width(labels[index])
        found = _find(spots[index], width, inside, (*marks, *boxes, *soft), (*others, *boxes))
        if found is None:
            found = _find(spots[index], width, inside, (*marks, *boxes), ())
            found = replace(found, cost=found.cost + 500) if found else None
        if found is not None:
            boxes.append(found.box)
            soft += _along([spots[index], found.anchor]) if found.far else []
            placed[index] = found
    return placed


def _find(
    spot: tuple[float, float],
    width: float,
    inside: Box,
    taken: Sequence[Box],
    crossed: Sequence[Box],
) -> Placed | None:
    """The nearest free box; `taken` stops the label, `crossed` its leader."""
    px, py = spot
    for radius in (12, 20, 34, 50, 70, 95, 125, 160):
        for degrees in (0, 180, -90, 90, -35, 35, -145, 145, -60, 60, -120, 120):
            dx, dy = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            cx, cy = px + radius * dx, py + radius * dy
            start = cx - width * (1 - dx) / 2
            box = (start, cy - 8 + 6 * dy, start + width, cy + 8 + 6 * dy)
            if not _within(box, inside) or any(overlap(box, other) for other in taken):
                continue
            anchor = min(max(px, box[0]), box[2]), min(max(py, box[1] + 3), box[3] - 3)
            leader = _along([spot, anchor]) if radius > 20 else []
            if not any(overlap(a, b) for a in leader for b in crossed):
                return Placed(box, anchor, radius > 20, radius)
    return None


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share some area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _within(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


STRIP = (1000, 56)
"""Units of a strip, stretched to the space there is: only geometry, no text."""


def strip_chart(samples: Sequence[float], marks: Sequence[float | None], x: Scale) -> str:
    """Every sample as a line, their density above, and marks (p50, p90, p99) through both.

    `samples` and `marks` are in the unit of `x`, whose pixels run from 0 to STRIP[0].
    """
    width, height = STRIP
    ground = height - 16
    places = sorted({round(x(s) * 2) / 2 for s in samples})
    ticks = "".join(f"M{p:g} {ground + 3}v12" for p in places)
    parts = [
        f'<path class="density" d="{_density([x(s) for s in samples], width, ground)}"/>',
        f'<path class="rug" d="{ticks}"/>',
    ]
    for name, mark in zip(("p50", "p90", "p99"), marks, strict=False):
        if mark is not None:
            parts.append(f'<path class="{name}" d="M{x(mark):.1f} 2V{height}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _density(places: Sequence[float], width: int, ground: int) -> str:
    """A filled curve: a histogram of 4-unit bins, smoothed by a Gaussian of 1.5 bins."""
    bins = [0.0] * (width // 4 + 1)
    for place in places:
        bins[min(max(int(place // 4), 0), len(bins) - 1)] += 1
    kernel = [math.exp(-0.5 * (i / 1.5) ** 2) for i in range(-5, 6)]
    smooth = [
        sum(k * bins[i + j - 5] for j, k in enumerate(kernel) if 0 <= i + j - 5 < len(bins))
        for i in range(len(bins))
    ]
    top = max(smooth)
    steps = [
        f"L{4 * i + 2} {ground - 0.9 * ground * value / top:.1f}"
        for i, value in enumerate(smooth)
        if value > 0.002 * top
        or (i and smooth[i - 1] > 0.002 * top)
        or (i + 1 < len(smooth) and smooth[i + 1] > 0.002 * top)
    ]
    first = steps[0][1:].split(" ")[0]
    last = steps[-1][1:].split(" ")[0]
    return f"M{first} {ground}" + "".join(steps) + f"L{last} {ground}z"


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
