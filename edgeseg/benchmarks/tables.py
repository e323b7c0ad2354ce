"""The results table of a README, generated from results, never typed by hand.

`python -m edgeseg.benchmarks.tables README.md benchmarks/results/FILE.json` writes it between the
markers; `--check` writes nothing and fails when the table is not what the results say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.compare import read_results
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
)
from edgeseg.disk import write_text
from edgeseg.errors import ComparisonError, EdgesegError, UsageError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEAD = (
    "model", "size", "engine", "precision", "MACs", "params", "p50 ms", "p90 ms", "p99 ms", "fps",
    "mIoU", "against float", "MiB",
)  # fmt: skip
LEFT = 4
"""The first columns are words; the others are numbers and stand right."""


def results_table(results: dict[str, Any]) -> str:
    """A bench result -> a Markdown table and the sentences without which it says little."""
    rows = in_order(results["results"])
    lines = [_line(HEAD), _line(["---"] * LEFT + ["---:"] * (len(HEAD) - LEFT))]
    for row in rows:
        latency = row["latency_ms"]
        lines.append(
            _line(
                [
                    row["model"] + (f" batch {row['batch']}" if row["batch"] != 1 else ""),
                    size_name(row),
                    engine_name(row),
                    precision_name(row),
                    count(row["macs"]),
                    count(row["params"]),
                    *(milliseconds(latency[p]) for p in ("p50", "p90", "p99")),
                    number(row["throughput_fps"], 1),
                    number(row.get("miou"), 2) + ("†" if row.get("seen_in_training") else ""),
                    signed(miou_change(row, rows), 2),
                    number(row["file_mib"], 2),
                ]
            )
        )
    return "\n".join([*lines, "", *_notes(rows)])


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
    notes += [disturbed] if disturbed else []
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


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def with_table(text: str, table: str, where: str) -> str:
    """`text` with `table` between the markers; UsageError when they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(
            f"{where}: expected the lines '{BEGIN}' and '{END}' once each, in this order"
        )
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def update(path: Path, results: Path, *, check: bool) -> None:
    """Write the table of `results` into `path`; with `check`, ComparisonError if it differs."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    new = with_table(text, results_table(read_results(results)), str(path))
    if check and new != text:
        raise ComparisonError(
            f"{path}: the results table is not that of {results}; "
            f"run 'python -m edgeseg.benchmarks.tables {path} {results}'"
        )
    if not check and new != text:
        write_text(path, new)


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.benchmarks.tables",
        description="Write the results table between the markers of a Markdown file",
    )
    parser.add_argument("markdown", type=Path)
    parser.add_argument("results", type=Path, help="JSON written by 'edgeseg bench'")
    parser.add_argument("--check", action="store_true", help="fail when the table differs")
    args = parser.parse_args(words)
    try:
        update(args.markdown, args.results, check=args.check)
    except EdgesegError as error:
        print(f"edgeseg: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
