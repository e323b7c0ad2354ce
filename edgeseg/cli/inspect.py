"""`edgeseg inspect`."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.bundle import (
    MANIFEST,
    BuildRecord,
    Gate,
    InputSpec,
    Manifest,
    OutputSpec,
    Quantisation,
    read_manifest,
    sha256,
)
from edgeseg.cli.output import add_json, print_json
from edgeseg.errors import UsageError
from edgeseg.frame import FITS, format_size
from edgeseg.pipeline.model import find_model
from edgeseg.weights import terms

EXAMPLE = "edgeseg inspect espnet-int8"
WIDTH = 100
LABEL = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="any model folder, or a shipped name")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    folder = find_model(args.folder)
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is a file; FOLDER is a folder made by 'edgeseg convert', 'train' or 'export'"
        )
    manifest = read_manifest(folder)
    files = check_files(folder, manifest)
    whole = all(file["state"] in ("ok", "not in the manifest") for file in files)
    content = {**dataclasses.asdict(manifest), "files": files, "whole": whole}
    print_json(args.json, {"folder": str(folder), **content})
    if args.json != "-":
        print(describe(manifest, files))
        if not whole:
            print("\nThis folder is damaged: copy or export it again")
    return 0 if whole else 2


def check_files(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Every file: name, bytes, and whether it is as the manifest says."""
    files: list[dict[str, Any]] = []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            files.append({"name": name, "bytes": None, "state": "missing"})
        else:
            state = "ok" if sha256(path) == expected else "changed"
            files.append({"name": name, "bytes": path.stat().st_size, "state": state})
    others = {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()}
    for name in sorted(others - manifest.files.keys() - {MANIFEST}):
        size = (folder / name).stat().st_size
        files.append({"name": name, "bytes": size, "state": "not in the manifest"})
    return files


def describe(manifest: Manifest, files: list[dict[str, Any]]) -> str:
    """The manifest for people."""
    table = manifest.table
    rows = [
        ("model", _model(manifest)),
        ("classes", f"{len(table)} of {table.name}: {', '.join(table.names)}"),
        ("input", _input(manifest.input)),
        ("output", _output(manifest.output)),
        ("precision", _precision(manifest.precision, manifest.quantisation)),
        ("engine", _engine(manifest)),
        *([("recipe", f"of the board '{manifest.recipe}'")] if manifest.recipe else []),
        (
            "gate",
            _gate(manifest.gate) if manifest.kind == "network" else "none: it is the float model",
        ),
        ("work", _work(manifest)),
        ("weights", terms(manifest.weights.data, manifest.weights.licence)),
        ("", f"from {manifest.weights.source}"),
        *(("history" if i == 0 else "", step) for i, step in enumerate(manifest.history)),
        *(("files" if i == 0 else "", _file(file)) for i, file in enumerate(files)),
    ]
    blank = " " * LABEL
    return "\n".join(
        [manifest.name]
        + [
            textwrap.fill(
                text, WIDTH, initial_indent=f"  {label}".ljust(LABEL), subsequent_indent=blank,
                break_long_words=False, break_on_hyphens=False,
            )
            for label, text in rows
        ]
    )  # fmt: skip


def _model(manifest: Manifest) -> str:
    kind = "checkpoint" if manifest.kind == "checkpoint" else "network"
    if manifest.model is None:
        return f"foreign {kind}"
    options = ", ".join(f"{k} {v}" for k, v in _flat(manifest.model.options))
    return f"{manifest.model.name}{f' ({options})' if options else ''}, {kind}"


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("key", value) and, for tables, ("table.key", value)."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _input(spec: InputSpec) -> str:
    size = format_size(spec.size) if spec.size else "any size"
    fill = f" {list(spec.fill)}" if spec.fit == "pad" else ""
    mask = " and a mask" if spec.mask else ""
    return (
        f"{size}, {spec.order.upper()}{mask}, uint8, batch {spec.batch}; "
        f"fit {spec.fit}{fill}: {FITS[spec.fit]}; "
        f"mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
    )


