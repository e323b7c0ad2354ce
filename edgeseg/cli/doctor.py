"""`edgeseg doctor`."""

from __future__ import annotations

import argparse
import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.machine import machine
from edgeseg.cli.output import add_json, print_json
from edgeseg.runtime import decode, decode_native, prepare
from edgeseg.runtime.board import Board, read_board
from edgeseg.runtime.preflight import (
    PARTS,
    STATES,
    Finding,
    Trial,
    examine,
    import_apart,
    try_folder,
)
from edgeseg.runtime.sensors import Clock, Reading, Sensors

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
    board, sensors = read_board(), Sensors()
    reading = sensors.read() if sensors else None
    can_import = lru_cache(import_apart)
    findings = [examine(part, can_import) for part in PARTS]
    trial = try_folder(Path(args.folder)) if args.folder else None
    print_json(
        args.json,
        {
            "machine": here,
            "board": None if board is None else dataclasses.asdict(board),
            "sensors": _sensors(sensors, reading),
            "decode": dataclasses.asdict(decode_native.examine()),
            "prepare": {"by": prepare.examine().by, "available": prepare.examine().available},
            "parts": [dataclasses.asdict(f) for f in findings],
            "folder": None if trial is None else dataclasses.asdict(trial),
        },
    )
    if args.json != "-":
        print(describe_machine(here))
        if board is not None:
            print("\n" + describe_board(board, sensors))
        print(decode.describe())
        print(prepare.describe())
        print("\n" + describe_parts(findings))
        if trial is not None:
            print("\n" + describe_trial(args.folder, trial))
    refused = board is not None and bool(board.refused)
    return 2 if refused or (trial is not None and not trial.runs) else 0


def _sensors(sensors: Sensors, reading: Reading | None) -> dict[str, Any] | None:
    """The form of `sensors` in --json; None on a machine without any."""
    if reading is None:
        return None
    clocks = {name: dataclasses.asdict(clock) for name, clock in sensors.clocks().items()}
    return {**dataclasses.asdict(reading), "total_w": reading.total_w, "allowed_mhz": clocks}


def describe_board(board: Board, sensors: Sensors) -> str:
    """A Jetson in a few lines: what it is, and how it does at the moment."""
    jetpack = f"JetPack {board.jetpack or 'unknown'} (L4T {board.l4t or 'unknown'})"
    lines = [
        f"{jetpack}: {'not supported' if board.refused else 'supported'}",
        *([f"  {board.refused}"] if board.refused else []),
        f"TensorRT {board.tensorrt or 'is not installed'}, CUDA {board.cuda or 'not found'}, GPU "
        f"{board.gpu or 'unknown'}, compute capability {board.compute_capability or 'unknown'}",
        _memory(board),
        f"power mode {board.power_mode or 'unknown'}"
        + (f", of {', '.join(board.power_modes)}" if board.power_modes else ""),
        *describe_sensors(sensors),
    ]
    if board.recipe:
        lines.append(f"recipe: edgeseg export --board {board.recipe}")
    return "\n".join(lines)


def _memory(board: Board) -> str:
    swap = "no swap"
    if board.swap_mib:
        swaps = ", ".join(Path(s).name for s in board.swaps)
        swap = f"swap {board.swap_mib:,} MiB, {board.swap_free_mib or 0:,} free ({swaps})"
    if board.memory_mib is None:
        return f"memory unknown; {swap}"
    return f"memory {board.memory_mib:,} MiB, {board.available_mib or 0:,} available; {swap}"


def describe_sensors(sensors: Sensors) -> list[str]:
    """Clocks, heat, power and throttling now; a line each for what there is."""
    found, clocks = sensors.read(), sensors.clocks()
    lines = []
    if found.clocks_mhz:
        told = (_clock(name, mhz, clocks.get(name)) for name, mhz in found.clocks_mhz.items())
        lines.append(f"clocks: {', '.join(told)}")
        lines += [f"  {sentence}" for sentence in sensors.unread]
        if any(not clock.locked for clock in clocks.values()):
            lines.append("  they move with the load: 'sudo jetson_clocks' before you measure")
    if found.emc_percent is not None:
        lines.append(f"memory (emc): busy in {found.emc_percent:.0f} % of its clocks")
    if found.temperatures_c:
        heat = (f"{name} {value:.0f}" for name, value in found.temperatures_c.items())
        lines.append(f"temperatures: {', '.join(heat)} °C")
    if found.fan_percent is not None:
        turns = "" if found.fan_rpm is None else f", {found.fan_rpm} rpm"
        lines.append(f"fan: {found.fan_percent:.0f} %{turns}")
    if found.rails_w:
        rails = ", ".join(f"{name} {watts:.1f}" for name, watts in found.rails_w.items())
        total = "" if found.total_w is None else f"{found.total_w:.1f} W: "
        lines.append(f"power: {total}{rails}")
    if sensors.tells_throttling:
        caps = ", ".join(f"{name} (state {state})" for name, state in found.caps.items())
        events = ", ".join(f"{n} {name}" for name, n in found.events.items() if n)
        lines.append(
            f"throttling: {caps or 'none now'}" + (f"; since boot: {events}" if events else "")
        )
    return lines


def _clock(name: str, mhz: float, allowed: Clock | None) -> str:
    if allowed is None:
        return f"{name} {mhz:.0f} MHz"
    if allowed.locked:
        return f"{name} {mhz:.0f} MHz locked"
    return f"{name} {mhz:.0f} of {allowed.low:.0f} to {allowed.high:.0f} MHz"


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
        lines.append(f"  frames are prepared by {trial.prepare}; decode: {trial.decode}")
    for obstacle in trial.obstacles:
        lines += [f"  {obstacle.why}", f"  -> {obstacle.advice}"]
    if trial.why and not trial.obstacles:
        lines.append(f"  {trial.why}")
    return "\n".join([*lines, *(f"  note: {note}" for note in trial.notes)])


def _versions(finding: Finding) -> str:
    if len(finding.versions) == 1:
        return next(iter(finding.versions.values()))
    return ", ".join(f"{module} {version}" for module, version in finding.versions.items())
