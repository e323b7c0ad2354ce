"""`edgeseg sensitivity`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.calibration.calibrators import CHOICES
from edgeseg.cli.output import add_json, add_thread_count, positive, print_json, progress, say
from edgeseg.cli.source import add_foreign, add_size, source_of
from edgeseg.export.targets import EXPORTERS
from edgeseg.pipeline.plan import GATE_FRAMES, METHOD

if TYPE_CHECKING:
    from edgeseg.calibration.sensitivity import Layer, Loss
    from edgeseg.pipeline.sensitivity import Sensitivity

EXAMPLE = (
    "edgeseg sensitivity espnet_q8_camvid --data camvid:../shared/data/camvid --size 256x512 "
    "--out runs/sensitivity"
)
PICTURE, RESULT = "sensitivity.png", "sensitivity.json"
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name, checkpoint folder or .onnx file")
    parser.add_argument(
        "--data", required=True, metavar="KIND:PATH", help="frames: its train split"
    )
    parser.add_argument(
        "--target", default="onnxruntime", choices=EXPORTERS, help="default: %(default)s"
    )
    add_size(parser)
    parser.add_argument(
        "--frames",
        type=positive,
        default=GATE_FRAMES,
        metavar="N",
        help="frames for mIoU, at least 20, none of the calibration (default: %(default)s)",
    )
    parser.add_argument(
        "--confirm",
        type=positive,
        default=8,
        metavar="N",
        help="the worst layers that get their mIoU (default: %(default)s)",
    )
    parser.add_argument("--calib", type=Path, metavar="TABLE", help="ranges by 'calibrate'")
    parser.add_argument("--method", choices=CHOICES, default=METHOD, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"write {PICTURE} and {RESULT} there"
    )
    add_thread_count(parser)
    add_foreign(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from edgeseg.disk import check_folder, write_json
    from edgeseg.picture import save_image
    from edgeseg.pipeline.sensitivity import Asked, sensitivity
    from edgeseg.pipeline.sensitivity_picture import bars

    if args.out:
        check_folder(args.out)
    asked = Asked(
        source_of(args, args.model, args.size),
        args.data,
        args.target,
        args.method,
        args.calib,
        args.frames,
        args.confirm,
        args.threads,
    )
    with progress("layers") as step:
        result = sensitivity(asked, say, step)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        save_image(args.out / PICTURE, bars(result))
        write_json(args.out / RESULT, result.to_dict())
    print_json(args.json, result.to_dict())
    if args.json != "-":
        print(text(result))
        if args.out:
            print(f"written: {args.out / PICTURE}, {args.out / RESULT}")
    return 0


def text(result: Sensitivity) -> str:
    """The table for people: the worst layers."""
    shown = result.layers[:SHOWN]
    width = max(map(len, (layer.layer for layer in shown)))
    head = (
        f"{result.model}, {result.target}: all {len(result.layers)} layers in INT8 change "
        f"{result.changed:.2f} % of the labels; mIoU {result.miou_float:.2f} falls by "
        f"{result.whole.miou:.2f}, {_worst(result.whole)} ({result.against}, {result.frames} "
        f"frames of {result.source})"
    )
    titles = f"{'':<{width}}  changed  regained    SNR    MACs"
    return "\n".join([head, "", titles, *(_row(layer, width) for layer in shown)])


def _row(layer: Layer, width: int) -> str:
    line = (
        f"{layer.layer:<{width}}  {layer.changed:5.2f} %  {layer.regained:+6.2f} %  "
        f"{layer.snr_db:4.1f} dB  {100 * layer.macs:4.1f} %"
    )
    if layer.alone and layer.without:
        line += (
            f"  mIoU alone {-layer.alone.miou:+.2f} ({_worst(layer.alone)}), all but it "
            f"{-layer.without.miou:+.2f}"
        )
    return line


def _worst(loss: Loss) -> str:
    if loss.worst_class is None or loss.worst_class_drop is None:
        return "no class known"
    return f"{loss.worst_class} {0.0 - loss.worst_class_drop:+.2f}"
