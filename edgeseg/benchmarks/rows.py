"""What rows of a bench result say about each other: float reference, front, headline, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

NEAR = 0.5
"""Rows within this many mIoU of the best count as equally right; the fastest of them leads."""

# fmt: off
ENGINE_NAMES = {
    "fake":         "Fake",
    "onnxruntime":  "ONNX Runtime",
    "openvino":     "OpenVINO",
    "tensorrt":     "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "torch":        "PyTorch",
}
# fmt: on


def p50(row: Row) -> float | None:
    """Median milliseconds of a call."""
    value: float | None = row["latency_ms"]["p50"]
    return value


def is_float(row: Row) -> bool:
    """Whether the row is a float reference: fp32 network, f32 arithmetic."""
    return bool(row["precision"] == "fp32" and row["inference_precision"] in ("f32", "none"))


def reference(row: Row, rows: Sequence[Row]) -> Row | None:
    """The float row that `row` is compared with; None for a float row or where there is none.

    Same model, size, data and CRF; of several the one of the same engine, then torch, then the
    first.
    """
    if is_float(row):
        return None
    alike = [
        r
        for r in rows
        if is_float(r) and all(r.get(k) == row.get(k) for k in ("model", "size", "data", "crf"))
    ]
    if not alike:
        return None
    return min(
        alike,
        key=lambda r: (
            r["target"] != row["target"],
            r["batch"] != row["batch"],
            r["threads"] != row["threads"],
            r["target"] != "torch",
        ),
    )


def miou_change(row: Row, rows: Sequence[Row]) -> float | None:
    """MIoU of `row` minus that of its float reference; None where one is missing."""
    other = reference(row, rows)
    if other is None or row.get("miou") is None or other.get("miou") is None:
        return None
    change: float = row["miou"] - other["miou"]
    return change


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """Median time of the float reference on the same engine and threads over that of `row`."""
    other = reference(row, rows)
    if other is None or any(other[k] != row[k] for k in ("target", "batch", "threads")):
        return None
    mine, theirs = p50(row), p50(other)
    return theirs / mine if mine and theirs else None


def headline(rows: Sequence[Row]) -> Row | None:
    """The row that opens the report: INT8 where there is any, right first, then fast.

    Rows with the dense CRF come after those without: it is no part of the network.

    Among rows with mIoU and median: those within NEAR of the best mIoU, the fastest of them.
    Without any mIoU the fastest row. Rows in which the machine throttled come after all others.
    """
    timed = [r for r in rows if p50(r) is not None and r["batch"] == 1]
    timed = [r for r in timed if not r.get("crf")] or timed
    timed = [r for r in timed if not slowed(r)] or timed
    chosen = [r for r in timed if r["precision"] == "int8"] or timed
    scored = [r for r in chosen if r.get("miou") is not None]
    if scored:
        best = max(r["miou"] for r in scored)
        chosen = [r for r in scored if r["miou"] >= best - NEAR]
    return min(chosen, key=lambda r: p50(r) or 0.0) if chosen else None


def disturbance(rows: Sequence[Row]) -> str | None:
    """A sentence when other programs took more than a tenth of the cores while a row was timed."""
    taken = [(r.get("timing") or {}).get("others_cores") or 0.0 for r in rows]
    cores = rows[0]["machine"]["cores"]
    if max(taken) <= 0.1 * cores:
        return None
    several = sum(t > 0.1 * cores for t in taken)
    return (
        f"Other programs kept up to {max(taken):.1f} of {cores} cores busy while {several} of "
        f"{len(rows)} rows were timed: those times are longer and less steady than the engine's."
    )


def slowed(row: Row) -> list[str]:
    """How the machine throttled itself while the row was measured; nothing for a clean row."""
    soak = [f"in the long run {why}" for why in (row.get("soak") or {}).get("throttled") or []]
    return [*((row.get("timing") or {}).get("throttled") or []), *soak]


def unclean(rows: Sequence[Row]) -> str | None:
    """A sentence when the machine throttled itself while a row was timed."""
    several = [r for r in rows if slowed(r)]
    if not several:
        return None
    how = "; ".join(dict.fromkeys(reason for r in several for reason in slowed(r)))
    which = "it was" if len(rows) == 1 else f"{len(several)} of {len(rows)} rows were"
    return (
        f"Not clean: the machine slowed itself down while {which} timed ({how}). Cool it or choose "
        "a lower power mode, and measure again."
    )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (milliseconds, mIoU) points that no other beats, fastest first.

    A point is beaten by one that is no slower and no worse, and better in one of the two.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or points[i][1] > points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows by model, then size, then median time; those without a median last."""
    return sorted(
        rows, key=lambda r: (r["model"], r["size"][0] * r["size"][1], p50(r) or float("inf"))
    )


def engine_name(row: Row) -> str:
    """The name that people know the engine by."""
    return ENGINE_NAMES.get(row["target"], str(row["target"]))


def precision_name(row: Row) -> str:
    """`INT8`, `FP32`, or `FP16 (bf16)` where arithmetic is not what the precision suggests."""
    usual = {"fp32": "f32", "int8": "f32", "fp16": "f16"}
    name, inference = str(row["precision"]).upper(), row["inference_precision"]
    return name if inference in (usual.get(row["precision"]), "none") else f"{name} ({inference})"


def crf_name(row: Row) -> str:
    """`dense CRF w1=4 ...`, with its parameters; "" for the labels of the network alone."""
    crf = row.get("crf") or {}
    said = [f"{name}={value:g}" for name, value in crf.items() if not isinstance(value, str)]
    return " ".join(["dense CRF", *said]) if crf else ""


def size_name(row: Row) -> str:
    """`512x1024`, with a multiplication sign."""
    return f"{row['size'][0]}\N{MULTIPLICATION SIGN}{row['size'][1]}"


def short_names(rows: Sequence[Row]) -> list[str]:
    """A name for each row, of the parts in which the rows differ."""
    parts = [
        (
            str(row["model"]),
            engine_name(row),
            precision_name(row),
            size_name(row),
            f"batch {row['batch']}",
            "1 thread" if row["threads"] == 1 else f"{row['threads']} threads",
            "dense CRF" if row.get("crf") else "",
        )
        for row in rows
    ]
    differing = [i for i in range(7) if len({p[i] for p in parts}) > 1] or [1, 2]
    names = (" ".join(p[i] for i in differing if p[i]) for p in parts)
    return [name or f"{p[1]} {p[2]}" for name, p in zip(names, parts, strict=True)]


def milliseconds(value: float | None) -> str:
    """Three figures: `5.41`, `27.3`, `148`; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def number(value: float | None, places: int = 1) -> str:
    """A number with `places` decimals; a dash for None."""
    return "\N{EN DASH}" if value is None else f"{value:,.{places}f}"


def signed(value: float | None, places: int = 1) -> str:
    """`+0.2`, with a true minus sign; zero has none; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def count(value: int | None) -> str:
    """`4.10 G`, `345 k`: three figures of a count; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return str(value)
