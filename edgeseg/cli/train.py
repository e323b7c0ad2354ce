"""`edgeseg train`: a recipe -> a run folder with a checkpoint folder in it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path

from edgeseg.cli.output import add_json, print_json, say
from edgeseg.errors import TrainingError

EXAMPLE = (
    "edgeseg train benchmarks/suites/espnet_q8_camvid.toml --out runs/camvid\n"
    "  edgeseg train RECIPE.toml --init runs/pretrain/xception_b/checkpoint --out DIR\n"
    "  edgeseg train RECIPE.toml --teacher espnetv2_s2_camvid --out DIR\n"
    "  edgeseg train RECIPE.toml --qat runs/camvid/checkpoint --out DIR\n"
    "  torchrun --nproc-per-node 2 -m edgeseg train RECIPE.toml --out DIR   (several processes)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to train, and how")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--variant", default="", metavar="NAME", help="for a recipe that holds [variants.NAME]"
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from this checkpoint folder or shipped name, its encoder, or a backbone",
    )
    parser.add_argument(
        "--qat",
        metavar="CHECKPOINT",
        help="train this checkpoint in INT8, as the recipe's [qat] says",
    )
    parser.add_argument(
        "--teacher",
        metavar="CHECKPOINT",
        help="learn this network's scores too, as the recipe's [teacher] says",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in DIR from its last state"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the recipe, such as optimizer.lr=0.001; may be given often",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    # Before torch is loaded: threads that wait shall sleep, not spin. On cores that others use too,
    # spinning made ESPNet steps two to ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from edgeseg.recipe import read_recipe
    from edgeseg.training.plan import Recipe

    given = {"init": args.init, "qat.model": args.qat, "teacher.model": args.teacher}
    changes = [*args.set, *(f"{key}={json.dumps(value)}" for key, value in given.items() if value)]
    recipe = read_recipe(Recipe, args.recipe, tuple(changes), args.variant)
    try:
        from edgeseg.training.loop import train
    except ModuleNotFoundError as error:
        needed = {"torch", "safetensors", "matplotlib", "tensorboard"}
        if error.name is None or error.name.partition(".")[0] not in needed:
            raise
        raise TrainingError(
            f"training needs '{error.name}'. Install it: pip install 'edgeseg[train]'"
        ) from error
    source = args.recipe.read_text(encoding="utf-8")
    source += "".join(f"\n# --variant {v}" for v in (args.variant,) if v)
    source += "".join(f"\n# --set {change}" for change in changes)
    if recipe.qat.model:
        from edgeseg.pipeline import qat

        outcome = qat.train(recipe, args.out, resume=args.resume, source=source, say=say)
    else:
        outcome = train(recipe, args.out, resume=args.resume, source=source)
    if not outcome.leads:
        return 0 if outcome.result or outcome.step == recipe.steps else 130
    if outcome.result is None:
        say(_how_to_resume(args, outcome.step))
        return 130
    _report(args, outcome.result)
    return 0


def _how_to_resume(args: argparse.Namespace, step: int) -> str:
    words = ["edgeseg", "train", str(args.recipe), "--out", str(args.out), "--resume"]
    words += [word for change in args.set for word in ("--set", change)]
    for flag in ("variant", "init", "qat", "teacher"):
        words += [f"--{flag}", getattr(args, flag)] if getattr(args, flag) else []
    return f"edgeseg: interrupted after step {step}; go on with: {shlex.join(words)}"


def _report(args: argparse.Namespace, result: dict[str, object]) -> None:
    content = {"folder": str(args.out / "checkpoint"), **result}
    print_json(args.json, content)
    if args.json == "-":
        return
    sizes = result["sizes"]
    assert isinstance(sizes, dict)
    for size, scores in sizes.items():
        print(
            f"{_found(scores)} at {size} "
            f"({result['split']}, {result['frames']} frames, fit {result['fit']})"
        )
    print(f"checkpoint: {content['folder']}")


def _found(scores: dict[str, float]) -> str:
    """The scores of a model, of a refiner or of a classifier, in words."""
    if "miou" in scores:
        return f"mIoU {scores['miou']:.2f}"
    if "iou" in scores:
        return f"IoU of masks {scores['iou_before']:.2f} -> {scores['iou']:.2f}"
    return f"top1 {scores['top1']:.2f}, top5 {scores['top5']:.2f}"
