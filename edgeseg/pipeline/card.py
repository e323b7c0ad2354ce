"""The card of shipped weights: what NAME.json knows, for people. Nothing is in one and not both."""

from __future__ import annotations

from typing import Any

from edgeseg.frame import format_size
from edgeseg.weights import is_non_commercial

Facts = dict[str, Any]
"""The content of NAME.json; `edgeseg.pipeline.ship` fills it in."""


def card(facts: Facts) -> str:
    """NAME.md."""
    name = facts["name"]
    parts = [
        f"# {name}: {facts['model']} for {len(facts['per_class'])} classes ({facts['classes']})",
        _table(("", ""), [(key, text) for key, text in _rows(facts) if text], numbers=0),
        f"## mIoU\n\n{_miou(facts)}",
        f"## Use and limits\n\n{facts['use']}\n\n" + "\n".join(f"- {x}" for x in facts["limits"]),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(facts: Facts) -> list[tuple[str, str]]:
    weights, recipe = facts["weights"], facts["recipe"]
    options = ", ".join(f"{key} {value}" for key, value in sorted(facts["options"].items()))
    work = ", ".join(f"{macs / 1e9:.3f} G MACs at {size}" for size, macs in facts["macs"].items())
    marked = "**Non-commercial use only.** " if is_non_commercial(weights["licence"]) else ""
    return [
        ("trained on", weights["data"]),
        ("licence", f"{marked}{weights['licence']}"),
        ("thanks to", "; ".join(facts["attribution"])),
        ("recipe", f"`{recipe['file']}`, digest `{recipe['digest']}`"),
        ("command", f"`{recipe['command']}`"),
        ("training", recipe["training"]),
        ("started from", "; then ".join(facts["starts"]) or "fresh weights"),
        ("options", options and f"`{options}`"),
        ("work", f"{facts['params']:,} parameters; {work}"),
        ("input", facts["input"]),
        ("stored", facts["stored"]),
        ("commit", facts["commit"]),
        ("machine", facts["machine"]),
    ]


def _miou(facts: Facts) -> str:
    """All scores, then IoU by class of the first one."""
    first = {key: facts[key] for key in ("size", "data", "miou", "pixel_accuracy", "frames")}
    rows = [
        (format_size(tuple(s["size"])), s["data"], s["frames"], _two(s["miou"]),
         _two(s["pixel_accuracy"]))
        for s in (first, *facts["also"])
    ]  # fmt: skip
    head = ("network size", "frames of", "frames", "mIoU", "pixel accuracy")
    classes = [
        (name, "not in the truth" if iou is None else _two(iou))
        for name, iou in facts["per_class"].items()
    ]
    return (
        f"{_table(head, rows, numbers=3)}\n\n{facts['rule']}. By class, of the first row:\n\n"
        f"{_table(('class', 'IoU'), classes, numbers=1)}"
    )


def _two(value: float) -> str:
    return f"{value:.2f}"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]], *, numbers: int) -> str:
    """Markdown; the last `numbers` columns are numbers."""
    marks = ("---",) * (len(head) - numbers) + ("---:",) * numbers
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
        for row in (head, marks, *rows)
    )
