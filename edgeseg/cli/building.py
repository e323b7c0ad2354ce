"""What verbs that build with TensorRT ask: flags, and how the result is told."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.cli.output import amount, positive
from edgeseg.export.build_options import HARDWARE, BuildOptions
from edgeseg.export.gate import Budget


def add_budget(parser: argparse.ArgumentParser) -> None:
    """`--max-miou-drop` and `--max-class-drop`."""
    parser.add_argument(
        "--max-miou-drop",
        type=amount,
        default=Budget().miou,
        metavar="POINTS",
        help="what the gate lets mIoU lose (default: %(default)s)",
    )
    parser.add_argument(
        "--max-class-drop",
        type=amount,
        default=Budget().per_class,
        metavar="POINTS",
        help="what it lets the worst class lose (default: %(default)s)",
    )


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """The flags of BuildOptions."""
    group = parser.add_argument_group("for TensorRT (docs/tensorrt.md)")
    group.add_argument(
        "--workspace", type=positive, metavar="MIB", help="memory that one layer may use"
    )
    group.add_argument(
        "--build-memory",
        type=positive,
        metavar="MIB",
        help="memory that the builder may use, on boards whose GPU shares it",
    )
    group.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="times of layers, read and written: later builds are quicker",
    )
    group.add_argument(
        "--pin-cache",
        metavar="SHA256",
        help="of the timing cache: it is not written, and a layer that is not in it is an error",
    )
    group.add_argument(
        "--version-compatible", action="store_true", help="later TensorRT releases run it too"
    )
    group.add_argument(
        "--hardware-compatible", choices=HARDWARE, help="other GPUs run it too, more slowly"
    )
    group.add_argument(
        "--dla", type=_core, metavar="CORE", help="DLA core (fp16); the GPU takes the rest"
    )


def build_options(args: argparse.Namespace) -> BuildOptions:
    """What the flags of `add_build_options` say."""
    return BuildOptions(
        args.workspace,
        args.build_memory,
        args.timing_cache,
        args.pin_cache,
        args.version_compatible,
        args.hardware_compatible,
        args.dla,
    )


def budget(args: argparse.Namespace) -> Budget:
    """What the flags of `add_budget` say."""
    return Budget(args.max_miou_drop, args.max_class_drop)


def result(bundle: Bundle) -> dict[str, Any]:
    """The form of `--json` of a verb that makes an engine folder."""
    manifest = bundle.manifest
    assert manifest.target is not None
    assert manifest.gate is not None
    quantisation = manifest.quantisation
    record = manifest.target.build
    return {
        "folder": str(bundle.folder),
        "target": manifest.target.name,
        "precision": manifest.precision,
        "recipe": manifest.recipe or None,
        "weights": dataclasses.asdict(manifest.weights),
        "gate": dict(manifest.gate.__dict__),
        "float_layers": list(quantisation.float_layers) if quantisation else None,
        "build": dataclasses.asdict(record) if record else None,
    }


def summary(bundle: Bundle) -> str:
    """What was made, in one line or two."""
    manifest = bundle.manifest
    assert manifest.target is not None
    assert manifest.gate is not None
    line = (
        f"{bundle.folder}: {manifest.name}, {manifest.target.name} {manifest.precision}, "
        f"gate {manifest.gate.state}"
    )
    record = manifest.target.build
    if record is None:
        return line
    left = record.gpu_layers
    dla = "" if left is None else f" (a DLA takes {record.layers - sum(left.values())})"
    return (
        f"{line}\nbuilt by {manifest.target.name} {manifest.target.version} in "
        f"{record.seconds:.1f} s: {record.layers} layers{dla}, {record.warnings} warnings; for "
        f"{manifest.target.device}"
    )


def _core(text: str) -> int:
    """A DLA core's number, for argparse."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of a DLA core (0, 1)")
    return int(text)
