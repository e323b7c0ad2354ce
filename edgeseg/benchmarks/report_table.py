"""The table of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeseg.benchmarks.rows import (
    Row,
    count,
    crf_name,
    disturbance,
    engine_name,
    milliseconds,
    miou_change,
    number,
    p50,
    precision_name,
    reference,
    signed,
    size_name,
    slowed,
    unclean,
)

# fmt: off
COLUMNS = (
    # head     unit     sorts as   what it is
    ("#",      "",      "",        "number of the row"),
    ("model",  "",      "words",   "model, and network size as height by width"),
    ("engine", "",      "words",   "engine and precision; arithmetic in brackets where it differs"),
    ("p50",    "ms",    "number",  "median of whole calls"),
    ("p90",    "ms",    "number",  "nine of ten calls are no slower"),
    ("p99",    "ms",    "number",  "99 of 100 calls are no slower; needs 1,000 samples"),
    ("rate",   "fps",   "number",  "frames per second, one call after the other"),
    ("mIoU",   "%",     "number",  "mean IoU"),
    ("\N{GREEK CAPITAL LETTER DELTA}", "float", "number", "mIoU against the fp32 row"),
    ("MACs",   "",      "number",  "multiply-adds of one frame"),
    ("params", "",      "number",  "parameters"),
    ("file",   "MiB",   "number",  "what the engine loads"),
    ("memory", "MiB",   "number",  "peak resident memory of the process"),
    ("load",   "ms",    "number",  "edgeseg.load in a fresh process"),
    ("gate",   "",      "words",   "accuracy gate of the engine folder"),
)
# fmt: on


def section(rows: Sequence[Row], lead: Row | None) -> str:
    """All rows, `lead` marked."""
    heads = "".join(_head(*column) for column in COLUMNS)
    slowest = max((p50(r) or 0.0 for r in rows), default=0.0)
    body = "".join(
        _row(index, row, rows, slowest, row is lead) for index, row in enumerate(rows, start=1)
    )
    return (
        '<section class="card" id="table"><h2>Results</h2>'
        f"<p>{len(rows)} row{'' if len(rows) == 1 else 's'}, by model, size and median."
        '<span class="screen"> Click a column to sort.</span></p>'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_notes(rows)}</section>"
    )


def _head(name: str, unit: str, sort: str, what: str) -> str:
    words = ' class="words"' if sort == "words" else ""
    small = f"<small>{unit}</small>" if unit else ""
    sorts = f' data-sort="{sort}"' if sort else ""
    return f'<th scope="col"{words}{sorts} title="{escape(what)}">{escape(name)}{small}</th>'


def _row(index: int, row: Row, rows: Sequence[Row], slowest: float, leads: bool) -> str:
    latency = row["latency_ms"]
    details = size_name(row) + f", {row['threads']} thread{'' if row['threads'] == 1 else 's'}"
    details += f", batch {row['batch']}" if row["batch"] != 1 else ""
    change = miou_change(row, rows)
    cells = [
        f"<td>{index}</td>",
        _words(row["model"], details),
        _words(engine_name(row), precision_name(row) + (", dense CRF" if row.get("crf") else "")),
        _median(row, slowest),
        _number(latency["p90"], milliseconds(latency["p90"])),
        _number(latency["p99"], milliseconds(latency["p99"])),
        _number(row["throughput_fps"], number(row["throughput_fps"])),
        _miou(row),
        _change(row, rows, change),
        _number(row["macs"], count(row["macs"]) + ("*" if row.get("uncounted") else "")),
        _number(row["params"], count(row["params"])),
        _number(row["file_mib"], number(row["file_mib"], 2)),
        _number(row.get("peak_rss_mib"), number(row.get("peak_rss_mib"), 0)),
        _number(row["load_ms"], number(row["load_ms"], 0)),
        _gate(row),
    ]
    mark = ' class="lead-row"' if leads else ""
    return f"<tr{mark}>{''.join(cells)}</tr>"


def _words(first: object, second: str) -> str:
    first = escape(str(first))
    return (
        f'<td class="words" data-v="{first} {escape(second)}"><b>{first}</b>'
        f"<small>{escape(second)}</small></td>"
    )


def _number(value: float | None, text: str, style: str = "") -> str:
    kept = "" if value is None else f"{value:g}"
    return f'<td{style} data-v="{kept}">{text}</td>'


def _median(row: Row, slowest: float) -> str:
    value = p50(row)
    if value is None:
        return _number(None, milliseconds(None))
    width = 100 * value / slowest if slowest else 0
    bar = f'<i class="bar {escape(row["precision"])}" style="width:{width:.1f}%"></i>'
    throttled = '<span class="down" title="the machine throttled">!</span>' if slowed(row) else ""
    return _number(value, f"<b>{milliseconds(value)}</b>{throttled}{bar}")


def _miou(row: Row) -> str:
    seen = '<span title="trained on these frames">\N{DAGGER}</span>'
    text = number(row.get("miou"), 2) + (seen if row.get("seen_in_training") else "")
    return _number(row.get("miou"), text)


def _change(row: Row, rows: Sequence[Row], change: float | None) -> str:
    if change is None:
        return _number(None, "\N{EN DASH}")
    style = ' class="down"' if change < -0.5 else ' class="up"' if change > 0.005 else ""
    other = reference(row, rows)
    text = signed(change, 2)
    if other is not None and other["target"] != row["target"]:
        text += f"<small>to {escape(engine_name(other))}</small>"
    return _number(change, text, style)


def _gate(row: Row) -> str:
    state = str(row.get("gate") or "not run")
    kind = state.split(" ", maxsplit=1)[0]
    return (
        f'<td class="words" data-v="{escape(state)}">'
        f'<span class="chip {escape(kind)}">{escape(state)}</span></td>'
    )


def _notes(rows: Sequence[Row]) -> str:
    disturbed = disturbance(rows)
    notes = [text for text in (disturbed, unclean(rows)) if text]
    if any(r.get("seen_in_training") for r in rows):
        notes.append("\N{DAGGER} The weights were trained on these frames: this mIoU flatters.")
    missing = sorted({n for r in rows for n in r.get("uncounted") or {}})
    if missing:
        notes.append(f"* MACs leave out what can't be counted: {', '.join(missing)}.")
    notes += _ran(rows)
    if any(slowed(r) for r in rows):
        notes.append("! The machine throttled: the time is no time of this engine.")
    if any(r["latency_ms"][p] is None for r in rows for p in ("p50", "p90", "p99")):
        notes.append(
            "\N{EN DASH} instead of a percentile: too few samples for it (p50 needs 20, p90 100, "
            "p99 1,000)."
        )
    items = "".join(f"<li>{escape(n)}</li>" for n in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _ran(rows: Sequence[Row]) -> list[str]:
    """What ran before and behind the engine, a sentence for each combination of them."""
    numbered: dict[str, list[int]] = {}
    for index, row in enumerate(rows, start=1):
        crf = row.get("crf")
        cost = (row["stages_ms"].get("crf") or {}).get("p50")
        said = [
            f"Frames of other sizes prepared: {row['prepare']}" if row.get("prepare") else "",
            f"decode: {row['decode']}" if row.get("decode") and not crf else "",
            f"{crf_name(row)}, {milliseconds(cost)} ms of the call" if crf else "",
        ]
        text = "; ".join(filter(None, said))
        numbered.setdefault(text, []).append(index)
    return [
        f"Row{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}: {text}."
        for text, which in numbered.items()
        if text
    ]
