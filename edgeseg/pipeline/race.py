"""`edgeseg race`: from the same camera frames to labels, ours beside others, in one run."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.camera_frames import Camera
from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.peaks import measure_peaks
from edgeseg.benchmarks.race import Contestant, Others, Worker, results, run_race
from edgeseg.benchmarks.race_page import page
from edgeseg.benchmarks.roofline import roofline
from edgeseg.bundle import read_bundle
from edgeseg.dataset import open_dataset
from edgeseg.disk import write_json, write_text
from edgeseg.errors import EngineError, UsageError, guess
from edgeseg.pipeline.environments import Environment, install, interpreter
from edgeseg.pipeline.model import find_labeller
from edgeseg.pipeline.plan import Say, Source
from edgeseg.pipeline.race_networks import OURS, Networks, build, make_networks, seen
from edgeseg.runtime.engine_openvino import half_precision, shared_core

ROUNDS, CALLS = 15, 8
PAGE, RESULT = "race.md", "race.json"
INPUTS = ("frames", "planes")
OPENCV = "usual script opencv"
"""Takes part with a camera, where OpenCV is installed."""
OTHERS = (
    "usual script", "openvino f32", "openvino bf16", "openvino f16", "torch eager", "torch.compile",
)  # fmt: skip
"""Contestants that are not ours and need no --rivals, on any machine."""


@dataclass(frozen=True)
class Rival:
    """A network that a script of another environment writes as `out`; OpenVINO runs it.

    The script takes `--network`, `--frames`, `--gate` and `--out`, as in the INT8 comparison.
    `input` is what the network takes: "frames" (uint8, in our network's order) or "planes" (RGB
    over 255). `own` networks have other classes: their labels are not compared.
    """

    title: str
    environment: str
    script: str
    precision: str
    out: str = "network.xml"
    input: str = "frames"
    own: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, known in (("input", INPUTS), ("precision", ("f32", "bf16", "int8"))):
            if getattr(self, key) not in known:
                raise ValueError(
                    f"{key} is '{getattr(self, key)}'.{guess(getattr(self, key), known)}"
                )


@dataclass(frozen=True)
class Rivals:
    """The file of `edgeseg race --rivals`: environments lie under `folder`."""

    folder: str
    rivals: dict[str, Rival]
    environments: dict[str, Environment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rival in self.rivals.items():
            if rival.environment not in self.environments:
                raise ValueError(
                    f"[rivals.{name}]: no environment '{rival.environment}'."
                    f"{guess(rival.environment, self.environments)}"
                )


@dataclass(frozen=True)
class Race:
    """What was asked for. `only` holds names of contestants, empty: all.

    With a `camera` all start from its frames, which the network's size and colours do not fit.
    """

    source: Source
    data: str
    threads: int
    split: str = "val"
    rounds: int = ROUNDS
    calls: int = CALLS
    only: tuple[str, ...] = ()
    rivals: Rivals | None = None
    command: str = ""
    camera: Camera | None = None

    def __post_init__(self) -> None:
        if self.camera is not None and self.rivals is not None:
            raise UsageError(
                "--camera is for the built-in contestants, which prepare its frames each in its "
                "way; leave --rivals away"
            )


def prepare(rivals: Rivals, say: Say) -> None:
    """Make the rivals' environments that are not there."""
    install(Path(rivals.folder), rivals.environments, say)


def race(plan: Race, out: Path, say: Say) -> dict[str, Any]:
    """Build what takes part under `out`, run it, write `race.json` and `race.md` there."""
    find_labeller(plan.source.model)
    check_names(plan)
    networks = make_networks(plan.source, plan.data, plan.split, out, say, plan.camera)
    failed: dict[str, str] = {}
    entrants = [*built_in(networks, plan.threads), *_rivals(networks, plan)]
    chosen = choose(entrants, plan.only)
    paths = {c.entry["path"] for c in chosen}
    pairs = [pair for pair in OURS if str(networks.folder(*pair)) in paths]
    build(networks, pairs, say)
    chosen = _written(chosen, plan.rivals, networks, failed, say)
    with contextlib.ExitStack() as stack:
        workers = _start(chosen, plan.threads, stack, failed, say)
        say(f"{len(workers)} contestants, {plan.rounds} rounds of {plan.calls} calls")
        labels = {w.name: w.labels() for w in workers if not w.name.startswith("engine alone")}
        others = Others(workers)
        times = run_race(workers, rounds=plan.rounds, calls=plan.calls)
        others_cores = others.cores()
        versions = {w.name: w.version for w in workers}
    own = {c.name for c in entrants if c.entry.get("own")}
    labels = {name: found for name, found in labels.items() if name not in own}
    dataset, output = open_dataset(plan.data, plan.split), networks.network.manifest.output
    inside = seen(dataset, networks.spec, output.scale, plan.camera)
    content = {
        "command": plan.command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        **_about(networks, plan),
        "others_cores": others_cores,
        "contestants": results(chosen, versions, times, labels, inside, "edgeseg fp32"),
        "failed": [{"name": name, "error": why} for name, why in failed.items()],
        "roofline": _roofline([networks.folder(*p) for p in pairs], networks, plan, say),
    }
    write_json(out / RESULT, content)
    write_text(out / PAGE, page(content))
    return content


