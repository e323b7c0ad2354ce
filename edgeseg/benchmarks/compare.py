"""Two bench results of one machine, side by side; conditions under which that is a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.rows import crf_name, slowed
from edgeseg.errors import ComparisonError, UsageError, guess

Row = dict[str, Any]
Key = tuple[Any, ...]

IDENTITY = ("model", "target", "precision", "inference_precision", "size", "batch", "threads")


def _percentile(name: str) -> Callable[[Row], float | None]:
    return lambda row: (row.get("latency_ms") or {}).get(name)


def _in(table: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: (row.get(table) or {}).get(name)


def _plain(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


@dataclass(frozen=True)
class Metric:
    """How a metric is read from a row, and what it is bound to.

    `kind` "time" holds for one machine, power mode and engine version; "accuracy" for one set of
    frames, rule and fit; "file" for the folder alone.
    """

    read: Callable[[Row], float | None]
    unit: str
    kind: str


# fmt: off
METRICS = {
    "miou":           Metric(_plain("miou"),           "",    "accuracy"),
    "pixel_accuracy": Metric(_plain("pixel_accuracy"), "",    "accuracy"),
    "worst_class":    Metric(lambda _: None,           "",    "accuracy"),
    "p50":            Metric(_percentile("p50"),       "ms",  "time"),
    "p90":            Metric(_percentile("p90"),       "ms",  "time"),
    "p99":            Metric(_percentile("p99"),       "ms",  "time"),
    "throughput_fps": Metric(_plain("throughput_fps"), "fps", "time"),
    "load_ms":        Metric(_plain("load_ms"),        "ms",  "time"),
    "peak_rss_mib":   Metric(_plain("peak_rss_mib"),   "MiB", "time"),
    "file_mib":       Metric(_plain("file_mib"),       "MiB", "file"),
    "energy_mj":      Metric(_in("power", "energy_mj_per_frame"), "mJ", "time"),
    "missed_percent": Metric(_in("pace", "missed_percent"),       "%",  "time"),
}
# fmt: on
"""`worst_class` is the IoU of the class that lost most between the two results."""

SHOWN = ("miou", "worst_class", "p50", "p90", "p99", "throughput_fps", "peak_rss_mib", "file_mib",
         "energy_mj", "missed_percent")  # fmt: skip

_CONDITION = re.compile(r"([a-z_0-9]+)\s*(<-|>\+)\s*(\d+(?:\.\d+)?)\s*(%?)")


@dataclass(frozen=True)
class Condition:
    """`metric` fell (sign -1) or rose (sign +1) by more than `by`, or `by` percent of itself."""

    metric: str
    sign: int
    by: float
    relative: bool
    text: str

    def holds(self, before: float, after: float) -> bool:
        """Whether the change from `before` to `after` is a failure."""
        allowed = self.by * abs(before) / 100 if self.relative else self.by
        return self.sign * (after - before) > allowed + 1e-9


@dataclass(frozen=True)
class Difference:
    """One metric of one row in both results; `detail` names the class of `worst_class`."""

    metric: str
    before: float | None
    after: float | None
    detail: str = ""

    @property
    def change(self) -> float | None:
        """After minus before."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """`matched`: key -> differences by metric; keys that only one result
    has; what failed; what was left out because the results can't be compared in it.
    """

    matched: dict[Key, dict[str, Difference]]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The form of `edgeseg compare --json`."""
        rows = [
            {
                **_entry(key),
                "differences": {
                    name: {"a": d.before, "b": d.after, "change": d.change, "detail": d.detail}
                    for name, d in differences.items()
                },
            }
            for key, differences in self.matched.items()
        ]
        return {
            "rows": rows,
            "only_a": [_entry(k) for k in self.only_a],
            "only_b": [_entry(k) for k in self.only_b],
            "failures": list(self.failures),
            "notes": list(self.notes),
        }


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """`"miou<-0.5,p50>+10%"` -> conditions; UsageError for anything else."""
    conditions = []
    for part in (p.strip() for p in text.split(",")):
        found = _CONDITION.fullmatch(part)
        if not found:
            raise UsageError(
                f"--fail-on: '{part}' is no condition; expected METRIC<-X (fell by more than X) or "
                "METRIC>+X (rose by more), with % for a share, as in 'miou<-0.5,p50>+10%'"
            )
        metric, sign, by, percent = found.groups()
        if metric not in METRICS:
            raise UsageError(f"--fail-on: unknown metric '{metric}'.{guess(metric, METRICS)}")
        conditions.append(
            Condition(metric, -1 if sign == "<-" else 1, float(by), percent == "%", part)
        )
    return tuple(conditions)


