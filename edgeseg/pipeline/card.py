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
        f"# {name}: {facts['model']} for {_classes(facts)}",
        _table(("", ""), [(key, text) for key, text in _rows(facts) if text], numbers=0),
        f"## mIoU\n\n{_refined(facts) if 'refined' in facts else _miou(facts)}",
        f"## Use and limits\n\n{facts['use']}\n\n" + "\n".join(f"- {x}" for x in facts["limits"]),
    ]
    return "\n\n".join(parts) + "\n"


def _classes(facts: Facts) -> str:
    count, table = len(facts["per_class"]), facts["classes"]
    if "refined" in facts:
        return f"masks of one class (trained on those of {table})"
    return f"{count} classes ({table})"


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


def _refined(facts: Facts) -> str:
    """Scores of labels before and after they were refined, then IoU by class."""
    found = facts["refined"]
    before, gain = found["before"], found["gain"]
    scores = {"mIoU": ("miou", before["miou"], facts["miou"])}
    if "mba" in found:
        scores["mBA"] = ("mba", *found["mba"])
    rows = [
        (name, _two(old), _two(new), _gain(gain[key])) for name, (key, old, new) in scores.items()
    ]
    classes = [
        (name, "not in the truth" if iou is None else _two(iou), "" if iou is None else _two(new))
        for (name, iou), new in zip(
            before["per_class"].items(), facts["per_class"].values(), strict=True
        )
    ]
    return (
        f"Labels of `{found['labels_of']}`, refined in torch, on {facts['frames']} frames of "
        f"{facts['data']}; brackets: 95 % bootstrap intervals over frames.\n\n"
        f"{_table(('', 'before', 'after', 'gain'), rows, numbers=3)}\n\n"
        f"{facts['rule']}. By class:\n\n"
        f"{_table(('class', 'IoU before', 'after'), classes, numbers=2)}"
    )


def _gain(found: dict[str, float]) -> str:
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]], *, numbers: int) -> str:
    """Markdown; the last `numbers` columns are numbers."""
    marks = ("---",) * (len(head) - numbers) + ("---:",) * numbers
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
        for row in (head, marks, *rows)
    )
