"""The finished runs of a study -> scores frame by frame, intervals, curves and overlays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.accuracy import confusions
from edgeseg.benchmarks.bootstrap import DRAWS, LEVEL, Interval, difference, interval
from edgeseg.benchmarks.machine import machine
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import write_json, writing_file
from edgeseg.errors import TrainingError
from edgeseg.metrics import RULE, ConfusionMatrix
from edgeseg.picture import contact_sheet, encode_jpeg, overlay
from edgeseg.pipeline.model import open_model
from edgeseg.pipeline.study import Claim, Job, Say, Study
from edgeseg.recipe import read_recipe
from edgeseg.runtime.engine import EngineOptions

COUNTS = "frames.npz"
RESULT, CURVES, OVERLAYS = "study.json", "curves.png", "overlays.jpg"
COLUMNS = 4
"""Tiles in a row of the picture of overlays."""
NARROW, LEGIBLE = 100, 160
"""Pixels: what halving may leave of a tile's width, and how wide a small one becomes at least."""
QUALITY = 36
"""Of that JPEG, which is kept in the repository."""


def results_folder(study: Study, seed: int | None) -> Path:
    """Where its result lies; `seed` None is the recipe's own."""
    return Path(study.results) / ("" if seed is None else f"seed{seed}")


def compare(
    path: Path, study: Study, claims: dict[str, Claim], jobs: list[Job], seed: int | None, say: Say
) -> dict[str, Any]:
    """Score every finished run frame by frame; write results, curves and overlays."""
    from edgeseg.training.curves import draw_runs
    from edgeseg.training.journal import read_log

    finished = [job for job in jobs if (job.folder / "eval.json").exists()]
    if not finished:
        raise TrainingError(f"no run of {path} is finished in {study.folder}")
    results = results_folder(study, seed)
    title = study.title if seed is None else f"{study.title}, seed {seed}"
    results.mkdir(parents=True, exist_ok=True)
    counts = {}
    rows = []
    for job in finished:
        say(f"{job.variant}: scoring frame by frame")
        dataset = _evaluation_data(path, job)
        counts[job.variant] = _frame_counts(job, dataset)
        rows.append(_row(path, job, dataset, counts[job.variant]))
    content = {
        "title": title,
        "recipe": path.as_posix(),
        "command": f"edgeseg study {path.as_posix()}" + (f" --seed {seed}" if seed else ""),
        "rule": RULE,
        "bootstrap": {"draws": DRAWS, "level": LEVEL, "over": "frames"},
        "machine": machine(),
        "missing": [job.variant for job in jobs if job not in finished],
        "runs": rows,
        "claims": [_judge(name, c, counts) for name, c in claims.items() if _known(c, counts)],
    }
    write_json(results / RESULT, content)
    draw_runs(
        results / CURVES, {j.variant: read_log(j.folder / "log.csv") for j in finished}, title
    )
    with writing_file(results / OVERLAYS) as aside:
        aside.write_bytes(encode_jpeg(_overlays(path, finished), QUALITY))
    return content


def _known(claim: Claim, counts: dict[str, np.ndarray]) -> bool:
    return claim.better in counts and claim.than in counts


def _judge(name: str, claim: Claim, counts: dict[str, np.ndarray]) -> dict[str, Any]:
    found = difference(counts[claim.better], counts[claim.than])
    return {
        "name": name, "better": claim.better, "than": claim.than, "target": claim.target,
        "source": claim.source, "difference": _plain(found), "met": found.value >= claim.target,
    }  # fmt: skip


def _plain(found: Interval) -> dict[str, float]:
    return {key: round(value, 3) for key, value in found.__dict__.items()}


def _evaluation_data(path: Path, job: Job) -> Dataset:
    from edgeseg.training.plan import Recipe

    recipe = read_recipe(Recipe, path, variant=job.variant)
    dataset = open_dataset(recipe.eval_data or recipe.data, recipe.eval_split)
    return dataset.spread(recipe.eval_frames) if recipe.eval_frames else dataset


