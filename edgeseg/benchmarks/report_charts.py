"""The chart sections of the report: accuracy-latency front and latency distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgeseg.benchmarks.charts import (
    MARKS,
    OTHER_MARK,
    STRIP,
    Point,
    Scale,
    front_chart,
    log_ticks,
    strip_chart,
)
from edgeseg.benchmarks.rows import (
    ENGINE_NAMES,
    Row,
    milliseconds,
    number,
    p50,
    precision_name,
    short_names,
)

MOST_NAMED = 14
"""Of more rows than this, the chart names those on the front alone."""


def front_section(rows: Sequence[Row]) -> str:
    """Scatter of p50 against mIoU, for wide and for narrow screens; "" for fewer than two rows."""
    shown = [
        (index, row, name)
        for index, (row, name) in enumerate(zip(rows, short_names(rows), strict=True), start=1)
        if p50(row) is not None and row.get("miou") is not None and row["batch"] == 1
    ]
    if len(shown) < 2:
        return ""
    wide = front_chart([_point(row, name) for _, row, name in shown], 1080, 470, MOST_NAMED)
    named = "; point at a mark to see its name" if len(shown) > MOST_NAMED else ""
    narrow = front_chart([_point(row, str(index)) for index, row, _ in shown], 350, 340)
    listed = "".join(
        f'<li value="{index}"><i class="dot {escape(row["precision"])}"></i>{escape(name)}: '
        f"{milliseconds(p50(row))} ms, {number(row['miou'])}</li>"
        for index, row, name in shown
    )
    return (
        '<section class="card" id="front"><h2>Accuracy against latency</h2>'
        "<p>Up and to the left is better. The dashed line joins the rows that no other beats in "
        f"both{named}.</p>"
        f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f'{_key([row for _, row, _ in shown])}<ol class="numbered">{listed}</ol></section>'
    )


def _point(row: Row, label: str) -> Point:
    median = p50(row) or math.nan
    title = (
        f"{row['model']} {row['target']} {precision_name(row)}: {median:g} ms, {row['miou']:.2f}"
    )
    return Point(median, row["miou"], label, row["target"], row["precision"], title)


def _key(rows: Sequence[Row]) -> str:
    """What shapes (engines) and colours (precisions) mean."""
    shapes = "".join(
        f'<span><svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 16 16" aria-hidden="true">'
        f'<g class="mark">{MARKS.get(target, OTHER_MARK)}</g></svg>'
        f"{escape(ENGINE_NAMES.get(target, target))}</span>"
        for target in dict.fromkeys(str(r["target"]) for r in rows)
    )
    colours = "".join(
        f'<span><i class="dot {p}"></i>{p.upper()}</span>'
        for p in ("fp32", "fp16", "int8")
        if any(r["precision"] == p for r in rows)
    )
    return f'<div class="key">{shapes}{colours}</div>'


def latency_section(rows: Sequence[Row]) -> str:
    """A strip for each row: every sample as a multiple of the row's own median."""
    shown = [
        (row, name)
        for row, name in zip(rows, short_names(rows), strict=True)
        if p50(row) is not None and row["latency_ms"].get("samples")
    ]
    if not shown:
        return ""
    x = _scale([row for row, _ in shown])
    ticks = _spaced(log_ticks(x.low, x.high), x)
    strips = "".join(_strip(row, name, x, ticks) for row, name in shown)
    scale = "".join(
        f'<span style="left:{x(t) / 10:.2f}%">{t:g}\N{MULTIPLICATION SIGN}</span>' for t in ticks
    )
    heads = "".join(f'<div class="head">{h}</div>' for h in ("p50 ms", "p90", "p99", "max"))
    lines = "".join(
        f'<span><svg class="line" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 14 16" '
        f'aria-hidden="true"><path class="{p}" d="M7 0v16"/></svg>{p}</span>'
        for p in ("p50", "p90", "p99")
    )
    return (
        '<section class="card" id="latency"><h2>How steady the latency is</h2>'
        "<p>Every tick is one call, as a multiple of its row's own median; the curve is their "
        "density. The further a row reaches to the right, the less a robot can rely on it.</p>"
        f'<div class="strips"><div class="head"></div><div class="head"></div>{heads}{strips}'
        f'<div class="name end"></div><div class="scale">{scale}</div></div>'
        f'<div class="key">{lines}</div></section>'
    )


def _scale(rows: Sequence[Row]) -> Scale:
    ratios = [s / (p50(r) or math.nan) for r in rows for s in r["latency_ms"]["samples"]]
    low, high = min([0.95, *ratios]), max([1.1, *ratios])
    return Scale(low / 1.02, high * 1.03, 0, STRIP[0], log=True)


def _spaced(ticks: Sequence[float], x: Scale) -> list[float]:
    """Ticks at least 8 % of the width apart and 3 % from the ends; 1 first."""
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda t: abs(math.log(t))):
        place = x(tick)
        if 30 <= place <= 970 and all(abs(place - x(k)) >= 80 for k in kept):
            kept.append(tick)
    return sorted(kept)


def _strip(row: Row, name: str, x: Scale, ticks: Sequence[float]) -> str:
    latency, median = row["latency_ms"], p50(row) or math.nan
    samples = [s / median for s in latency["samples"]]
    marks = [None if latency[p] is None else latency[p] / median for p in ("p50", "p90", "p99")]
    lines = "".join(f'<i style="left:{x(t) / 10:.2f}%"></i>' for t in ticks)
    svg = strip_chart(samples, marks, x).replace("<svg ", f'<svg class="{row["precision"]}" ', 1)
    values = "".join(
        f'<div class="value" data-name="{p}">{milliseconds(latency[p])}</div>'
        for p in ("p50", "p90", "p99", "max")
    )
    return (
        f'<div class="row"><div class="name"><i class="dot {escape(row["precision"])}"></i>'
        f'{escape(name)}</div><div class="plot">{lines}{svg}</div>{values}</div>'
    )
