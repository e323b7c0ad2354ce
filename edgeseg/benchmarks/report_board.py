"""What the board did in a report: power, heat, clocks, deadlines; and the long run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from edgeseg.benchmarks.charts import Scale, linear_ticks
from edgeseg.benchmarks.rows import Row, milliseconds, number, short_names, signed

SIZES = {"wide": (1080, 150), "narrow": (350, 130)}
"""Of the charts of a long run, for wide and for narrow screens."""
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26


def section(rows: Sequence[Row]) -> str:
    """Power, heat and deadlines of each row; "" where no row has any."""
    names = short_names(rows)
    told = [(r, n) for r, n in zip(rows, names, strict=True) if _facts(r)]
    if not told:
        return ""
    tables = "".join(
        f'<h3><i class="dot {escape(row["precision"])}"></i>{escape(name)}</h3>'
        f"<dl>{''.join(f'<dt>{k}</dt><dd>{escape(v)}</dd>' for k, v in _facts(row))}</dl>"
        for row, name in told
    )
    metered = any(row.get("power") for row, _ in told)
    whole = " Energy is the whole module's, idle parts and other programs included."
    return (
        '<section class="card" id="board"><h2>What the board did meanwhile</h2>'
        f"<p>While the calls of the table were timed.{whole if metered else ''}</p>{tables}"
        "</section>"
    )


def _facts(row: Row) -> list[tuple[str, str]]:
    return [*_pace(row), *_power(row.get("power")), *_conditions(row)]


def _pace(row: Row) -> list[tuple[str, str]]:
    pace = row.get("pace")
    if not pace:
        return []
    jitter, response = pace["jitter_ms"] or {}, pace["response_ms"] or {}
    return [
        (
            "deadline",
            f"{pace['missed']:,} of {pace['frames']:,} frames missed it ({pace['late']:,} late, "
            f"{pace['lost']:,} lost): {pace['deadline_ms']:g} ms at {pace['fps']:g} frames a "
            "second",
        ),
        (
            "response",
            f"p50 {milliseconds(response.get('p50'))} ms from a frame's arrival to its labels, "
            f"p99 {milliseconds(response.get('p99'))}, at most {milliseconds(response.get('max'))}",
        ),
        (
            "jitter",
            f"p50 {milliseconds(jitter.get('p50'))} ms off the camera's period, "
            f"p99 {milliseconds(jitter.get('p99'))}, at most {milliseconds(jitter.get('max'))}",
        ),
    ]


def _power(power: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not power:
        return []
    facts = []
    total, per_frame = power["total_w"], power["energy_mj_per_frame"]
    if total and per_frame is not None:
        sum_of = " + ".join(power["total_is"])
        facts.append(("energy", f"{per_frame:,.1f} mJ a frame"))
        facts.append(
            ("power", f"{total['mean']:.2f} W on average, at most {total['max']:.2f} ({sum_of})")
        )
    else:
        facts.append(("power", "the sum of this board's rails is not known"))
    rails = (f"{name} {rail['mean']:.2f} W" for name, rail in power["rails_w"].items())
    return [*facts, ("rails", ", ".join(rails))]


def _conditions(row: Row) -> list[tuple[str, str]]:
    found = row.get("conditions")
    if not found:
        return []
    facts = []
    if found["temperatures_c"]:
        heat = (f"{n} {t['max']:.1f} °C" for n, t in found["temperatures_c"].items())
        facts.append(("hottest", ", ".join(heat)))
    if found["clocks_mhz"]:
        facts.append(("clocks", ", ".join(_clock(n, c) for n, c in found["clocks_mhz"].items())))
    if busy := found.get("emc_percent"):
        share = f"{busy['mean']:.0f} % of its clocks on average, at most {busy['max']:.0f} %"
        facts.append(("memory busy", share))
    if found.get("unread"):
        facts.append(("not read", "; ".join(found["unread"])))
    if found["fan_percent"]:
        facts.append(("fan", f"{found['fan_percent']['mean']:.0f} %"))
    throttled = (row.get("timing") or {}).get("throttled")
    if throttled is not None:
        facts.append(("throttling", "; ".join(throttled) or "none"))
    return facts


def _clock(name: str, clock: dict[str, Any]) -> str:
    span = (
        f"{clock['min']:.0f}"
        if clock["min"] == clock["max"]
        else (f"{clock['min']:.0f} to {clock['max']:.0f}")
    )
    locked = {True: ", locked", False: ", not locked", None: ""}[clock.get("locked")]
    return f"{name} {span} MHz{locked}"


def soak_section(rows: Sequence[Row]) -> str:
    """Latency and memory over the long run of each row; "" where there is none."""
    names = short_names(rows)
    parts = [_soak(r["soak"], n) for r, n in zip(rows, names, strict=True) if r.get("soak")]
    if not parts:
        return ""
    return (
        '<section class="card" id="soak"><h2>The long run</h2>'
        "<p>Median and slowest call, and memory, part by part. Drift and growth are from the first "
        f"fifth of the run to the last.</p>{''.join(parts)}</section>"
    )


def _soak(found: dict[str, Any], name: str) -> str:
    windows = found["windows"]
    charts = [
        ("latency, ms: median, dotted the slowest", [("p50", "median_ms"), ("p99", "max_ms")]),
        ("memory, MiB: host, dotted the GPU's", [("p50", "host_mib"), ("p99", "device_mib")]),
    ]
    drawn = "".join(
        f"<figure>{_charts(windows, lines, title)}<figcaption>{title}</figcaption></figure>"
        for title, lines in charts
        if any(w.get(lines[0][1]) is not None for w in windows)
    )
    verdict = "steady" if found["steady"] else "; ".join(found["found"])
    throttled = "; ".join(found.get("throttled") or [])
    facts = [
        ("verdict", verdict + (f". Not clean: {throttled}" if throttled else "")),
        (
            "latency",
            f"{milliseconds(found['first_ms'])} to {milliseconds(found['last_ms'])} ms "
            f"({signed(found['drift_percent'])} %), slowest {milliseconds(found['max_ms'])} of "
            f"{found['calls']:,} calls in {number(found['seconds'], 0)} s",
        ),
        ("others", _others(found)),
        *(_grown(where, found[f"{where}_growth"]) for where in ("host", "device")),
        *((k, v) for k, v in _pace(found) if k == "deadline"),
        *((k, v) for k, v in _power(found.get("power")) if k in ("energy", "power")),
    ]
    entries = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return f"<h3>{escape(name)}</h3>{drawn}<dl>{entries}</dl>"


def _others(found: dict[str, Any]) -> str:
    taken = found.get("others_cores")
    return "" if not taken else f"other programs kept {taken:.1f} cores busy meanwhile"


def _grown(where: str, found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return f"{where} memory", ""
    hourly = found["mib_per_hour"]
    rate = "" if hourly is None else f", {signed(hourly)} MiB an hour"
    return (
        f"{where} memory",
        f"{number(found['first_mib'])} to {number(found['last_mib'])} MiB "
        f"({signed(found['mib'])}{rate})",
    )


def _charts(windows: Sequence[dict[str, Any]], lines: Sequence[tuple[str, str]], title: str) -> str:
    return "".join(
        f'<div class="{kind}">{_chart(windows, lines, title, size)}</div>'
        for kind, size in SIZES.items()
    )


def _chart(
    windows: Sequence[dict[str, Any]],
    lines: Sequence[tuple[str, str]],
    title: str,
    size: tuple[int, int],
) -> str:
    """Polylines of some columns over seconds, from zero up; `size` is (width, height)."""
    width, height = size
    values = [w[key] for w in windows for _, key in lines if w.get(key) is not None]
    x = Scale(0.0, windows[-1]["t_s"], LEFT, width - RIGHT)
    y = Scale(0.0, max(values) * 1.08 or 1.0, height - BOTTOM, TOP)
    parts = []
    for tick in linear_ticks(0.0, y.high, 4):
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{width - RIGHT}"/>'
            f'<text class="tick end" x="{LEFT - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>'
        )
    for tick in linear_ticks(0.0, x.high):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 6}">{tick:g} s</text>')
    for style, key in lines:
        points = " ".join(
            f"{x(w['t_s']):.1f},{y(w[key]):.1f}" for w in windows if w.get(key) is not None
        )
        if points:
            parts.append(f'<polyline class="{style}" points="{points}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
