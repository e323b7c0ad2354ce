"""The engine and the kernels on a real GPU: `make gpu-check`. On doubles in tests/unit, too."""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gpu_graphs import CHANNELS, FOLDER, SIZE, labels_of, scores_of

import edgeseg
from edgeseg.bundle import (
    WEIGHTED,
    Bundle,
    Gate,
    InputSpec,
    Manifest,
    OutputSpec,
    Target,
    write_bundle,
)
from edgeseg.disk import writing_folder
from edgeseg.export.gate import GateFrames, write_frames
from edgeseg.labels import ClassTable
from edgeseg.pipeline.build import build
from edgeseg.pipeline.plan import Building
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.gpu import used_mib
from edgeseg.runtime.segmenter import ON_DEVICE

pytestmark = pytest.mark.gpu

FRAME = (122, 202)
DOUBLES = os.environ.get("EDGESEG_GPU_DOUBLES") == "1"
WEIGHT = np.random.default_rng(1).normal(size=(CHANNELS, 5, 2, 2)).astype(np.float32)
BIAS = np.linspace(-1, 1, 5, dtype=np.float32)
OUTPUTS = {
    "labels": OutputSpec(),
    "bilinear": OutputSpec("scores", 2, "bilinear", 2),
    "bilinear_corners": OutputSpec("scores", 2, "bilinear_corners", 2),
    "deconvolution": OutputSpec("scores", 2, "deconvolution", 2),
    "dupsample": OutputSpec("scores", 2, "dupsample", 2),
    "pixel_shuffle": OutputSpec("scores", 2, "pixel_shuffle", 2),
}


def decoder(output: OutputSpec) -> Decoder:
    weighted = output.decode in WEIGHTED
    return Decoder(output, *((WEIGHT, BIAS) if weighted else (None, None)))


def says(output: OutputSpec, images: np.ndarray) -> np.ndarray:
    """Labels at the network's size."""
    return labels_of(images) if output.kind == "labels" else decoder(output)(scores_of(images))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="session")
def folders(target, tmp_path_factory):
    """A function: kind of output, fit -> a folder that `edgeseg build` made and gated here."""
    made: dict[tuple[str, str], Bundle] = {}

    def make(kind: str, fit: str = "pad") -> Bundle:
        if (kind, fit) in made:
            return made[kind, fit]
        output, graph = OUTPUTS[kind], "labels" if kind == "labels" else "scores"
        folder = tmp_path_factory.mktemp("folders") / kind
        images = noise(20, *SIZE, 3, seed=9)
        names = tuple(f"class {i}" for i in range(CHANNELS))
        table = ClassTable("gpu", names, tuple((20 * i, 0, 0) for i in range(CHANNELS)))
        spec = InputSpec("rgb", (0.0,) * 3, (1.0,) * 3, fit=fit, fill=(9, 8, 7), size=SIZE)
        manifest = Manifest(
            "network", "gpu", table.to_dict(), spec, output=output, gate=Gate("passed"),
            target=Target("onnxruntime", "1", "CPU"), network_file="network.onnx",
        )  # fmt: skip
        with writing_folder(folder) as aside:
            (aside / "network.onnx").write_bytes((FOLDER / f"{graph}.onnx").read_bytes())
            if kind in WEIGHTED:
                np.savez(aside / "decode.npz", weight=WEIGHT, bias=BIAS)
            write_frames(aside, GateFrames(images, says(output, images), None, "noise"))
            write_bundle(aside, manifest)
        out = folder.with_name(f"{kind}-{fit}")
        made[kind, fit] = build(folder, Building(target), out, print)
        return made[kind, fit]

    return make


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_folder_is_built_gated_and_has_its_kernels(folders, kind):
    manifest = folders(kind).manifest
    assert manifest.gate.state == "passed"
    assert manifest.gate.agreement == 100.0
    assert manifest.target.build.kernels.why == ""
    assert manifest.target.build.kernels.file in manifest.files


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_labels_and_confidence_are_the_cpus(folders, monkeypatch, kind, fit):
    bundle = folders(kind, fit)
    with edgeseg.load(bundle.folder, frames="bgr") as on_gpu, monkeypatch.context() as asked:
        asked.setenv("EDGESEG_DECODE", "numpy")
        with edgeseg.load(bundle.folder, frames="bgr") as on_cpu:
            assert on_gpu.prepare_name == ON_DEVICE
            for seed in range(3):
                image = noise(*FRAME, 3, seed=seed)
                made, right = on_gpu.segment(image), on_cpu.segment(image)
                exact = kind not in WEIGHTED  # numpy's sums are in another order
                assert np.array_equal(made, right) if exact else (made == right).mean() > 0.9999
            if kind != "labels":
                made, right = (s.segment_with_confidence(image)[1] for s in (on_gpu, on_cpu))
                assert (np.abs(made.astype(int) - right) <= 1).mean() > 0.9999


@pytest.mark.parametrize("form", ["rgb", "nv12", "yuyv", "grey"])
def test_formats_of_frames(folders, monkeypatch, form):
    height, width = FRAME
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2), "grey": FRAME}
    image = noise(*shape.get(form, (*FRAME, 3)))
    folder = folders("bilinear").folder
    with edgeseg.load(folder, frames=form) as on_gpu, monkeypatch.context() as asked:
        asked.setenv("EDGESEG_DECODE", "numpy")
        with edgeseg.load(folder, frames=form) as on_cpu:
            assert np.array_equal(on_gpu.segment(image), on_cpu.segment(image))


