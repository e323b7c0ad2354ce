"""The float model and its frames, made once; each method's INT8 network, made and judged."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.benchmarks.measure import write_timing_frames
from edgeseg.bundle import read_bundle, sha256, write_bundle
from edgeseg.calibration.ranges import network_sha256
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import writing_file, writing_folder
from edgeseg.errors import EdgesegError, EngineError
from edgeseg.frame import enlarged, place, prepare_labels
from edgeseg.graph import convolutions, read_graph
from edgeseg.pipeline.export import build_folder
from edgeseg.pipeline.floats import FloatNetwork, make_float, name, prepared, split_frames
from edgeseg.pipeline.int8_comparison_ours import LABELS, take_finished
from edgeseg.pipeline.int8_comparison_process import Ran, run_watched
from edgeseg.pipeline.int8_comparison_score import (
    Answers,
    Row,
    answer,
    float_scores,
    int8_scores,
    parity,
)
from edgeseg.pipeline.int8_comparison_suite import Method, Model, Suite
from edgeseg.pipeline.int8_comparison_timing import time_in_process
from edgeseg.pipeline.plan import Say, Source

FLOAT, FRAMES, TIMED, LOG = "float", "calibration.npy", "timed.npy", "log.txt"
OURS = "edgeseg.pipeline.int8_comparison_ours"


@dataclass(frozen=True)
class Stage:
    """One float model, ready: its folders and frames lie in `folder`, `floats` is what it says."""

    key: str
    folder: Path
    network: FloatNetwork
    dataset: Dataset
    floats: dict[str, Answers]
    about: Row

    def float_folder(self, engine: str) -> Path:
        """The float network, built for an engine."""
        return self.folder / FLOAT / engine


def make_stage(key: str, model: Model, suite: Suite, limit: int | None, say: Say) -> Stage:
    """Export the float model, build it for every engine, write the frames, score it."""
    calibration, gate = split_frames(model.data, suite.calibration_frames)
    dataset = open_dataset(model.data, model.split)
    if limit:
        calibration, dataset = calibration.spread(limit), dataset.spread(limit)
    network = make_float(Source(model.model, model.size), gate, say)
    stage = Stage(key, Path(suite.folder) / key, network, dataset, {}, {})
    for engine in suite.engines:
        with writing_folder(stage.float_folder(engine)) as aside:
            build_folder(network.graph, network.manifest, engine, network, aside)
    _write_frames(stage, calibration)
    about: Row = {
        "model": network.manifest.name,
        "size": list(model.size),
        "data": f"{model.data.partition(':')[0]} {model.split}",
        "frames": len(dataset),
        "calibration": {"frames": len(calibration), "data": name(calibration)},
        "params": network.manifest.params,
        "macs": network.manifest.macs,
        "convolutions": len(convolutions(network.single)),
        "network_sha256": network_sha256(network.single),
        "frames_sha256": sha256(stage.folder / FRAMES),
        "file_mib": _mib(stage.float_folder(suite.engines[0]) / "network.onnx"),
        "engines": {},
    }
    for engine in suite.engines:
        stage.floats[engine] = answer(stage.float_folder(engine), dataset)
        about["engines"][engine] = float_scores(stage.floats[engine], dataset.classes.names)
        say(f"{key}: float mIoU {about['engines'][engine]['miou']:.2f} by {engine}")
    return dataclasses.replace(stage, about=about)


def _write_frames(stage: Stage, calibration: Dataset) -> None:
    """Calibration frames and their labels as the network takes them; a few to time with."""
    manifest = stage.network.manifest
    images, labels = [], []
    for sample in calibration:
        images.append(prepared(sample.image, manifest.input))
        placement = place(sample.labels.shape, images[-1].shape[:2], manifest.input.fit)
        labels.append(prepare_labels(sample.labels, enlarged(placement, manifest.output.scale)))
    for file, arrays in ((FRAMES, images), (LABELS, labels)):
        with writing_file(stage.folder / file) as aside, aside.open("wb") as opened:
            np.save(opened, np.stack(arrays))
    write_timing_frames(stage.folder / TIMED, stage.dataset, manifest.input)


def run_method(stage: Stage, suite: Suite, key: str, *, latency: bool, say: Say) -> Row:
    """One row: the INT8 network of one method, and what every engine makes of it."""
    method = suite.methods[key]
    work = stage.folder / key
    work.mkdir(parents=True, exist_ok=True)
    say(f"{stage.key}: {key}")
    result = work / method.out
    if method.kind == "folder":
        ran = _take(stage, Path(method.folder.format(model=stage.key)), result)
    else:
        ran = _calibrate(stage, suite, method, result)
    row: Row = {
        "model": stage.key,
        "method": key,
        "title": method.title,
        "kind": method.kind,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **dataclasses.asdict(ran),
        "versions": {},
        "engines": {},
    }
    if row["state"] == "done":
        row |= _judge(stage, suite, result, work, latency=latency)
    say(describe(row))
    return row


def _take(stage: Stage, folder: Path, result: Path) -> Ran:
    """The INT8 network of a finished folder; its time and memory are not known here."""
    try:
        take_finished(folder, stage.network, result)
    except EdgesegError as error:
        return Ran("failed", str(error))
    return Ran("done", "")


def _calibrate(stage: Stage, suite: Suite, method: Method, result: Path) -> Ran:
    """Run the method's program under watch."""
    python = suite.python(method.environment)
    if not python.exists():
        return Ran("failed", f"no environment '{method.environment}'; --prepare makes it")
    network = stage.float_folder("onnxruntime")
    words = [str(python), *(("-m", OURS) if method.kind == "edgeseg" else (method.script,))]
    words += ["--network", str(network / "network.onnx"), "--frames", str(stage.folder / FRAMES)]
    words += ["--gate", str(network / "gate" / "frames.npz"), "--out", str(result)]
    for option, value in method.options.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    result.unlink(missing_ok=True)
    ran = run_watched(
        words, result.with_name(LOG), cap_mib=suite.memory_cap_mib,
        limit_seconds=suite.limit_seconds,
    )  # fmt: skip
    if ran.state == "done" and not result.is_file():
        return dataclasses.replace(ran, state="failed", reason=f"it wrote no {result.name}")
    return ran


