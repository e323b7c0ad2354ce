"""`edgeseg models`."""

from __future__ import annotations

import argparse
from typing import Any

from edgeseg.cli.output import add_json, print_json
from edgeseg.models import MODELS, WRAPPERS
from edgeseg.pipeline.model import list_models

EXAMPLE = "edgeseg models --json -"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    models = list_models()
    print_json(args.json, {"models": models})
    if args.json != "-":
        print(_table(models))
    return 0


def _table(models: list[dict[str, Any]]) -> str:
    sizes = list(models[0]["macs"])
    head = ("model", "params", *(f"MACs {size}" for size in sizes), "shipped weights", "paper")
    rows = [head]
    for model in models:
        macs = (f"{model['macs'][size] / 1e9:.2f} G" for size in sizes)
        params = f"{model['params'] / 1e6:.3f} M"
        weights = model["weights"] or "-"
        rows.append((model["name"], params, *macs, weights, model["source"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, "(for 19 classes; one multiply-add is one MAC)", _wrappers()])


def _wrappers() -> str:
    papers = [f"+{name} ({entry.paper})" for name, entry in WRAPPERS.items()]
    host = next(iter(MODELS))
    return f"Behind each name may follow {', then '.join(papers)}: such as {host}+dsrl."
