"""The results table of a README, generated from results, never typed by hand.

`python -m edgeseg.benchmarks.tables README.md benchmarks/results/FILE.json` writes it between the
markers; `--check` writes nothing and fails when the table is not what the results say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.compare import read_results
from edgeseg.benchmarks.pages import Page, table
from edgeseg.benchmarks.rows import (
    count,
    disturbance,
    engine_name,
    in_order,
    milliseconds,
    miou_change,
    number,
    precision_name,
    signed,
    size_name,
    unclean,
)
from edgeseg.errors import UsageError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEAD = (
    "model", "size", "engine", "precision", "MACs", "params", "p50 ms", "p90 ms", "p99 ms", "fps",
    "mIoU", "against float", "MiB",
)  # fmt: skip


def results_table(results: dict[str, Any]) -> str:
    """A bench result -> a Markdown table and the sentences without which it says little."""
    rows = in_order(results["results"])
    cells = [
        (
            row["model"] + (f" batch {row['batch']}" if row["batch"] != 1 else ""),
            size_name(row),
            engine_name(row),
            precision_name(row),
            count(row["macs"]),
            count(row["params"]),
            *(milliseconds(row["latency_ms"][p]) for p in ("p50", "p90", "p99")),
            number(row["throughput_fps"], 1),
            number(row.get("miou"), 2) + ("†" if row.get("seen_in_training") else ""),
            signed(miou_change(row, rows), 2),
            number(row["file_mib"], 2),
        )
        for row in rows
    ]
    return "\n".join([table(HEAD, cells, words=4), "", *_notes(rows)])


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    about = rows[0]["machine"]
    threads = ", ".join(str(t) for t in sorted({r["threads"] for r in rows}))
    engines = sorted({f"{engine_name(r)} {r['engine']['version']}" for r in rows})
    notes = [
        f"Measured on {about['cpu']} ({about['cores']} cores visible, threads: {threads}); "
        f"{', '.join(engines)}. Latency is one whole call, uint8 frame at the network's size to "
        "labels."
    ]
    disturbed = disturbance(rows)
    notes += [text for text in (disturbed, unclean(rows)) if text]
    scored = [r for r in rows if r.get("miou") is not None]
    for text in sorted({_data_sentence(r) for r in scored}):
        notes.append(text)
    if any(r.get("seen_in_training") for r in rows):
        notes.append("† The weights were trained on these frames.")
    uncounted = sorted({name for r in rows for name in r.get("uncounted") or {}})
    if uncounted:
        notes.append(f"MACs leave out what can't be counted: {', '.join(uncounted)}.")
    return notes


def _data_sentence(row: dict[str, Any]) -> str:
    data = row["data"]
    return (
        f"mIoU on {data['kind']} {data['split']}, {data['frames']} frames, fit {row['fit']}: "
        f"{row['rule']}."
    )


def with_table(text: str, made: str, where: str) -> str:
    """`text` with `made` between the markers; UsageError when they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(
            f"{where}: expected the lines '{BEGIN}' and '{END}' once each, in this order"
        )
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _make(path: Path, results: list[Path]) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    return with_table(text, results_table(read_results(results[0])), str(path))


PAGE = Page(
    "edgeseg.benchmarks.tables",
    "Write the results table between the markers of a Markdown file",
    "JSON written by 'edgeseg bench'",
    _make,
)

if __name__ == "__main__":
    sys.exit(PAGE.main(sys.argv[1:]))
