"""A finished training run -> weights that come with edgeseg: folder, card, scores.

`python -m edgeseg.pipeline.ship RUN NAME [--data KIND:PATH] [--size HxW] [--force]`

RUN is a folder of `edgeseg train`. What only training needs is dropped; kernels are stored as
float16 where that changes nothing, which is measured. A refiner is measured on the labels of a
model (`--labels-of MODEL`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.machine import machine
from edgeseg.bundle import Bundle, Manifest, ModelSpec, read_manifest
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import writing_file, writing_folder
from edgeseg.errors import UsageError, exit_code
from edgeseg.frame import Size, format_size, parse_size
from edgeseg.models.checkpoint import WEIGHTS, fill_weights, load_checkpoint, save_checkpoint
from edgeseg.models.network import build_exportable
from edgeseg.models.work import count_macs
from edgeseg.models.wrapper import Wrapper
from edgeseg.pipeline.card import Facts, card
from edgeseg.pipeline.model import MACS_AT, check_size, find_labeller
from edgeseg.pipeline.origin import Run, check_terms, describe, find_recipe, find_starts, read_run
from edgeseg.pipeline.ship_compare import Compared, Found, compare, compare_refiners
from edgeseg.weights import SHIPPED, is_non_commercial

LIMIT = 5_000_000
"""Bytes that the weights stay below."""
SUITES = Path("benchmarks/suites")
LABELS_OF = "espnet_q8_dsrl_camvid"
"""An example of a model whose labels a refiner is scored on."""

# fmt: off
LIMITS = {
    "camvid":      "CamVid's val frames are the rest of a drive (0016E5) whose other frames are in "
                   "train: the mIoU flatters. Streets of another city will give less.",
    "synthetic":   "These streets are drawn: the network is for trying the tools, not for real "
                   "streets.",
    "idd":         "IDD-Lite is of Indian roads, at 227x320.",
}
# fmt: on
"""Kind of the frames it was scored on -> what that means for the score."""
REFINERS_LIMIT = (
    "What is not in the coarse mask is not found; labels of another model may gain more, or less."
)
GENERAL = "Nothing that anyone's safety depends on may rest on it."


def lean(spec: ModelSpec) -> ModelSpec:
    """The same network without what DSRL adds for training alone."""
    if "dsrl" not in spec.name.split("+")[1:]:
        return spec
    table = spec.options.get("dsrl", {})
    kept = {key: table[key] for key in ("upsampling",) if key in table}
    return dataclasses.replace(spec, options={**spec.options, "dsrl": {"stage": "sssr", **kept}})


def store(run: Run, name: str, size: Size | None, folder: Path, *, half: bool) -> Bundle:
    """Write the run's weights to `folder` as they will be shipped."""
    network, bundle = load_checkpoint(run.checkpoint, build_exportable)
    manifest = bundle.manifest
    assert manifest.model is not None  # load_checkpoint built the network from it
    spec = lean(manifest.model)
    shipped = build_exportable(spec, len(manifest.table) + spec.void_outputs)
    branches = tuple(f"{b}." for b in network.branches()) if isinstance(network, Wrapper) else ()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(branches)}
    fill_weights(shipped, state, str(run.checkpoint))
    size = size or manifest.input.size
    assert size is not None  # training writes it
    check_size(size, shipped.divisor, name)
    form = "kernels as float16" if half else "float32"
    manifest = dataclasses.replace(
        manifest,
        name=name,
        model=spec,
        input=dataclasses.replace(manifest.input, size=size),
        history=(*manifest.history, f"shipped as {name}: {form}"),
    )
    return save_checkpoint(folder, shipped, manifest, half=half)


def choose(single: Bundle, half: Bundle, found: Compared) -> tuple[Bundle, str]:
    """Which of the two is shipped, and why; UsageError where it is too large."""
    chosen = half if found.same else single
    size = (chosen.folder / WEIGHTS).stat().st_size
    if size >= LIMIT:
        why = "" if found.same else f" float16 would change the labels: {found}."
        raise UsageError(
            f"the weights are {size / 1e6:.1f} MB; what is shipped stays below "
            f"{LIMIT / 1e6:.0f} MB.{why} Train a smaller model"
        )
    form = "float16 kernels, the rest float32" if found.same else "float32"
    return chosen, f"{form}, {size / 1e6:.2f} MB: {found}"


def count_work(folder: Path) -> tuple[int, dict[str, int]]:
    """Parameters and MACs of what is deployed, at the folder's own size and at MACS_AT."""
    network, bundle = load_checkpoint(folder, build_exportable)
    if not network.mask:  # a refiner's output is a mask, whatever the classes
        network.cut(len(bundle.manifest.table))
    network.deploy()
    own = bundle.manifest.input.size
    sizes = [size for size in dict.fromkeys((own, *MACS_AT)) if size is not None]
    channels = 4 if network.mask else 3
    macs = {format_size(size): count_macs(network, size, channels)[0] for size in sizes}
    return sum(p.numel() for p in network.parameters()), macs


