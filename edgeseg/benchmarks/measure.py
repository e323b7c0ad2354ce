"""One row of a bench result, measured in a process of its own.

`measure_in_process` starts `python -m edgeseg.benchmarks.measure FOLDER ...` and reads the row that
it writes. Latency and peak memory are read before the data set is opened, on frames that lie ready
in a .npy file, so that neither decoding nor resizing is in the numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import errors
from edgeseg.benchmarks.job import Job, parse_arguments, to_arguments
from edgeseg.benchmarks.latency import summary_of
from edgeseg.benchmarks.machine import busy_seconds, machine
from edgeseg.benchmarks.soak import peak_mib
from edgeseg.benchmarks.timing import Call, Steps, soak_steadily, time_steadily
from edgeseg.bundle import Bundle, InputSpec, Manifest, read_bundle, read_manifest
from edgeseg.disk import write_json
from edgeseg.errors import DataError, EdgesegError, EngineError
from edgeseg.frame import place, prepare
from edgeseg.labels import IGNORE
from edgeseg.runtime.crf_segmenter import CrfSegmenter, with_crf
from edgeseg.runtime.engine import EngineOptions, open_engine
from edgeseg.runtime.gpu import used_mib
from edgeseg.runtime.obstacles import ON_GPU
from edgeseg.runtime.refiner import EngineRefiner, load_refiner
from edgeseg.runtime.segmenter import Segmenter, load
from edgeseg.runtime.sensors import Sensors

if TYPE_CHECKING:
    from edgeseg.dataset import Dataset, Sample

TIMING_FRAMES = 8


def write_timing_frames(
    path: Path, dataset: Dataset, spec: InputSpec, count: int = TIMING_FRAMES
) -> None:
    """Write `count` frames spread over the set, fitted as `spec` says and in its channel order.

    A refiner's have the mask of their largest class behind the colours.
    """
    if not len(dataset):
        raise DataError(f"{dataset.source} has no frames in split '{dataset.split}'")
    images = []
    for sample in dataset.spread(count):
        shape = (sample.image.shape[0], sample.image.shape[1])
        placement = place(shape, spec.size or shape, spec.fit)
        swap = spec.order != "rgb"
        image = _with_mask(sample) if spec.mask else sample.image
        images.append(prepare(image, placement, swap=swap, fill=spec.fill))
    sizes = {i.shape for i in images}
    if len(sizes) > 1:
        raise DataError(
            f"{dataset.source}: frames differ in size and the network has no fixed one; "
            "export with --size"
        )
    np.save(path, np.stack(images))


def _with_mask(sample: Sample) -> np.ndarray:
    """(H, W, 4): the image, and 255 where the class is that has the most pixels."""
    counts = np.bincount(sample.labels[sample.labels != IGNORE], minlength=1)
    inside = (sample.labels == counts.argmax()) * np.uint8(255)
    return np.concatenate([sample.image, inside[..., None]], 2)


def measure_in_process(job: Job) -> dict[str, Any]:
    """The row of `job`, measured in a new Python process; its errors are raised here."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-measure-") as scratch:
        answer = Path(scratch) / "row.json"
        command = [sys.executable, "-m", "edgeseg.benchmarks.measure", *to_arguments(job, answer)]
        environment = {**os.environ, **_thread_limits(job.threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if answer.exists():
            content = json.loads(answer.read_text(encoding="utf-8"))
            if "error" not in content:
                row: dict[str, Any] = content
                return row
            raise _as_error(content["error"])
    if done.returncode < 0:
        raise EngineError(
            f"{job.folder}: the process that measured it was killed by signal {-done.returncode}"
            + (" (out of memory?)" if done.returncode == -9 else "; the engine crashed")
        )
    raise RuntimeError(f"measuring {job.folder} ended with {done.returncode}:\n{done.stderr}")


def _thread_limits(threads: int | None) -> dict[str, str]:
    """The environment that holds numpy's own threads to the engine's number."""
    if threads is None:
        return {}
    return {key: str(threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def _as_error(entry: dict[str, str]) -> EdgesegError:
    known = getattr(errors, entry["class"], EngineError)
    error: EdgesegError = known(entry["message"])
    return error


def measure(job: Job, root: Path = Path("/")) -> dict[str, Any]:
    """The row of `job`, measured in this process (which should have done nothing before).

    `root` is where proc, sys and etc lie: the machine, its sensors.
    """
    about = machine(root)
    manifest = read_manifest(job.folder)
    frames = _read_frames(job.frames, manifest.input.channels)
    batch = manifest.input.batch
    _check_batch(job, batch)
    begin = perf_counter()
    opened = _open(job, manifest)
    load_ms = (perf_counter() - begin) * 1e3
    with opened:
        sensors = Sensors(root)
        call = _one(opened, frames) if batch == 1 else _many(opened, frames, batch)
        others = Watch()
        timed = time_steadily(call, job, sensors, batch)
        others.stop()
        stages = {**timed.stages, **_crf_stage(opened, len(timed.latency.samples))}
        peak = peak_mib()
        soaked = _soak(call, job, sensors, manifest) if job.soak else None
        return {
            **_network(opened.bundle, manifest, (frames.shape[1], frames.shape[2])),
            **_engine(opened),
            "load_ms": round(load_ms, 3),
            "latency_ms": timed.latency.to_dict(),
            "stages_ms": stages,
            "throughput_fps": round(timed.latency.throughput, 3),
            "peak_rss_mib": peak,
            **_accuracy(job, opened, manifest),
            "timing": {
                "frames": len(frames),
                "warm_up_calls": job.rule.warm_up_calls,
                "warm_up_seconds": job.rule.warm_up_seconds,
                "others_cores": others.cores,
                "throttled": timed.throttled,
            },
            "machine": about,
            "power": timed.power,
            "conditions": timed.conditions,
            "pace": timed.pace,
            "soak": soaked,
        }


def _check_batch(job: Job, batch: int) -> None:
    """UsageError for what can't be asked of a folder that takes several frames a call."""
    if batch == 1:
        return
    if job.pace is not None:
        raise errors.UsageError(
            f"{job.folder} takes {batch} frames a call; --fps is for one camera, whose frames come "
            "one by one: export with --batch 1"
        )
    if job.crf is not None:
        raise errors.UsageError(
            f"{job.folder} takes {batch} frames a call; --crf is for one: export with --batch 1"
        )


def _crf_stage(segmenter: Segmenter | EngineRefiner, calls: int) -> dict[str, Any]:
    """Of `stages_ms`: the dense CRF alone, a part of `decode`, in the last `calls` calls."""
    if not isinstance(segmenter, CrfSegmenter):
        return {}
    return {"crf": summary_of(list(segmenter.crf_ms)[-calls:])}


class Watch:
    """How many cores other programs kept busy between its making and `stop`."""

    cores: float | None = None

    def __init__(self) -> None:
        self._begin = perf_counter(), busy_seconds(), process_time()

    def stop(self) -> None:
        """Set `cores`; None where the system does not tell or less than a second went by."""
        begin, busy, own = self._begin
        now, elapsed = busy_seconds(), perf_counter() - begin
        if busy is not None and now is not None and elapsed >= 1:
            self.cores = round(max(0.0, now - busy - (process_time() - own)) / elapsed, 2)


def _open(job: Job, manifest: Manifest) -> Segmenter | EngineRefiner:
    """The folder as `edgeseg.load` opens it, for frames in the network's own channel order."""
    order = manifest.input.order
    if manifest.input.mask:
        if job.crf is not None:
            raise errors.UsageError(
                f"{job.folder} refines masks, and --crf is behind what labels frames; leave it away"
            )
        return load_refiner(
            job.folder, frames=order, threads=job.threads,
            inference_precision=job.inference_precision, allow_ungated=job.allow_ungated,
        )  # fmt: skip
    if manifest.input.batch == 1:
        segmenter = load(
            job.folder, frames=order, threads=job.threads,
            inference_precision=job.inference_precision, allow_ungated=job.allow_ungated,
        )  # fmt: skip
        return segmenter if job.crf is None else with_crf(segmenter, job.crf)
    if manifest.target is None:
        raise errors.BundleError(f"{job.folder} has no engine; build one with 'edgeseg export'")
    bundle = read_bundle(job.folder)
    options = EngineOptions(job.threads, job.inference_precision)
    engine = open_engine(manifest.target.name, bundle, options)
    single = replace(manifest, input=replace(manifest.input, batch=1))
    return Segmenter(engine, Bundle(job.folder, single), frames=order)


def _one(opened: Segmenter | EngineRefiner, frames: np.ndarray) -> Call:
    """Whole calls, frame -> labels or frame and mask -> mask, cycling through the frames."""

    def call(index: int) -> Steps:
        frame = frames[index % len(frames)]
        if isinstance(opened, EngineRefiner):
            took = opened.timed(frame[..., :3], frame[..., 3] > 0)[1]
        else:
            took = opened.timed(frame, at="network")[1]
        return took.prepare, took.engine, took.decode

    return call


def _many(opened: Segmenter | EngineRefiner, frames: np.ndarray, batch: int) -> Call:
    """Whole batches, (batch, h, w, 3) -> labels; there is no `prepare`."""
    assert isinstance(opened, Segmenter)  # a refiner takes one mask a call
    batches = [
        np.ascontiguousarray(frames[[(i + j) % len(frames) for j in range(batch)]])
        for i in range(0, max(len(frames), batch), batch)
    ]

    def call(index: int) -> Steps:
        start = perf_counter()
        result = opened.engine.infer(batches[index % len(batches)])
        inferred = perf_counter()
        opened.decode(result)
        return None, (inferred - start) * 1e3, (perf_counter() - inferred) * 1e3

    return call


def _soak(call: Call, job: Job, sensors: Sensors, manifest: Manifest) -> dict[str, Any]:
    """The long run behind the timed calls."""
    assert job.soak is not None
    target = manifest.target.name if manifest.target else ""
    device = used_mib if target in ON_GPU else lambda: None
    others = Watch()
    found = soak_steadily(call, job.soak, job.pace, sensors, device)
    others.stop()
    return {**found, "others_cores": others.cores}


def _network(bundle: Bundle, manifest: Manifest, size: tuple[int, int]) -> dict[str, Any]:
    """What the manifest says about the network."""
    names = [n for n in manifest.files if not n.startswith("gate/")]
    bytes_ = sum((bundle.folder / n).stat().st_size for n in names)
    return {
        "model": manifest.name,
        "precision": manifest.precision,
        "size": list(size),
        "batch": manifest.input.batch,
        "params": manifest.params,
        "macs": manifest.macs,
        "uncounted": manifest.uncounted,
        "file_mib": round(bytes_ / 2**20, 3),
        "gate": manifest.gate.state if manifest.gate else "not run",
        "quantisation": manifest.quantisation.method if manifest.quantisation else None,
    }


def _engine(opened: Segmenter | EngineRefiner) -> dict[str, Any]:
    target, engine = opened.bundle.manifest.target, opened.engine
    name = target.name if target else "none"
    return {
        "target": name,
        "inference_precision": engine.inference_precision,
        "threads": engine.threads,
        "prepare": opened.prepare_name,
        "decode": opened.decode_name,
        "crf": opened.described() if isinstance(opened, CrfSegmenter) else None,
        "engine": {"name": name, "version": engine.version, "device": engine.device},
    }


def _accuracy(job: Job, opened: Segmenter | EngineRefiner, manifest: Manifest) -> dict[str, Any]:
    """Scores of the engine already open; nulls without data, for batches and for refiners."""
    keys = (
        "miou", "per_class", "pixel_accuracy", "frame_miou", "rule", "fit", "data",
        "seen_in_training",
    )  # fmt: skip
    if job.data is None or manifest.input.batch != 1 or isinstance(opened, EngineRefiner):
        return dict.fromkeys(keys)
    from edgeseg.benchmarks.accuracy import evaluate
    from edgeseg.dataset import open_dataset

    dataset = open_dataset(job.data, job.split)
    if job.limit is not None:
        dataset = dataset.spread(job.limit)
    judged = Segmenter(opened.engine, opened.bundle, frames="rgb")
    found = evaluate(judged if job.crf is None else with_crf(judged, job.crf), dataset)
    kind = job.data.partition(":")[0]
    return {
        "miou": found.miou,
        "per_class": found.per_class,
        "pixel_accuracy": found.pixel_accuracy,
        "frame_miou": {name: round(value, 3) for name, value in found.frame_miou.items()},
        "rule": found.rule,
        "fit": found.fit,
        "data": {"kind": kind, "split": job.split, "frames": found.frames},
        "seen_in_training": seen_in_training(manifest.weights.data, kind, job.split),
    }


def seen_in_training(trained_on: str, kind: str, split: str) -> bool | None:
    """Whether weights trained on `trained_on` saw these frames; None where that is not known.

    `trained_on` is the manifest's `weights.data`: "KIND SPLIT", several joined by "+"; words
    behind are remarks. Anything else is not known. The tune split is a part of train.
    """
    from edgeseg.dataset import DATASETS, SPLITS

    plain = trained_on.lower().translate(str.maketrans(":()", "   "))
    parts = [part.split() for part in plain.split("+")]
    whole = {"tune": "train"}.get(split, split)
    if any(part[:1] == [kind] and part[1:2] in ([split], [whole]) for part in parts):
        return True
    clear = all(len(p) > 1 and p[0] in DATASETS and p[1] in SPLITS for p in parts)
    return False if clear else None


def _read_frames(path: Path, channels: int) -> np.ndarray:
    try:
        frames: np.ndarray = np.load(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no .npy file of frames ({error})") from error
    fits = frames.ndim == 4 and frames.shape[-1] == channels and len(frames)
    if not fits or frames.dtype != np.uint8:
        raise DataError(
            f"{path}: holds {frames.dtype} of shape {frames.shape}; "
            f"expected uint8 (N, H, W, {channels})"
        )
    return frames


def main(words: list[str]) -> int:
    """Write the row, or `{"error": {"class", "message"}}`; returns the exit code."""
    return errors.exit_code(lambda: _answer(*parse_arguments(words)))


def _answer(job: Job, path: Path) -> None:
    try:
        row = measure(job)
    except EdgesegError as error:
        write_json(path, {"error": {"class": type(error).__name__, "message": str(error)}})
        raise
    write_json(path, row)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