def _about(networks: Networks, plan: Race) -> dict[str, Any]:
    manifest = read_bundle(networks.float_folder).manifest
    frames = np.load(networks.frames, mmap_mode="r")
    return {
        "model": manifest.name,
        "size": list(frames.shape[1:3]),
        "macs": manifest.macs,
        "decode": "native" if networks.scores else "in the graph",
        "data": {"kind": plan.data.partition(":")[0], "split": plan.split, "frames": len(frames)},
        "camera": None if plan.camera is None else asdict(plan.camera),
        "threads": plan.threads,
        "rounds": plan.rounds,
        "calls": plan.calls,
    }


def check_names(plan: Race) -> None:
    """UsageError for an `only` that no race knows, before anything is built."""
    ours = [_name(*pair) for pair in OURS]
    known = [*ours, *map(_alone, ours), *OTHERS]
    known += [OPENCV] if plan.camera else []
    known += plan.rivals.rivals if plan.rivals else ()
    for name in plan.only:
        if name not in known:
            raise UsageError(f"--only '{name}': no such contestant.{guess(name, known)}")


def choose(entrants: Sequence[Contestant], only: Sequence[str]) -> list[Contestant]:
    """Those that `only` names, and whom they are measured against; UsageError for an unknown."""
    known = {c.name: c for c in entrants}
    for name in only:
        if name not in known:
            raise UsageError(f"--only '{name}': no such contestant.{guess(name, known)}")
    asked = set(only or known)
    asked |= {known[name].against for name in asked}
    return [c for c in entrants if c.name in asked]


def _name(target: str, precision: str) -> str:
    return f"edgeseg {precision}" if target == "openvino" else f"edgeseg {target} {precision}"


def _alone(name: str) -> str:
    return f"engine alone {name.removeprefix('edgeseg ')}"


def built_in(networks: Networks, threads: int) -> list[Contestant]:
    """All that need no environment of their own. The first is whom nearly all are measured with."""
    spec = networks.spec
    common = {"threads": threads, "frames": str(networks.taken), **_camera(networks)}
    normal = {"mean": list(spec.mean), "std": list(spec.std), "order": spec.order}
    found = []
    names = {}
    for target, precision in OURS:
        name = names[target, precision] = _name(target, precision)
        entry = {"kind": "edgeseg", "path": str(networks.folder(target, precision)), **common}
        found.append(Contestant(name, f"edgeseg, {target}", precision, entry, name))
        alone = {**entry, "kind": "engine alone", "frames": str(networks.frames)}
        title = f"{target} alone: our folder's engine, without preparation and decode"
        found.append(Contestant(_alone(name), title, precision, alone, name))
    usual = {"kind": "usual script", "path": str(networks.planes), **normal, **common}
    best = {"kind": "openvino", "path": str(networks.called), **normal, **common}
    title = "usual script: numpy, ONNX Runtime, numpy's argmax"
    found.append(Contestant("usual script", title, "fp32", usual, names["onnxruntime", "fp32"]))
    if networks.camera is not None:
        title = "the same, frames prepared by OpenCV (the other by numpy and Pillow)"
        entry = {**usual, "opencv": True}
        found.append(Contestant(OPENCV, title, "fp32", entry, names["onnxruntime", "fp32"]))
    title = "OpenVINO's practice: PrePostProcessor, argmax in the graph"
    half = half_precision(shared_core())
    pairs = [("f32", "fp32"), *([(half, "fp16")] if half else [])]
    for hint, ours in pairs:
        entry = {**best, "precision": hint}
        found.append(Contestant(f"openvino {hint}", title, hint, entry, names["openvino", ours]))
    if networks.torch is not None:
        torch = {"path": str(networks.torch), **common}
        for kind, word in (("edgeseg", "torch eager"), ("torch.compile", "torch.compile")):
            entry = {**torch, "kind": kind}
            found.append(Contestant(word, word, "fp32", entry, names["openvino", "fp32"]))
    return found


