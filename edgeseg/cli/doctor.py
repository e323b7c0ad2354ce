"""`edgeseg doctor`."""

from __future__ import annotations

import argparse
import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.machine import machine
from edgeseg.cli.output import add_json, print_json
from edgeseg.runtime import decode, decode_native
from edgeseg.runtime.preflight import (
    PARTS,
    STATES,
    Finding,
    Trial,
    examine,
    import_apart,
    try_folder,
)

EXAMPLE = "edgeseg doctor espnet-int8"

# fmt: off
ADVICE = (
    # any of these CPU features        what it means
    (("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dotprod"), "INT8: fast, the CPU has {}"),
    (("amx_bf16", "avx512_bf16", "bf16"),                        "bf16: fast, the CPU has {}"),
    (("avx512_fp16", "fp16"),                                    "fp16: fast, the CPU has {}"),
)
# fmt: on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="engine folder: can this machine run it?"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    here = machine()
    can_import = lru_cache(import_apart)
    findings = [examine(part, can_import) for part in PARTS]
    trial = try_folder(Path(args.folder)) if args.folder else None
    print_json(
        args.json,
        {
            "machine": here,
            "decode": dataclasses.asdict(decode_native.examine()),
            "parts": [dataclasses.asdict(f) for f in findings],
            "folder": None if trial is None else dataclasses.asdict(trial),
        },
    )
    if args.json != "-":
        print(describe_machine(here))
        print(decode.describe())
        print("\n" + describe_parts(findings))
        if trial is not None:
            print("\n" + describe_trial(args.folder, trial))
    return 0 if trial is None or trial.runs else 2


def describe_machine(here: dict[str, Any]) -> str:
    """The machine in a few lines."""
    quota = f", of which {here['quota']:g} may be used" if here["quota"] else ""
    lines = [
        f"{here['board'] or here['os']}, {here['architecture']}, Python {here['python']}",
        f"{here['cpu']}, {here['cores']} cores{quota}, {here['memory_gib']} GiB of memory",
        f"features: {', '.join(here['features']) or 'none that matter here'}",
    ]
    for features, text in ADVICE:
        has = [f for f in features if f in here["features"]]
        lines.append(text.format(", ".join(has)) if has else f"{text[:4]}: no help from this CPU")
    return "\n".join(lines)


def describe_parts(findings: list[Finding]) -> str:
    """One line for each part, and below it what to do."""
    lines = [f"{'part':<13} {'state':<10} {'serves':<17} version"]
    for finding in findings:
        versions = _versions(finding)
        lines.append(f"{finding.name:<13} {finding.state:<10} {finding.serves:<17} {versions}")
        if finding.state != "ready":
            lines.append(f"{'':<13} {STATES[finding.state]}: {finding.why}")
            lines.append(f"{'':<13} -> {finding.advice}")
    return "\n".join(line.rstrip() for line in lines)


def describe_trial(folder: str, trial: Trial) -> str:
    """Whether the folder runs here."""
    lines = [f"{folder}: {'runs here' if trial.runs else 'does not run here'}"]
    if trial.frame_ms is not None:
        lines.append(
            f"  {trial.engine}: opened in {trial.load_ms:.0f} ms, "
            f"the first frame took {trial.frame_ms:.1f} ms"
        )
    if trial.why:
        lines.append(f"  {trial.why}")
    return "\n".join([*lines, *(f"  note: {note}" for note in trial.notes)])


def _versions(finding: Finding) -> str:
    if len(finding.versions) == 1:
        return next(iter(finding.versions.values()))
    return ", ".join(f"{module} {version}" for module, version in finding.versions.items())