def _frame_counts(job: Job, dataset: Dataset) -> np.ndarray:
    """(frames, C, C + 1) confusion counts, kept beside the run; made anew if older than it."""
    kept, result = job.folder / COUNTS, job.folder / "eval.json"
    if kept.exists() and kept.stat().st_mtime > result.stat().st_mtime:
        with np.load(kept) as content:
            stored: np.ndarray = content["counts"]
            return stored
    folder = str(job.folder / "checkpoint")
    with open_model(folder, size=None, fit=None, options=EngineOptions()) as segmenter:
        found = dict(confusions(segmenter, dataset))
    counts = np.stack([matrix.counts for matrix in found.values()])
    with writing_file(kept) as aside, aside.open("wb") as file:
        np.savez_compressed(file, counts=counts, names=np.array(list(found)))
    return counts


def _row(path: Path, job: Job, dataset: Dataset, counts: np.ndarray) -> dict[str, Any]:
    from edgeseg.models.checkpoint import load_checkpoint
    from edgeseg.models.work import count_macs

    model, bundle = load_checkpoint(job.folder / "checkpoint")
    matrix = ConfusionMatrix(len(dataset.classes))
    matrix.counts = counts.sum(0)
    scores = matrix.scores(dataset.classes.names)
    manifest, size = bundle.manifest, bundle.manifest.input.size
    assert manifest.model is not None  # load_checkpoint built it
    assert size is not None  # training writes it
    trained = json.loads((job.folder / "eval.json").read_text(encoding="utf-8"))
    model.deploy()
    return {
        "variant": job.variant,
        "model": manifest.model.name,
        "options": manifest.model.options,
        "init": job.init,
        "size": list(size),
        "labels": [side * model.scale for side in size],
        "params": sum(p.numel() for p in model.parameters()),
        "macs": count_macs(model, size)[0],
        "miou": _plain(interval(counts)),
        "pixel_accuracy": round(scores.pixel_accuracy, 3),
        "majority": majority(matrix.counts),
        "per_class": {k: v if v is None else round(v, 3) for k, v in scores.per_class.items()},
        "frames": len(dataset),
        "data": f"{dataset.source} {dataset.split}",
        "steps": trained["step"],
        "seconds": trained["seconds"],
        "recipe": trained["recipe"],
        "dupsample": trained.get("dupsample"),
    }


def majority(counts: np.ndarray) -> dict[str, float]:
    """(C, C + 1) confusion counts -> the scores of labels that are all the most frequent class."""
    truth = counts.sum(1)
    share = 100.0 * float(truth.max()) / max(int(truth.sum()), 1)
    present = max(int((truth > 0).sum()), 1)
    return {"miou": round(share / present, 3), "pixel_accuracy": round(share, 3)}


def _overlays(path: Path, jobs: list[Job]) -> np.ndarray:
    """One frame: as it is, with its labels, and with what each network says."""
    few = _evaluation_data(path, jobs[0]).spread(3)
    sample = few[1]
    tiles = [(sample.name, sample.image)]
    tiles.append(("labels", overlay(sample.image, sample.labels, few.classes)))
    for job in jobs:
        folder = str(job.folder / "checkpoint")
        with open_model(folder, size=None, fit=None, options=EngineOptions()) as segmenter:
            called = segmenter.segment(sample.image)
        tiles.append((job.variant, overlay(sample.image, called, few.classes)))
    return contact_sheet([(name, thumbnail(image)) for name, image in tiles], COLUMNS)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Every second pixel; of a small image every pixel, enlarged until a name fits above it."""
    width = image.shape[1]
    if width >= 2 * NARROW:
        return image[::2, ::2]
    times = -(-LEGIBLE // width)
    return image.repeat(times, 0).repeat(times, 1)
