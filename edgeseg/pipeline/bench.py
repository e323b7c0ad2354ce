"""Models x sizes x targets x precisions -> engine folders, rows, results.json and report.html."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.benchmarks.job import Job
from edgeseg.benchmarks.latency import StopRule
from edgeseg.benchmarks.measure import measure_in_process, write_timing_frames
from edgeseg.benchmarks.pacing import Pace
from edgeseg.benchmarks.pictures import Picture, choose_frames, take_pictures
from edgeseg.benchmarks.report import write_report
from edgeseg.benchmarks.rows import headline, reference
from edgeseg.bundle import Bundle, Manifest, Target, read_bundle, read_manifest, write_bundle
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import write_json, writing_folder
from edgeseg.errors import BundleError, EdgesegError, UsageError, guess
from edgeseg.export.gate import Budget
from edgeseg.export.targets import EXPORTERS
from edgeseg.frame import Size, format_size
from edgeseg.pipeline.model import find_model, resized, takes_mask
from edgeseg.pipeline.plan import BUILT, GATE_FRAMES, REPORT, RESULTS, SIZES, Plan, Say, Source
from edgeseg.pipeline.random_weights import is_random
from edgeseg.runtime.crf import CrfSpec
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.segmenter import load

if TYPE_CHECKING:  # a board measures ready folders, and has no onnx
    from edgeseg.pipeline.floats import FloatNetwork
    from edgeseg.pipeline.quantise import Quantiser

TORCH = "torch"
ENGINES = "engines"


@dataclass(frozen=True)
class Suite:
    """What to measure. `targets` may hold "torch", which runs the checkpoint itself in fp32.

    With `crf` each folder, which must return scores, has a second row: with the dense CRF.
    """

    models: tuple[Source, ...]
    data: str
    split: str = "val"
    sizes: tuple[Size, ...] = SIZES
    targets: tuple[str, ...] = tuple(EXPORTERS)
    precisions: tuple[str, ...] = ("fp32", "int8")
    calib: str | None = None
    limit: int | None = None
    options: EngineOptions = EngineOptions()
    rule: StopRule = field(default_factory=StopRule)
    command: str = ""
    calibration_frames: int = 100
    gate_frames: int = GATE_FRAMES
    budget: Budget = field(default_factory=Budget)
    allow_ungated: bool = False
    pace: Pace | None = None
    soak: float | None = None
    crf: CrfSpec | None = None

    def __post_init__(self) -> None:
        if self.crf is not None and TORCH in self.targets:
            raise UsageError(
                "--crf is measured behind engine folders; leave torch out of --targets "
                "('edgeseg eval --crf' runs a checkpoint with it)"
            )
        for target in self.targets:
            if target not in (*EXPORTERS, TORCH):
                raise UsageError(f"unknown target '{target}'.{guess(target, (*EXPORTERS, TORCH))}")
        if TORCH in self.targets and "fp32" not in self.precisions:
            raise UsageError(
                f"target 'torch' runs the checkpoint in fp32, and --precisions is "
                f"{','.join(self.precisions)}; add fp32 to it, or leave torch away"
            )


def bench(suite: Suite, out: Path, say: Say) -> dict[str, Any]:
    """Build what is no engine folder yet under `out`/engines, measure all, write the report.

    A combination that fails is kept under "failed" with its message; the others go on. Rows of
    random weights have no accuracy, nor have those of a refiner, which `edgeseg refine` measures.
    """
    _check_out(out)
    dataset = open_dataset(suite.data, suite.split)
    if suite.limit:
        dataset = dataset.spread(suite.limit)
    rows: list[dict[str, Any]] = []
    folders: list[Path] = []
    failed: list[dict[str, Any]] = []
    for folder in _folders(suite, out / ENGINES, failed, say):
        for crf in (None, suite.crf) if suite.crf else (None,):
            try:
                row = _measure(folder, suite, dataset, crf)
            except EdgesegError as error:
                failed.append({"folder": folder.name, "error": str(error)})
                say(f"failed: {error}")
                continue
            rows.append(row)
            folders.append(folder)
            say(line(row))
    if not rows:
        first = failed[0]["error"] if failed else "no size, target and precision was left"
        raise UsageError(f"nothing could be measured: {first}")
    results = {
        "command": suite.command,
        "commands": [suite.command],
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": {"kind": suite.data.partition(":")[0], "split": suite.split},
        "results": rows,
        "failed": failed,
    }
    write_json(out / RESULTS, results)
    pictures = _pictures(rows, folders, dataset)
    write_report(results, out / REPORT, pictures, read_manifest(folders[0]).table)
    return results


def build(suite: Suite, out: Path, say: Say) -> dict[str, Any]:
    """Build what `bench` would, and measure nothing; what is there stands in `out`/built.json."""
    _check_out(out)
    failed: list[dict[str, Any]] = []
    folders = list(_folders(suite, out / ENGINES, failed, say))
    if not folders:
        first = failed[0]["error"] if failed else "no size, target and precision was left"
        raise UsageError(f"nothing could be built: {first}")
    built = {
        "command": suite.command,
        "folders": [str(folder) for folder in folders],
        "failed": failed,
    }
    write_json(out / BUILT, built)
    return built


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} is a file; --out expects a folder")


def _measure(
    folder: Path, suite: Suite, dataset: Dataset, crf: CrfSpec | None = None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        frames = Path(temporary) / "frames.npy"
        manifest = read_manifest(folder)
        write_timing_frames(frames, dataset, manifest.input)
        job = Job(
            folder,
            frames,
            suite.options.threads,
            suite.options.inference_precision,
            suite.allow_ungated or manifest.kind == "checkpoint",  # torch runs it ungated
            None if is_random(manifest) else suite.data,
            suite.split,
            suite.limit,
            suite.rule,
            suite.pace,
            suite.soak,
            crf,
        )
        return measure_in_process(job)


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    miou = "" if row["miou"] is None else f", mIoU {row['miou']:.2f}"
    p50 = row["latency_ms"]["p50"]
    speed = "too few samples" if p50 is None else f"p50 {p50:.1f} ms"
    return (
        f"{row['model']} {row['target']} {row['precision']} ({row['inference_precision']}) "
        f"{format_size(tuple(row['size']))}{' with dense CRF' if row['crf'] else ''}: "
        f"{speed}{miou}"
    )


def _folders(suite: Suite, engines: Path, failed: list[dict[str, Any]], say: Say) -> Iterator[Path]:
    paths = [find_model(source.model) for source in suite.models]
    ready = [path.is_dir() and read_manifest(path).kind == "network" for path in paths]
    stems = [s.stem for s, is_ready in zip(suite.models, ready, strict=True) if not is_ready]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice:
        raise UsageError(f"two models are named '{twice}', and so would their engines be")
    for source, path, is_ready in zip(suite.models, paths, ready, strict=True):
        if is_ready:
            yield path
            continue
        for size in suite.sizes:
            sized = dataclasses.replace(source, size=size)
            try:
                yield from _built(sized, path, suite, engines, failed, say)
            except EdgesegError as error:
                failed.append({"folder": _name(sized), "error": str(error)})
                say(f"failed: {error}")


def _built(
    source: Source, path: Path, suite: Suite, engines: Path, failed: list[dict[str, Any]], say: Say
) -> Iterator[Path]:
    from edgeseg.pipeline.export import choose_frames as choose_gate
    from edgeseg.pipeline.floats import make_float
    from edgeseg.pipeline.quantise import Quantiser, calibrate

    stem = _name(source)
    if TORCH in suite.targets and path.is_dir():
        if takes_mask(path):
            raise UsageError(f"{path} refines masks: leave torch out of --targets")
        yield torch_folder(source, path, engines / f"{stem}-torch-fp32")
    targets = [t for t in suite.targets if t != TORCH]
    if not targets:
        return
    frames = choose_gate(suite.calib or suite.data, None, calibration=suite.calibration_frames)
    say(f"{stem}: building the float network")
    network = make_float(source, frames.gate.spread(suite.gate_frames), say)
    quantiser = None
    if "int8" in suite.precisions:
        method = Plan(targets[0], "int8").method
        quantiser = Quantiser(network, calibrate(network, frames.calibration, method, say))
    for target in targets:
        for precision in suite.precisions:
            out = engines / f"{stem}-{target}-{precision}"
            try:
                _export(network, quantiser, Plan(target, precision, budget=suite.budget), out, say)
            except EdgesegError as error:
                failed.append({"folder": out.name, "error": str(error)})
                say(f"failed: {error}")
                continue
            yield out


def _name(source: Source) -> str:
    return f"{source.stem}-{format_size(source.size or (0, 0))}"


def _export(
    network: FloatNetwork, quantiser: Quantiser | None, plan: Plan, out: Path, say: Say
) -> Bundle:
    from edgeseg.pipeline.export import export_network

    return export_network(network, quantiser if plan.precision == "int8" else None, plan, out, say)


def torch_folder(source: Source, path: Path, out: Path) -> Path:
    """A copy of the checkpoint that names torch as its target and the size to run at."""
    bundle = resized(read_bundle(path), source.size, source.fit)
    size = bundle.manifest.input.size
    assert size is not None
    with writing_folder(out) as aside:
        for name in bundle.manifest.files:
            shutil.copyfile(bundle.folder / name, aside / name)
        write_bundle(aside, _as_torch(bundle.manifest, size))
    return out


def _as_torch(manifest: Manifest, size: Size) -> Manifest:
    from edgeseg.models.network import build_model
    from edgeseg.models.work import count_macs

    assert manifest.model is not None
    classes = len(manifest.table)
    network = build_model(manifest.model, classes + manifest.model.void_outputs).eval()
    network.cut(classes)
    network.deploy()
    macs, uncounted = count_macs(network, size)
    return dataclasses.replace(
        manifest,
        target=Target("torch", "", "CPU"),
        params=sum(p.numel() for p in network.parameters()),
        macs=macs,
        uncounted=uncounted,
    )


def _pictures(rows: list[dict[str, Any]], folders: list[Path], dataset: Dataset) -> list[Picture]:
    """Best and worst frames of the report's headline row beside its float reference."""
    lead = headline(rows)
    if lead is None or not lead.get("frame_miou"):
        return []
    floats = reference(lead, rows)
    titles = choose_frames(lead, floats)
    with load(folders[rows.index(lead)], frames="rgb", allow_ungated=True) as int8:
        if floats is None:
            return take_pictures(dataset, titles, lead["frame_miou"], None, int8)
        with load(folders[rows.index(floats)], frames="rgb", allow_ungated=True) as other:
            return take_pictures(dataset, titles, lead["frame_miou"], other, int8)
