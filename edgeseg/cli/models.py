"""`edgeseg models`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from edgeseg.cli.output import add_json, print_json
from edgeseg.frame import format_size
from edgeseg.models import MODELS, WRAPPERS
from edgeseg.pipeline.model import list_models, list_weights

EXAMPLE = "edgeseg models --json -"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    models, weights = list_models(), list_weights()
    print_json(args.json, {"models": models, "shipped": weights})
    if args.json != "-":
        print(_models(models))
        print()
        print(_weights(weights))
    return 0


def _models(models: list[dict[str, Any]]) -> str:
    sizes = list(models[0]["macs"])
    rows = [("model", "params", *(f"MACs {size}" for size in sizes), "paper")]
    for model in models:
        macs = (f"{model['macs'][size] / 1e9:.2f} G" for size in sizes)
        rows.append((model["name"], f"{model['params'] / 1e6:.3f} M", *macs, model["source"]))
    return f"{_table(rows)}\n(for 19 classes; one multiply-add is one MAC)\n{_wrappers()}"


def _wrappers() -> str:
    papers = [f"+{name} ({entry.paper})" for name, entry in WRAPPERS.items()]
    host = next(iter(MODELS))
    return f"Behind each name may follow {', then '.join(papers)}: such as {host}+dsrl."


def _weights(weights: list[dict[str, Any]]) -> str:
    if not weights:
        return "No weights are shipped."
    rows = [("shipped weights", "model", "classes", "val mIoU", "trained on", "licence")]
    for row in weights:
        marked = "NON-COMMERCIAL: " if row["non_commercial"] else ""
        rows.append(
            (
                row["name"],
                row["model"] or "-",
                row["classes"],
                f"{_miou(row)} ({row['miou_data']}, {row['frames']} frames)",
                row["data"],
                marked + row["licence"],
            )
        )
    return (
        f"{_table(rows)}\n"
        "These names are taken wherever MODEL is asked for: edgeseg export espnet_q3 --target ...\n"
        "A refiner's (cascadepsp) is for 'edgeseg refine', export and bench."
    )


def _miou(row: dict[str, Any]) -> str:
    refined = row["refined"]
    if refined is None:
        return f"{row['miou']:.2f} at {format_size((row['size'][0], row['size'][1]))}"
    return f"{refined['gain']['miou']['value']:+.2f} on labels of {refined['labels_of']}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as lines, column under column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
