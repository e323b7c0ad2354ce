"""`edgeseg convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.bundle import InputSpec, WeightsSpec
from edgeseg.cli.output import amount
from edgeseg.cli.source import three
from edgeseg.errors import UsageError, guess
from edgeseg.frame import FITS, ORDERS, format_size, parse_size
from edgeseg.models.presets import PRESETS
from edgeseg.pipeline import model as pipeline

EXAMPLE = (
    "edgeseg convert --model espnet_q8 --weights espnet_p_2_q_8_camvid.pth "
    "--preset espnet-camvid --out espnet_camvid"
)

OF_PRESETS = (
    "classes", "mean", "std", "divide", "order", "void_outputs", "option", "data", "licence",
)  # fmt: skip
"""What a preset says, and is therefore not to be given beside it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="model name, see 'edgeseg models'"
    )
    parser.add_argument(
        "--weights", required=True, type=Path, metavar="FILE.pth", help="published file"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="checkpoint folder to write"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"all below but --size and --fit at once: {', '.join(PRESETS)}",
    )
    parser.add_argument("--classes", metavar="TABLE", help="class table: a name or a TOML file")
    parser.add_argument(
        "--mean", type=three, metavar="M,M,M", help="in pixel units (0 to 255), as --order says"
    )
    parser.add_argument("--std", type=three, metavar="S,S,S", help="in pixel units")
    parser.add_argument("--divide", type=amount, metavar="X", help="after std (default: 1)")
    parser.add_argument("--order", choices=ORDERS, help="channel order that the network expects")
    parser.add_argument(
        "--size", type=parse_size, metavar="HxW", help="height and width that suit it"
    )
    parser.add_argument("--fit", choices=FITS, default="pad", help="default: %(default)s")
    parser.add_argument(
        "--void-outputs", type=int, metavar="N", help="behind the classes (default: 0)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the model, such as skip=stem",
    )
    parser.add_argument("--data", metavar="TEXT", help="what the weights were trained on")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights")


def run(args: argparse.Namespace) -> int:
    if args.preset:
        classes, spec, options, void_outputs, origin = _preset(args)
    else:
        classes, spec, options, void_outputs, origin = _by_hand(args)
    bundle = pipeline.convert(
        args.model,
        args.weights,
        args.out,
        spec=spec,
        classes=classes,
        options=options,
        void_outputs=void_outputs,
        origin=origin,
    )
    manifest = bundle.manifest
    print(
        f"{args.out}: {manifest.name}, {manifest.params or 0:,} params, "
        f"{len(manifest.table)} classes ({manifest.table.name}), input {spec.order} "
        f"{format_size(spec.size) if spec.size else 'of any size'}"
    )
    return 0


Read = tuple[str, InputSpec, dict[str, str], int, WeightsSpec]


def _preset(args: argparse.Namespace) -> Read:
    if args.preset not in PRESETS:
        raise UsageError(f"unknown preset '{args.preset}'.{guess(args.preset, PRESETS)}")
    given = [f"--{k.replace('_', '-')}" for k in OF_PRESETS if getattr(args, k) not in (None, [])]
    if given:
        raise UsageError(f"--preset {args.preset} already says what {given[0]} says; leave it away")
    preset = PRESETS[args.preset]
    options = {} if args.model.startswith("espnetc") else dict(preset.options)
    spec = _spec(
        preset.order, preset.mean, preset.std, preset.divide, args.size or preset.size, args.fit
    )
    origin = WeightsSpec(preset.data, preset.licence, f"{preset.source}, {args.weights.name}")
    return preset.classes, spec, options, preset.void_outputs, origin


def _by_hand(args: argparse.Namespace) -> Read:
    missing = [f"--{k}" for k in ("classes", "mean", "std", "order") if not getattr(args, k)]
    if missing:
        raise UsageError(f"{', '.join(missing)} missing; or give --preset {'|'.join(PRESETS)}")
    options = {}
    for option in args.option:
        key, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--option {option}: expected KEY=VALUE")
        options[key] = value
    divide = 1.0 if args.divide is None else args.divide
    spec = _spec(args.order, args.mean, args.std, divide, args.size, args.fit)
    origin = WeightsSpec(args.data or "unknown", args.licence or "unknown", args.weights.name)
    return args.classes, spec, options, args.void_outputs or 0, origin


def _spec(
    order: str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    divide: float,
    size: tuple[int, int] | None,
    fit: str,
) -> InputSpec:
    if min(divide, *std) <= 0:
        raise UsageError("--std and --divide must be positive")
    scaled = (std[0] * divide, std[1] * divide, std[2] * divide)
    fill = tuple(min(255, max(0, round(m))) for m in mean)
    return InputSpec(order, mean, scaled, fit, (fill[0], fill[1], fill[2]), size)