@pytest.mark.parametrize("graph", ["0", "1"])
def test_the_engine_says_what_the_network_says(folders, monkeypatch, graph):
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", graph)
    for kind, right in (("labels", labels_of), ("bilinear", scores_of)):
        with edgeseg.load(folders(kind).folder, frames="rgb") as segmenter:
            for seed in range(4):
                image = noise(1, *SIZE, 3, seed=seed)
                assert np.array_equal(segmenter.engine.infer(image), right(image))
                assert np.array_equal(
                    segmenter.segment(image[0], at="network"), says(OUTPUTS[kind], image)[0]
                )


def test_several_threads_and_instances(folders):
    folder, answers = folders("bilinear").folder, {}
    with edgeseg.load(folder, frames="rgb") as one, edgeseg.load(folder, frames="rgb") as two:

        def work(start: int) -> None:
            for seed in range(start, 40, 4):
                image = noise(*SIZE, 3, seed=seed)
                answers[seed] = (one, two)[seed % 2].segment(image, at="network")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for seed in range(40):
        right = says(OUTPUTS["bilinear"], noise(1, *SIZE, 3, seed=seed))[0]
        assert np.array_equal(answers[seed], right)


def test_torch_has_the_same_gpu(folders):
    torch = pytest.importorskip("torch", reason="there is no torch here")
    if DOUBLES or not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    numbers = torch.arange(1000, device="cuda")
    with edgeseg.load(folders("labels").folder, frames="rgb") as segmenter:
        for seed in range(5):
            image = noise(*SIZE, 3, seed=seed)
            assert np.array_equal(segmenter.segment(image), labels_of(image[None])[0])
            assert int((numbers + seed).sum()) == 499500 + 1000 * seed
    assert int(numbers.sum()) == 499500  # and after the engine has gone


def test_memory_does_not_grow(folders, measured):
    """Opened and closed, and many calls: what the GPU has left is what it had."""
    folder, image = folders("bilinear").folder, noise(*FRAME, 3)
    rounds, calls = (3, 10) if DOUBLES else (20, 500)
    for _ in range(2):
        edgeseg.load(folder, frames="rgb").close()
    gc.collect()
    before = used_mib() if not DOUBLES else 0.0
    for _ in range(rounds):
        with edgeseg.load(folder, frames="rgb") as segmenter:
            for _ in range(calls):
                segmenter.segment(image)
    gc.collect()
    after = used_mib() if not DOUBLES else 0.0
    assert before is not None
    assert after is not None
    measured["device_mib_before_and_after"] = [before, after]
    assert after - before < 16


ENDS = """
import sys
sys.path[:0] = {path!r}
{first}
import edgeseg, numpy as np
segmenter = edgeseg.load({folder!r}, frames="rgb")
segmenter.segment(np.zeros(({height}, {width}, 3), np.uint8))
{last}
"""


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("", ""),
        ("", "segmenter.close()"),
        ("import atexit; atexit.register(lambda: segmenter.close())", ""),
        ("", "import atexit; atexit.register(segmenter.close)"),
        ("", "import threading; threading.Thread(target=segmenter.close).start()"),
        ("import torch; torch.zeros(3, device='cuda')", ""),
    ],
    ids=["left open", "closed", "closed late", "closed first", "by a thread", "beside torch"],
)
def test_the_interpreter_ends_in_silence(folders, first, last):
    if DOUBLES:
        pytest.skip("a process of its own has no doubles")
    if "torch" in first:
        torch = pytest.importorskip("torch", reason="there is no torch here")
        if not torch.cuda.is_available():
            pytest.skip("torch has no CUDA here")
    code = ENDS.format(
        path=sys.path, first=first, last=last, folder=str(folders("bilinear").folder),
        height=FRAME[0], width=FRAME[1],
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plan_that_was_damaged(folders, tmp_path):
    bundle = folders("labels")
    folder = tmp_path / "damaged"
    with writing_folder(folder) as aside:
        for name in bundle.manifest.files:
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes((bundle.folder / name).read_bytes())
        data = (bundle.folder / "network.plan").read_bytes()
        (aside / "network.plan").write_bytes(data[: len(data) // 2])
        write_bundle(aside, dataclasses.replace(bundle.manifest, files={}))
    with pytest.raises(edgeseg.runtime.engine.EngineError, match="can't open"):
        edgeseg.load(folder, frames="rgb")
    with edgeseg.load(bundle.folder, frames="rgb") as segmenter:  # the process goes on
        segmenter.segment(noise(*SIZE, 3))


@pytest.mark.parametrize("by", ["gpu", "cpu"])
def test_how_long_a_camera_frame_takes(folders, monkeypatch, measured, by):
    """720p to the frame's labels; the network itself is next to nothing. A number, no limit."""
    if by == "cpu":
        monkeypatch.setenv("EDGESEG_DECODE", "numpy" if DOUBLES else _fastest())
    image = noise(48, 64, 3) if DOUBLES else noise(720, 1280, 3)
    with edgeseg.load(folders("bilinear").folder, frames="rgb") as segmenter:
        times = []
        for _ in range(3 if DOUBLES else 220):
            start = time.perf_counter()
            _, stages = segmenter.timed(image)
            times.append((time.perf_counter() - start) * 1e3)
    late = times[-200:]
    measured[f"frame_ms_{by}"] = {
        "size": list(image.shape[:2]), "p50": round(statistics.median(late), 3), "n": len(late),
        "last": [round(ms, 3) for ms in (stages.prepare, stages.engine, stages.decode)],
    }  # fmt: skip


def _fastest() -> str:
    from edgeseg.runtime import decode_native

    return (*decode_native.available(), "numpy")[0]


def test_kernels_are_files_of_this_edgeseg(folders):
    from edgeseg.runtime.pixel_jobs import source_hash

    record = folders("labels").manifest.target.build.kernels
    assert record.source_sha256 == source_hash()
    assert Path(record.file).suffix == ".cubin"
