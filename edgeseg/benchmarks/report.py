"""`report.html`: one file that shows a bench result; style, charts and pictures are inside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from edgeseg.benchmarks import report_board, report_charts, report_frames, report_table
from edgeseg.benchmarks.pictures import Picture
from edgeseg.benchmarks.rows import (
    Row,
    disturbance,
    engine_name,
    headline,
    in_order,
    milliseconds,
    miou_change,
    number,
    p50,
    precision_name,
    reference,
    signed,
    size_name,
    speed_up,
    unclean,
)
from edgeseg.disk import write_text
from edgeseg.errors import UsageError
from edgeseg.labels import ClassTable


def write_report(
    results: dict[str, Any],
    path: Path,
    pictures: Sequence[Picture] = (),
    classes: ClassTable | None = None,
) -> None:
    """Write the report of `results` (the content of results.json) to `path`.

    `results` may also hold "command" or "commands" (what was typed), "created" (ISO time) and
    "failed" ([{"folder", "error"}]). `classes` gives the pictures and the bars their colours;
    pictures need it. What pictures hold under "int8" is the network of the headline.
    """
    write_text(path, to_html(results, pictures, classes))


def to_html(
    results: dict[str, Any],
    pictures: Sequence[Picture] = (),
    classes: ClassTable | None = None,
) -> str:
    """The text of the report."""
    rows = in_order(results["results"])
    if not rows:
        raise UsageError("a result without rows makes no report; measure at least one model")
    if pictures and classes is None:
        raise UsageError("pictures need a class table for their colours")
    lead = headline(rows)
    name = precision_name(lead) if lead else "INT8"
    sections = [
        _hero(results, rows, lead, report_frames.cover(pictures, classes, name)),
        report_charts.front_section(rows),
        report_table.section(rows, lead),
        _failed(results),
        report_frames.section(pictures, classes, name) if classes else "",
        report_charts.latency_section(rows),
        report_board.section(rows),
        report_board.soak_section(rows),
        report_frames.classes_section(rows, lead, classes),
        _method(results, rows),
    ]
    return _page(_title(lead), "\n".join(s for s in sections if s))


def _page(title: str, body: str) -> str:
    room = resources.files("edgeseg.benchmarks")
    style = room.joinpath("report.css").read_text(encoding="utf-8")
    script = room.joinpath("report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n<footer>Made by edgeseg bench. One file, nothing is loaded from elsewhere."
        f"</footer>\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _title(lead: Row | None) -> str:
    if lead is None:
        return "edgeseg bench"
    score = f", mIoU {number(lead['miou'])}" if lead.get("miou") is not None else ""
    return f"{lead['model']}: {milliseconds(p50(lead))} ms{score} \N{EN DASH} edgeseg bench"


def _date(results: dict[str, Any]) -> str:
    """`2026-01-31 14:05` of an ISO time."""
    return str(results.get("created") or "")[:16].replace("T", " ")


def _failed(results: dict[str, Any]) -> str:
    """What was asked for and could not be measured."""
    entries = results.get("failed") or []
    if not entries:
        return ""
    items = "".join(
        f"<dt>{escape(str(e['folder']))}</dt><dd>{escape(str(e['error']))}</dd>" for e in entries
    )
    return (
        '<section class="card failed" id="failed"><h2>Not measured</h2>'
        f"<p>Refused by the accuracy gate or by the engine.</p><dl>{items}</dl></section>"
    )


def _hero(results: dict[str, Any], rows: Sequence[Row], lead: Row | None, cover: str) -> str:
    """The headline; `cover` is a figure to stand beside it, or nothing."""
    about = rows[0]["machine"]
    where = about.get("board") or about["cpu"]
    cores = about["cores"]
    parts = ["edgeseg bench", _date(results), f"{where}, {cores} cores"]
    eyebrow = " · ".join(escape(str(p)) for p in parts if p)
    if lead is None:
        line = "<h1>Too few samples for a median</h1>"
        return f'<header class="card hero"><p class="eyebrow">{eyebrow}</p>{line}</header>'
    kind = escape(lead["precision"])
    heading = f"<em>{milliseconds(p50(lead))} ms</em> a frame"
    if lead.get("miou") is not None:
        heading += f", mIoU <em>{number(lead['miou'])}</em>"
        change = miou_change(lead, rows)
        if change is not None:
            heading += f" <small>({signed(change)} against float)</small>"
    threads = f"{lead['threads']} thread{'' if lead['threads'] == 1 else 's'}"
    what = (
        f"{escape(lead['model'])} at {size_name(lead)}, {precision_name(lead)} on "
        f"{escape(engine_name(lead))}, {threads}: the median of {lead['latency_ms']['n']:,} "
        "whole calls, frame in, labels out."
    )
    warnings = [_busy(lead) if disturbance([lead]) else None, unclean([lead])]
    warning = "".join(f'<p class="warning">{escape(w)}</p>' for w in warnings if w)
    tiles = "".join(
        f'<div class="tile"><b>{value}</b><span>{escape(text)}</span></div>'
        for value, text in _tiles(rows, lead)
    )
    return (
        f'<header class="card hero"><div class="{"split" if cover else "whole"}"><div>'
        f'<p class="eyebrow">{eyebrow}</p><h1 class="{kind}">{heading}</h1>'
        f'<p class="what">{what}</p>{warning}</div>{cover}</div>'
        f'<div class="tiles">{tiles}</div></header>'
    )


def _busy(row: Row) -> str:
    """A sentence for a row that was timed on a busy machine."""
    taken, cores = row["timing"]["others_cores"], row["machine"]["cores"]
    return (
        f"Other programs kept {taken:.1f} of {cores} cores busy meanwhile: on a quiet machine this "
        "engine is faster and steadier."
    )


def _tiles(rows: Sequence[Row], lead: Row) -> list[tuple[str, str]]:
    """At most five (value, what it is) pairs about the headline's row."""
    tiles = []
    faster, other = speed_up(lead, rows), reference(lead, rows)
    if faster:
        tiles.append((f"{faster:.1f}\N{MULTIPLICATION SIGN}", "as fast as float, same engine"))
    tiles.append((f"{number(lead['throughput_fps'], 0)} fps", "one call after the other"))
    tail = lead["latency_ms"]["p99"]
    name = "p99" if tail is not None else "p90"
    if lead["latency_ms"][name] is not None:
        share = "99" if name == "p99" else "90"
        slow = milliseconds(lead["latency_ms"][name])
        tiles.append((f"{slow} ms", f"{share} of 100 calls are no slower"))
    size = f"{number(lead['file_mib'], 2)} MiB"
    where = f"on disk, float {number(other['file_mib'], 2)}" if other else "on disk"
    tiles.append((size, where))
    energy = (lead.get("power") or {}).get("energy_mj_per_frame")
    if energy is not None:
        tiles.append((f"{number(energy, 1)} mJ", "energy of a frame, whole module"))
    elif lead.get("peak_rss_mib") is not None:
        tiles.append((f"{number(lead['peak_rss_mib'], 0)} MiB", "peak memory of the process"))
    return tiles


