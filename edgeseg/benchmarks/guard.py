"""`make perf`: is anything slower than the committed baseline says? Ratios and counts, never times.

`python -m edgeseg.benchmarks.guard benchmarks/perf.json RACE.json` compares a race with the
baseline; `--write` makes it the baseline. A ratio is of two contestants of one run; it has worsened
when its whole 95 % interval lies above that of the baseline. Counts are the nodes that OpenVINO
runs: more of them, or more reorders, is a regression by itself. Ratios are compared on the machine
that made the baseline only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.pages import read_content
from edgeseg.benchmarks.race import ratio
from edgeseg.disk import write_json
from edgeseg.errors import ComparisonError, UsageError, exit_code

KEYS = ("contestants", "roofline", "machine", "model", "size")

# fmt: off
PAIRS = (
    # ours                        over
    ("edgeseg fp32",              "engine alone fp32"),
    ("edgeseg int8",              "engine alone int8"),
    ("edgeseg fp32",              "openvino f32"),
    ("edgeseg fp32",              "usual script"),
    ("edgeseg fp16",              "edgeseg fp32"),
    ("edgeseg int8",              "edgeseg fp32"),
    ("edgeseg onnxruntime fp32",  "usual script"),
)
# fmt: on


def summarise(content: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps of a race: where it ran, ratios of PAIRS, nodes by precision."""
    rounds = {row["name"]: np.array(row["rounds_ms"])[:, None] for row in content["contestants"]}
    return {
        "model": content["model"],
        "size": content["size"],
        "machine": content["machine"]["fingerprint"],
        "cpu": content["machine"]["cpu"],
        "libraries": content["machine"]["libraries"],
        "ratios": {
            f"{ours} / {other}": ratio(rounds[ours], rounds[other])
            for ours, other in PAIRS
            if ours in rounds and other in rounds
        },
        "nodes": {
            entry["precision"]: {
                "all": sum(entry["nodes"].values()),
                "reorders": sum(n for k, n in entry["nodes"].items() if k.startswith("Reorder")),
            }
            for entry in content["roofline"]["networks"]
        },
    }


def worse(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One sentence for everything that has worsened."""
    found = [
        f"{precision}: {counts[kind]} nodes ({kind}), {old['nodes'][precision][kind]} before"
        for precision, counts in new["nodes"].items()
        for kind in ("all", "reorders")
        if precision in old["nodes"] and counts[kind] > old["nodes"][precision][kind]
    ]
    if old["machine"] != new["machine"]:
        return found
    for pair, (low, middle, high) in new["ratios"].items():
        if pair in old["ratios"] and low > old["ratios"][pair][2]:
            was = old["ratios"][pair]
            found.append(
                f"{pair}: {middle:.2f} [{low:.2f}, {high:.2f}], "
                f"before {was[1]:.2f} [{was[0]:.2f}, {was[2]:.2f}]"
            )
    return found


def guard(baseline: Path, race: Path, *, write: bool) -> str:
    """Compare or write; what to say. ComparisonError when something has worsened."""
    content = read_content(race, KEYS, what="a race", made="edgeseg race")
    new = summarise(content)
    if write:
        write_json(baseline, new)
        return f"{baseline}: {len(new['ratios'])} ratios of {new['model']}"
    old = read_content(
        baseline, ("ratios", "nodes", "machine"), what="a baseline", made="make perf WRITE=1"
    )
    if (old["model"], old["size"]) != (new["model"], new["size"]):
        raise UsageError(
            f"{race} is of {new['model']} at {new['size']}, {baseline} of {old['model']} at "
            f"{old['size']}"
        )
    found = worse(old, new)
    if found:
        raise ComparisonError("slower than the baseline: " + "; ".join(found))
    if old["machine"] != new["machine"]:
        return (
            f"nodes are no more than in {baseline}; ratios are not compared: it was made on "
            f"another machine ({old['cpu']})"
        )
    return f"nothing is slower than {baseline}: {len(new['ratios'])} ratios, and nodes"


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.benchmarks.guard", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("baseline", type=Path)
    parser.add_argument("race", type=Path, help="race.json of 'edgeseg race'")
    parser.add_argument("--write", action="store_true", help="make the race the baseline")
    args = parser.parse_args(words)
    return exit_code(
        lambda: print(guard(args.baseline, args.race, write=args.write))  # noqa: T201
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