def ship(
    run: Run,
    name: str,
    dataset: Dataset,
    size: Size | None = None,
    *,
    labels_of: str | None = None,
    force: bool = False,
    suites: Path = SUITES,
    into: Path = SHIPPED,
) -> Facts:
    """Write NAME/, NAME.md and NAME.json into `into`, all or none; returns what the card says.

    A refiner is scored on the labels that the model `labels_of` gives.
    """
    check_name(name, into, force=force)
    _check_labels_of(run, labels_of)
    recipe_file = find_recipe(run, suites)
    starts = find_starts(run.recipe.init)
    manifest = read_manifest(run.checkpoint)
    thanks = check_terms(manifest.weights, starts)
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        single = store(run, name, size, Path(temporary) / "single", half=False)
        half = store(run, name, size, Path(temporary) / "half", half=True)
        folders = (single.folder, half.folder)
        found = (
            compare_refiners(*folders, dataset, labels_of)
            if labels_of
            else compare(*folders, dataset)
        )
        chosen, stored = choose(single, half, found)
        facts = {
            **_network(chosen),
            **_scores(found.half if chosen is half else found.single, dataset, chosen.manifest),
            **describe(run, recipe_file, starts, manifest.weights),
            "attribution": thanks,
            "stored": stored,
            "commit": _commit(),
            "machine": _machine(),
        }
        _write(facts, chosen.folder, into / name)
    return facts


def _check_labels_of(run: Run, labels_of: str | None) -> None:
    """Refiners need such a model, others take none."""
    if run.recipe.refines and labels_of is None:
        raise UsageError(
            f"{run.folder} is a refiner's; --labels-of says whose labels it is scored on, such as "
            f"{LABELS_OF}"
        )
    if labels_of is None:
        return
    if not run.recipe.refines:
        raise UsageError(f"{run.folder} is no refiner's; leave --labels-of away")
    find_labeller(labels_of)


def check_name(name: str, into: Path, *, force: bool) -> None:
    """UsageError for a name that can't be a file's, that is taken, or that means another model."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise UsageError(f"'{name}' is no name for weights; take small letters, digits and _.-")
    if (into / name).exists() and not force:
        raise UsageError(f"weights named '{name}' are shipped already; --force replaces them")


def _network(bundle: Bundle) -> Facts:
    manifest = bundle.manifest
    assert manifest.model is not None
    assert manifest.input.size is not None
    params, macs = count_work(bundle.folder)
    given, scale = manifest.input, manifest.output.scale
    more = f"; labels at {scale}x the input" if scale > 1 else ""
    more += "; a coarse mask as fourth channel" if given.mask else ""
    return {
        "name": manifest.name,
        "model": manifest.model.name,
        "options": _flat(manifest.model.options),
        "classes": manifest.table.name,
        "params": params,
        "macs": macs,
        "input": f"{given.order.upper()}, mean {_numbers(given.mean)}, std {_numbers(given.std)} "
        f"in uint8 units, fit {given.fit}{more}",
    }  # fmt: skip


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """{"dsrl": {"stage": ..}} -> {"dsrl.stage": ..}."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _scores(found: Found, dataset: Dataset, manifest: Manifest) -> Facts:
    scores = found.scores
    kind = dataset.source.partition(":")[0]
    non_commercial = is_non_commercial(manifest.weights.licence)
    limits = [text for word, text in LIMITS.items() if word in kind]
    limits += [REFINERS_LIMIT] if found.refined else []
    return {
        "miou": round(scores.miou, 2),
        "pixel_accuracy": round(scores.pixel_accuracy, 2),
        "per_class": {k: v if v is None else round(v, 2) for k, v in scores.per_class.items()},
        "size": list(manifest.input.size or ()),
        "frames": len(dataset),
        "data": f"{kind} {dataset.split}",
        "rule": found.rule[0].upper() + found.rule[1:],
        "also": [],
        **({"refined": found.refined} if found.refined else {}),
        "use": "Research, teaching and trying the tools, without commercial purpose."
        if non_commercial
        else "Trying the tools, and a start for a training of your own.",
        "limits": [*limits, GENERAL],
    }  # fmt: skip


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.10g}" for v in values) + ")"


def _commit() -> str:
    """The commit that packs them; says so when there are changes on top of it."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UsageError(f"git {words[0]}: {done.stderr.strip()}; ship from a git checkout")
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", ":/edgeseg/**/*.py")
    return f"packed at {git('rev-parse', 'HEAD')}{', with changes on top' if changed else ''}"


def _machine() -> str:
    about = machine()
    libraries = about["libraries"]
    versions = ", ".join(f"{k} {libraries[k]}" for k in ("torch", "numpy") if k in libraries)
    return f"scored on {about['cpu']}, {about['cores']} cores, Python {about['python']}, {versions}"


def _write(facts: Facts, chosen: Path, out: Path) -> None:
    """The folder, the card and the scores: all are written aside before one is renamed."""
    with contextlib.ExitStack() as stack:
        text = stack.enter_context(writing_file(out.with_name(f"{out.name}.md")))
        content = stack.enter_context(writing_file(out.with_name(f"{out.name}.json")))
        folder = stack.enter_context(writing_folder(out))
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        content.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        text.write_text(card(facts), encoding="utf-8")


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.pipeline.ship",
        description="A finished training run -> weights that come with edgeseg, with their card",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of 'edgeseg train'")
    parser.add_argument("name", metavar="NAME", help="what MODEL will be")
    parser.add_argument("--data", metavar="KIND:PATH", help="to score on (default: the recipe's)")
    parser.add_argument("--size", type=parse_size, metavar="HxW", help="default: the checkpoint's")
    parser.add_argument(
        "--labels-of",
        metavar="MODEL",
        help=f"whose labels a refiner is scored on, such as {LABELS_OF}",
    )
    parser.add_argument("--force", action="store_true", help="replace weights of that name")
    args = parser.parse_args(words)
    return exit_code(lambda: _ship(args))


def _ship(args: argparse.Namespace) -> None:
    run = read_run(args.run)
    data = args.data or run.recipe.eval_data or run.recipe.data
    dataset = open_dataset(data, run.recipe.eval_split)
    facts = ship(run, args.name, dataset, args.size, labels_of=args.labels_of, force=args.force)
    print(f"{SHIPPED / args.name}.md: {facts['stored']}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