def read_results(path: Path) -> dict[str, Any]:
    """A JSON file written by `edgeseg bench`; UsageError when it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; 'edgeseg bench' writes results.json") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; give the results.json in it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not valid JSON ({error})") from error
    rows = content.get("results") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{path}: holds no list 'results'; expected a file of 'edgeseg bench'")
    for number, row in enumerate(rows):
        needed = (*IDENTITY, "latency_ms", "machine", "engine")
        missing = [k for k in needed if not isinstance(row, dict) or k not in row]
        if missing:
            raise UsageError(
                f"{path}: results[{number}] has no '{missing[0]}'; expected a file of "
                "'edgeseg bench'"
            )
    result: dict[str, Any] = content
    return result


def compare(
    a: dict[str, Any], b: dict[str, Any], conditions: tuple[Condition, ...] = ()
) -> Comparison:
    """Match the rows of two results and judge them.

    UsageError when what the conditions ask for (without conditions: all) can't be compared; other
    metrics that can't be compared are left out with a note.
    """
    rows_a, rows_b = _by_key(a, "A"), _by_key(b, "B")
    wanted = {METRICS[c.metric].kind for c in conditions} or {"time", "accuracy"}
    matched: dict[Key, dict[str, Difference]] = {}
    failures: list[str] = []
    notes: list[str] = []
    for key, row in rows_a.items():
        if key not in rows_b:
            failures += [f"{name_of(key)}: missing in B"] if conditions else []
            continue
        other = rows_b[key]
        reasons = {"time": _why_no_times(row, other), "accuracy": _why_no_accuracy(row, other)}
        for kind, reason in reasons.items():
            if reason and kind in wanted:
                raise UsageError(f"{name_of(key)}: {reason}")
            notes += [f"{name_of(key)}: left out: {reason}"] if reason else []
        matched[key] = {
            name: _difference(name, row, other)
            for name, metric in METRICS.items()
            if not reasons.get(metric.kind)
        }
        failures += _judge(key, matched[key], conditions)
    only_a = tuple(k for k in rows_a if k not in rows_b)
    only_b = tuple(k for k in rows_b if k not in rows_a)
    if not matched and not conditions:
        raise UsageError("the two results have no row in common; nothing to compare")
    return Comparison(matched, only_a, only_b, tuple(failures), tuple(notes))


def check(comparison: Comparison) -> None:
    """ComparisonError that names every failed condition."""
    if comparison.failures:
        raise ComparisonError("result is worse: " + "; ".join(comparison.failures))


def _why_no_times(a: Row, b: Row) -> str | None:
    """Why a latency of `a` says nothing about one of `b`; None when it does."""
    for side, row in (("A", a), ("B", b)):
        if reasons := slowed(row):
            return (
                f"the machine throttled in {side} ({'; '.join(reasons)}); its latency can't be "
                "compared. Cool it or choose a lower power mode, and measure again"
            )
    facts = {
        "machine": _machine_name,
        "power mode": _power_mode,
        "engine": _engine_name,
        "pace": _pace,
    }
    for name, read in facts.items():
        if read(a) != read(b):
            return (
                f"{name} differs: {read(a)} in A, {read(b)} in B; latency can't be compared. "
                "Measure both on one machine, in one power mode, with one engine version, at one "
                "pace"
            )
    return None


def _machine_name(row: Row) -> str:
    return f"{row['machine'].get('cpu')} ({row['machine'].get('fingerprint')})"


def _power_mode(row: Row) -> str:
    return str(row["machine"].get("power_mode"))


def _engine_name(row: Row) -> str:
    return f"{row['engine'].get('name')} {row['engine'].get('version')}"


def _pace(row: Row) -> str:
    pace = row.get("pace")
    return f"{pace['fps']:g} frames a second" if pace else "one call after the other"


def _why_no_accuracy(a: Row, b: Row) -> str | None:
    """Why an mIoU of `a` says nothing about one of `b`; None when it does or there is none."""
    if a.get("miou") is None or b.get("miou") is None:
        return None
    for name in ("data", "rule", "fit"):
        if a.get(name) != b.get(name):
            return (
                f"{name} differs: {a.get(name)} in A, {b.get(name)} in B; mIoU can't be compared. "
                "Measure both on the same frames, by the same rule"
            )
    return None


def _by_key(results: dict[str, Any], side: str) -> dict[Key, Row]:
    rows: dict[Key, Row] = {}
    for row in results["results"]:
        plain = (tuple(row[k]) if k == "size" else row[k] for k in IDENTITY)
        key = (*plain, crf_name(row))
        if key in rows:
            raise UsageError(f"{name_of(key)} is twice in {side}; rows must differ in something")
        rows[key] = row
    return rows


def name_of(key: Key) -> str:
    """What a row is called in messages."""
    model, target, precision, inference, size, batch, threads, crf = key
    own = "" if inference == "f32" and precision != "fp16" else f" ({inference})"
    text = f"{model} {target} {precision}{own} {size[0]}x{size[1]}"
    text += f" batch {batch}" if batch != 1 else ""
    return f"{text} {threads} thread{'' if threads == 1 else 's'}{f' {crf}' if crf else ''}"


def _entry(key: Key) -> dict[str, Any]:
    entry = dict(zip((*IDENTITY, "crf"), key, strict=True))
    return {**entry, "size": list(entry["size"])}


def _difference(metric: str, a: Row, b: Row) -> Difference:
    if metric == "worst_class":
        return _worst_class(a, b)
    read = METRICS[metric].read
    return Difference(metric, read(a), read(b))


def _worst_class(a: Row, b: Row) -> Difference:
    """The class whose IoU fell most (or rose least)."""
    before, after = a.get("per_class") or {}, b.get("per_class") or {}
    changes = {
        name: (after[name] - value, value, after[name])
        for name, value in before.items()
        if value is not None and after.get(name) is not None
    }
    if not changes:
        return Difference("worst_class", None, None)
    name = min(changes, key=lambda n: changes[n][0])
    return Difference("worst_class", changes[name][1], changes[name][2], name)


def _judge(
    key: Key, differences: dict[str, Difference], conditions: tuple[Condition, ...]
) -> list[str]:
    failures = []
    for condition in conditions:
        d, unit = differences[condition.metric], METRICS[condition.metric].unit
        if d.before is None or d.after is None:
            where = "A" if d.before is None else "B"
            failures.append(
                f"{name_of(key)}: {condition.metric} was not measured in {where}, "
                f"so '{condition.text}' can't be judged"
            )
        elif condition.holds(d.before, d.after):
            what = f"{condition.metric} ({d.detail})" if d.detail else condition.metric
            failures.append(
                f"{name_of(key)}: {what} went from {d.before:.2f} to {d.after:.2f}"
                f"{' ' + unit if unit else ''}, which is past '{condition.text}'"
            )
    return failures


def to_text(comparison: Comparison) -> str:
    """The table that `edgeseg compare` prints."""
    lines: list[str] = []
    for key, differences in comparison.matched.items():
        lines.append(name_of(key))
        shown = [differences[m] for m in SHOWN if m in differences]
        lines += ["  " + _line(d) for d in shown if d.before is not None or d.after is not None]
    for side, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only in {side}: {name_of(k)}" for k in keys]
    lines += [f"note: {n}" for n in comparison.notes]
    return "\n".join(lines)


def _line(d: Difference) -> str:
    before, after = (f"{v:10.2f}" if v is not None else f"{'-':>10}" for v in (d.before, d.after))
    text = f"{d.metric:<15}{before} -> {after} {METRICS[d.metric].unit:<4}"
    if d.change is not None:
        text += f"{d.change:+9.2f}"
        if METRICS[d.metric].unit and d.before:
            text += f"  {100 * d.change / d.before:+7.1f} %"
    return text + (f"  {d.detail}" if d.detail else "")