def _judge(stage: Stage, suite: Suite, result: Path, work: Path, *, latency: bool) -> Row:
    """File, versions, and for each engine scores and latency, or why there are none."""
    facts = result.with_suffix(".json")
    found: Row = {"file_mib": _mib(result), "engines": {}}
    if facts.is_file():
        found["versions"] = json.loads(facts.read_text(encoding="utf-8"))["versions"]
    if result.suffix == ".onnx":
        found["int8_convolutions"] = int8_convolutions(read_graph(result))
    answers: dict[str, Answers] = {}
    for engine in suite.engines:
        try:
            folder = build_int8(stage, result, engine, work / engine)
            answers[engine] = answer(folder, stage.dataset)
            names = stage.dataset.classes.names
            scores = int8_scores(answers[engine], stage.floats[engine], names)
            times = time_engine(stage.folder, work, engine) if latency else None
            found["engines"][engine] = {**scores, "latency": times}
        except EdgesegError as error:
            found["engines"][engine] = {"failed": str(error)}
    if len(answers) > 1:
        first, second, *_ = answers.values()
        found["parity"] = parity(first, second)
    return found


def time_engine(folder: Path, work: Path, engine: str) -> Row:
    """INT8 against float, both built already: `folder` is the model's, `work` the method's."""
    return time_in_process(folder / FLOAT / engine, work / engine, folder / TIMED)


def build_int8(stage: Stage, result: Path, engine: str, out: Path) -> Path:
    """An INT8 network (.onnx for any engine, .xml for OpenVINO) as an engine folder at `out`."""
    if result.suffix == ".xml" and engine != "openvino":
        raise EngineError("the method gives OpenVINO's form of the network only")
    manifest = dataclasses.replace(stage.network.manifest, precision="int8")
    with writing_folder(out) as aside:
        if result.suffix == ".xml":
            floats = read_bundle(stage.float_folder(engine))
            shutil.copytree(floats.folder, aside, dirs_exist_ok=True)
            for suffix in (".xml", ".bin"):
                shutil.copyfile(result.with_suffix(suffix), aside / f"network{suffix}")
            write_bundle(aside, dataclasses.replace(floats.manifest, precision="int8"))
        else:
            build_folder(read_graph(result), manifest, engine, stage.network, aside)
    return out


def int8_convolutions(model: onnx.ModelProto) -> int:
    """Convolutions whose input and weights both come out of a DequantizeLinear."""
    made = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    kinds = ("Conv", "ConvTranspose")
    nodes = [n for n in model.graph.node if n.op_type in kinds]
    return sum(n.input[0] in made and n.input[1] in made for n in nodes)


def _mib(path: Path) -> float:
    """Size of a network's file, with the weights beside an .xml."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return round(sum(f.stat().st_size for f in files) / 2**20, 3)


def describe(row: dict[str, Any]) -> str:
    """One line for people."""
    if row["state"] != "done":
        return f"{row['model']}: {row['method']}: {row['state']}: {row['reason']}"
    parts = []
    for engine, found in row["engines"].items():
        if "failed" in found:
            parts.append(f"{engine}: {found['failed']}")
            continue
        parts.append(f"{engine} mIoU {found['miou']:.2f} ({found['drop']['value']:+.2f})")
    return f"{row['model']}: {row['method']}: {'; '.join(parts)}"