def _camera(networks: Networks) -> dict[str, Any]:
    """Of entries: the frames' format, and where they go in the network's input."""
    camera, spec = networks.camera, networks.spec
    if camera is None:
        return {"format": "bgr"}
    assert spec.size is not None
    return {
        "format": camera.format,
        "place": [list(camera.size), list(spec.size), spec.fit],
        "fill": list(spec.fill),
    }


def _rivals(networks: Networks, plan: Race) -> list[Contestant]:
    """Networks that rivals' scripts are to write."""
    found: list[Contestant] = []
    if plan.rivals is None:
        return found
    common = {
        "kind": "openvino", "threads": plan.threads, "frames": str(networks.frames),
        **_camera(networks),
    }  # fmt: skip
    inputs: dict[str, dict[str, Any]] = {
        "frames": {"order": networks.spec.order},
        "planes": {"order": "rgb", "mean": [0.0] * 3, "std": [255.0] * 3},
    }
    half = half_precision(shared_core()) or "f32"
    hints = {"f32": "f32", "bf16": half, "int8": half}
    against = {"f32": "edgeseg fp32", "bf16": "edgeseg fp16", "int8": "edgeseg int8"}
    for name, rival in plan.rivals.rivals.items():
        path = networks.out / "rivals" / name / rival.out
        entry = {
            **common, **inputs[rival.input], "path": str(path), "own": rival.own,
            "precision": hints[rival.precision],
        }  # fmt: skip
        title, precision = rival.title, rival.precision
        found.append(Contestant(name, title, precision, entry, against[precision]))
    return found


def _written(
    chosen: Sequence[Contestant],
    rivals: Rivals | None,
    networks: Networks,
    failed: dict[str, str],
    say: Say,
) -> list[Contestant]:
    """Run the scripts of the rivals among them; one whose script fails is named in `failed`."""
    found = []
    for contestant in chosen:
        why = ""
        if rivals is not None and contestant.name in rivals.rivals:
            why = _write(rivals.rivals[contestant.name], rivals, networks, contestant, say)
        if why:
            failed[contestant.name] = why
        else:
            found.append(contestant)
    return found


def _write(
    rival: Rival, rivals: Rivals, networks: Networks, contestant: Contestant, say: Say
) -> str:
    """What the rival's script said last when it failed, else ""; a file that is there stays."""
    path = Path(contestant.entry["path"])
    if path.exists():
        return ""
    python = interpreter(Path(rivals.folder), rival.environment)
    if not python.exists():
        return f"no environment '{rival.environment}'; 'edgeseg race --prepare' makes it"
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"{contestant.name}: writing its network")
    folder = networks.float_folder
    words = [str(python), rival.script, "--network", str(folder / "network.onnx")]
    words += ["--frames", str(networks.calibration_frames())]
    words += ["--gate", str(folder / "gate" / "frames.npz"), "--out", str(path)]
    for option, value in rival.options.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not path.exists():
        return (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
    return ""


def _start(
    contestants: Sequence[Contestant],
    threads: int,
    stack: contextlib.ExitStack,
    failed: dict[str, str],
    say: Say,
) -> list[Worker]:
    workers = []
    for contestant in contestants:
        try:
            workers.append(stack.enter_context(Worker(contestant, threads)))
        except EngineError as error:
            failed[contestant.name] = str(error)
            say(f"failed: {error}")
    if not workers:
        raise EngineError(f"nobody can take part: {next(iter(failed.values()))}")
    return workers


def _roofline(folders: Sequence[Path], networks: Networks, plan: Race, say: Say) -> dict[str, Any]:
    say("measuring this machine's peaks")
    graph = networks.float_folder / "network.onnx"
    found = [f for f in folders if f.name.startswith("openvino")]
    return roofline(found, graph, measure_peaks(plan.threads), plan.threads)