def _output(output: OutputSpec) -> str:
    at = "at full size" if output.stride == 1 else f"at 1/{output.stride} of the input"
    large = "" if output.scale == 1 else f"; labels at {output.scale}x the input"
    if output.kind == "labels":
        return f"labels at {output.scale}x the input" if large else f"labels {at}"
    return f"scores {at}, decoded by {output.decode} x{output.factor} and argmax{large}"


def _precision(precision: str, made: Quantisation | None) -> str:
    if made is None:
        return precision
    layers = f": {', '.join(made.float_layers)}" if made.float_layers else ""
    return (
        f"{precision} by {made.method}, {made.scheme}, from {made.frames} frames of {made.source}; "
        f"{len(made.float_layers)} of {made.convolutions} convolutions in float{layers}"
    )


def _engine(manifest: Manifest) -> str:
    target = manifest.target
    if target is None:
        return "none; 'edgeseg export' builds one"
    if manifest.kind == "checkpoint":
        return f"none; {target.name} runs it as it is, 'edgeseg export' builds an engine"
    if target.build is None:
        where = f"for {target.plugin}, " if target.plugin else ""
        return f"{target.name} {target.version}, {where}built on {target.device}"
    return f"{target.name} {target.version}, for {target.device}; {_build(target.build)}"


def _build(record: BuildRecord) -> str:
    """How TensorRT built it."""
    parts = [f"built in {record.seconds:.1f} s"]
    if record.cuda:
        parts.append(f"CUDA {record.cuda}")
    if record.compute_capability:
        parts.append(f"compute capability {record.compute_capability}")
    if record.jetpack:
        parts.append(f"JetPack {record.jetpack}")
    parts.append(f"{record.layers} layers")
    if record.gpu_layers is not None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in record.gpu_layers.items())
        parts.append(f"of which the DLA leaves to the GPU: {kinds or 'none'}")
    parts.append(f"{record.warnings} warnings")
    if record.options:
        parts.append(", ".join(f"{key} {value}" for key, value in record.options.items()))
    if record.timing_cache_sha256:
        parts.append(f"timing cache {record.timing_cache_sha256[:16]}")
    if record.kernels is not None:
        made = f"kernels for {record.kernels.capability} by {record.kernels.compiler}"
        parts.append(made if record.kernels.file else f"no kernels: {record.kernels.why}")
    return ", ".join(parts)


def _gate(gate: Gate | None) -> str:
    if gate is None or gate.state == "not run":
        return f"not run: {gate.why}" if gate and gate.why else "not run"
    parts = [f"{gate.state} on {gate.frames} frames of {gate.source or 'unknown origin'}"]
    if gate.agreement is not None:
        parts.append(f"{gate.agreement:.2f} % of the labels agree")
    if gate.agreement_inside is not None:
        parts.append(f"{gate.agreement_inside:.2f} % away from class boundaries")
    if gate.miou_float is not None and gate.miou_engine is not None:
        allowed = "" if gate.max_miou_drop is None else f" (may lose {gate.max_miou_drop:g})"
        parts.append(
            f"mIoU {gate.miou_float:.2f} -> {gate.miou_engine:.2f}{allowed}"
            f"{f' against {gate.against}' if gate.against else ''}"
        )
    if gate.worst_class is not None and gate.worst_class_drop is not None:
        parts.append(f"worst class: {gate.worst_class}, {-gate.worst_class_drop:+.2f} IoU")
    return "; ".join(parts)


def _work(manifest: Manifest) -> str:
    params = "unknown" if manifest.params is None else f"{manifest.params:,}"
    macs = "unknown" if manifest.macs is None else f"{manifest.macs / 1e9:.3f} G"
    uncounted = ", ".join(f"{count} {name}" for name, count in manifest.uncounted.items())
    return f"params {params}, MACs {macs}{f'; not counted: {uncounted}' if uncounted else ''}"


def _file(file: dict[str, Any]) -> str:
    size = "" if file["bytes"] is None else f"{file['bytes'] / 2**10:,.1f} KiB"
    return f"{file['name']:<28} {size:>14}  {file['state']}"


def _numbers(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