def _method(results: dict[str, Any], rows: Sequence[Row]) -> str:
    about = rows[0]["machine"]
    facts = [
        ("machine", about.get("board") or about["cpu"]),
        ("features", ", ".join(about.get("features") or []) or "none known"),
        ("cores, memory", f"{about['cores']} cores visible, {about.get('memory_gib')} GiB"),
        ("system", f"{about.get('os')}, kernel {about.get('kernel')}"),
        ("power mode", about.get("power_mode") or "not told by this machine"),
        ("others", disturbance(rows) or "no other program took more than a tenth of the cores"),
        ("throttling", _throttling(rows)),
        ("load at start", number(about.get("load"), 2)),
        ("python", about.get("python")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (about.get("libraries") or {}).items())),
        ("engines", ", ".join(sorted({_engine(r) for r in rows}))),
        ("fingerprint", about.get("fingerprint")),
    ]
    entries = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts)
    commands = results.get("commands") or [results.get("command") or ""]
    text = "\n".join(str(c) for c in commands)
    typed = f"<pre>{escape(text)}</pre>" if text else ""
    notes = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in _rules(rows))
    return (
        '<section class="card" id="method"><h2>How this was measured</h2>'
        "<p>Each row in a process of its own, warm-up apart, every sample kept.</p>"
        f"{typed}<dl>{notes}</dl><dl>{entries}</dl></section>"
    )


def _throttling(rows: Sequence[Row]) -> str:
    told = [(r.get("timing") or {}).get("throttled") for r in rows]
    if all(t is None for t in told):
        return "not told by this machine"
    return unclean(rows) or "none while a row was timed"


def _engine(row: Row) -> str:
    engine = row["engine"]
    device = engine.get("device")
    return f"{engine_name(row)} {engine['version']}" + (f" ({device})" if device else "")


def _rules(rows: Sequence[Row]) -> list[tuple[str, str]]:
    rules = [
        (
            "latency",
            "whole call: a uint8 frame at the network's own size, in memory, to labels. Decoding "
            "of files and resizing are not in it. A percentile q is shown from 10 / (1 - q) "
            "samples on; nothing is clipped",
        )
    ]
    scored = [r for r in rows if r.get("miou") is not None]
    for rule in sorted({str(r["rule"]) for r in scored}):
        rules.append(("mIoU", rule))
    data = {f"{r['data']['kind']} {r['data']['split']}, {r['data']['frames']} frames, fit: "
            f"{r['fit']}" for r in scored}  # fmt: skip
    rules += [("data", text) for text in sorted(data)]
    if scored:
        rules.append(("trained on them?", _seen(scored)))
    return rules


def _seen(rows: Sequence[Row]) -> str:
    """One sentence on whether the weights knew the frames."""
    answers = {r.get("seen_in_training") for r in rows}
    if answers == {False}:
        return "no: the weights never saw these frames"
    if answers == {None}:
        return "not known: the weights do not say what they were trained on"
    seen = sorted({str(r["model"]) for r in rows if r.get("seen_in_training")})
    if not seen:
        return "no, or not known"
    return f"yes, marked \N{DAGGER} in the table: {', '.join(seen)}. Their mIoU flatters"
