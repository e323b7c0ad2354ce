"""INT8 by our methods and by others: same float models, same frames, every engine, one JSON file.

`python -m edgeseg.pipeline.int8_comparison benchmarks/suites/int8.toml --prepare` does all of it;
`--only` some models or methods, whose rows replace those that the result holds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.machine import machine
from edgeseg.disk import write_json
from edgeseg.errors import ComparisonError, UsageError, exit_code
from edgeseg.metrics import RULE
from edgeseg.pipeline import study
from edgeseg.pipeline.environments import install
from edgeseg.pipeline.int8_comparison_run import Stage, make_stage, run_method, time_engine
from edgeseg.pipeline.int8_comparison_score import Row
from edgeseg.pipeline.int8_comparison_suite import Suite
from edgeseg.pipeline.plan import Say
from edgeseg.recipe import read_recipe

MODULE = "edgeseg.pipeline.int8_comparison"


def prepare(suite: Suite, say: Say) -> None:
    """Make the models and environments that are not there."""
    study.prepare(suite.prepare, say)
    install(Path(suite.folder), suite.environments, say)


def compare(
    path: Path,
    suite: Suite,
    out: Path,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    latency: bool = True,
    say: Say,
) -> dict[str, Any]:
    """Run the pairs that `only` asks for; after each row the result at `out` is written."""
    pairs = suite.pairs(only)
    content = _opened(out, path, suite, limit)
    for key in dict.fromkeys(model for model, _ in pairs):
        methods = [method for model, method in pairs if model == key]
        stage = make_stage(key, suite.models[key], suite, limit, say)
        _check_same(content, stage, methods, out)
        content["models"][key] = stage.about
        for method in methods:
            row = run_method(stage, suite, method, latency=latency, say=say)
            content["rows"] = _merged(content["rows"], row, suite)
            write_json(out, content)
    return content


def time_again(
    path: Path, suite: Suite, out: Path, *, only: Sequence[str] = (), say: Say
) -> dict[str, Any]:
    """Take the times of what is built already, and no other number, anew."""
    pairs = suite.pairs(only)
    content = _opened(out, path, suite, None)
    for row in content["rows"]:
        if (row["model"], row["method"]) not in pairs:
            continue
        folder = Path(suite.folder) / row["model"]
        for engine, found in row["engines"].items():
            if "failed" in found:
                continue
            times = time_engine(folder, folder / row["method"], engine)
            found["latency"] = times
            say(
                f"{row['model']}: {row['method']}: {engine}: {times['p50_ms']} ms, "
                f"{times['ratio'][1]:.2f} of float; others took {times['others_cores']} cores"
            )
        write_json(out, content)
    return content


def _opened(out: Path, path: Path, suite: Suite, limit: int | None) -> dict[str, Any]:
    """The result so far, or an empty one; ComparisonError when it is of another machine."""
    about = machine()
    own = [] if out == Path(suite.results) else ["--out", out.as_posix()]
    content: dict[str, Any] = {
        "title": suite.title,
        "suite": path.as_posix(),
        "command": shlex.join(["python", "-m", MODULE, path.as_posix(), *own]),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": about,
        "rule": RULE,
        "memory_cap_mib": suite.memory_cap_mib,
        "limit_seconds": suite.limit_seconds,
        "limit_frames": limit,
        "models": {},
        "rows": [],
    }
    if out.exists():
        old = json.loads(out.read_text(encoding="utf-8"))
        for what, was, now in (
            ("machine", old["machine"]["fingerprint"], about["fingerprint"]),
            ("libraries", old["machine"]["libraries"], about["libraries"]),
            ("limit of frames", old["limit_frames"], limit),
        ):
            if was != now:
                raise ComparisonError(
                    f"{out} was made with another {what}: {was}, now {now}; give --out FILE, or "
                    "delete it and run everything"
                )
        content |= {"models": old["models"], "rows": old["rows"]}
    return content


def _check_same(content: dict[str, Any], stage: Stage, methods: list[str], out: Path) -> None:
    """ComparisonError when rows that stay are of another float network or other frames."""
    old = content["models"].get(stage.key)
    rows = [row["method"] for row in content["rows"] if row["model"] == stage.key]
    stay = [method for method in rows if method not in methods]
    for key in ("network_sha256", "frames_sha256", "frames"):
        if old and stay and old[key] != stage.about[key]:
            raise ComparisonError(
                f"{out}: '{stage.key}' is not what it was ({key}); run its other methods again "
                f"too: --only {','.join((stage.key, *methods, *stay))}"
            )


def _merged(rows: list[Row], new: Row, suite: Suite) -> list[Row]:
    """The rows with `new` in place of its former self, in the order of the suite."""
    order = {pair: i for i, pair in enumerate(suite.pairs())}
    kept = [r for r in rows if (r["model"], r["method"]) != (new["model"], new["method"])]
    known = [r for r in [*kept, new] if (r["model"], r["method"]) in order]
    return sorted(known, key=lambda r: order[(r["model"], r["method"])])


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("suite", type=Path, metavar="SUITE.toml")
    parser.add_argument("--prepare", action="store_true", help="make models and environments first")
    parser.add_argument("--only", default="", metavar="NAME,...", help="models and methods")
    parser.add_argument("--limit-frames", type=int, metavar="N", help="a trial; needs --out")
    parser.add_argument("--no-latency", action="store_true", help="leave the times away")
    parser.add_argument("--only-latency", action="store_true", help="time again what is built")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: the suite's")
    return exit_code(lambda: _run(parser.parse_args(words)))


def _run(args: argparse.Namespace) -> None:
    suite = read_recipe(Suite, args.suite)
    if args.limit_frames is not None and (args.out is None or args.limit_frames < 1):
        raise UsageError("--limit-frames N (1 or more) is a trial; give it an --out of its own")
    if args.prepare:
        prepare(suite, _say)
    out = args.out or Path(suite.results)
    only = [name for name in args.only.split(",") if name]
    if args.only_latency:
        time_again(args.suite, suite, out, only=only, say=_say)
        return
    latency = not args.no_latency
    compare(args.suite, suite, out, only=only, limit=args.limit_frames, latency=latency, say=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
