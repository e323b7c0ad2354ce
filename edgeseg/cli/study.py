"""`edgeseg study`: the variants of a recipe -> trained, scored frame by frame, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeseg.cli.output import add_json, positive, print_json, say
from edgeseg.errors import UsageError, guess
from edgeseg.pipeline import study as pipeline
from edgeseg.pipeline.study_results import compare, results_folder

EXAMPLE = "edgeseg study benchmarks/suites/study_camvid.toml --jobs 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=Path, metavar="STUDY.toml", help="a recipe with [study] and [variants.NAME]"
    )
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--only", metavar="NAME,...", help="these variants only; what they start from must be there"
    )
    parser.add_argument(
        "--seed",
        type=positive,
        metavar="N",
        help="another seed than the recipe's, in its own folder",
    )
    parser.add_argument(
        "--compare-only", action="store_true", help="train nothing; compare what is finished"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    study, claims, variants = pipeline.read_study(args.recipe)
    chosen = args.only.split(",") if args.only else variants
    for name in chosen:
        if name not in variants:
            raise UsageError(f"{args.recipe} has no variant '{name}'.{guess(name, variants)}")
    jobs = pipeline.plan(args.recipe, study, chosen, args.seed)
    failed: list[str] = []
    if not args.compare_only:
        pipeline.prepare(study.prepare, say)
        failed = pipeline.train_all(jobs, args.jobs, say)
    result = compare(args.recipe, study, claims, jobs, args.seed, say)
    print_json(args.json, result)
    if args.json != "-":
        _report(result, results_folder(study, args.seed))
    if failed:
        say(
            f"edgeseg: not trained: {', '.join(failed)}; each run's log lies beside its folder in "
            f"{study.folder}. The same command goes on"
        )
    return 1 if failed else 0


def _report(result: dict[str, object], where: Path) -> None:
    runs, claims = result["runs"], result["claims"]
    assert isinstance(runs, list)
    assert isinstance(claims, list)
    width = max(len(run["variant"]) for run in runs)
    for run in runs:
        miou = run["miou"]
        print(
            f"{run['variant']:<{width}}  mIoU {miou['value']:6.2f}  "
            f"[{miou['low']:.2f}, {miou['high']:.2f}]  {run['macs'] / 1e9:.3f} GMACs"
        )
    for claim in claims:
        found = claim["difference"]
        print(
            f"{claim['name']}: {claim['better']} less {claim['than']}: {found['value']:+.2f} "
            f"[{found['low']:+.2f}, {found['high']:+.2f}], target {claim['target']:+.1f}: "
            f"{'met' if claim['met'] else 'missed'}"
        )
    print(f"results: {where}")
