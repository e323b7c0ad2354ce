"""Frames to labels on the GPU: the engine with kernels, on doubles whose kernels run on the CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_doubles import Fault, Machine
from engine_folders import MANIFEST
from kernels_on_cpu import CpuKernel, kernels
from plan_doubles import plan, put

import edgeseg
from edgeseg.bundle import (
    BuildRecord,
    Bundle,
    InputSpec,
    KernelsRecord,
    OutputSpec,
    Target,
    write_bundle,
)
from edgeseg.disk import writing_folder
from edgeseg.errors import EngineError, FrameError, UsageError
from edgeseg.frame import nearest, place, prepare
from edgeseg.pipeline.gating import check_device
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.engine import FrameEngine, open_engine
from edgeseg.runtime.pixel_jobs import source_hash
from edgeseg.runtime.segmenter import ON_DEVICE, Segmenter

pytestmark = pytest.mark.unit

SIZE = (16, 32)
SCORES = (1, 3, 8, 16)
CUBIN = "pixels-0123.cubin"
FRAME = (30, 40)
FILL = (1, 2, 3)


@pytest.fixture(params=["discrete", "integrated"])
def machine(request, monkeypatch):
    machine = put(monkeypatch, Machine(integrated=request.param == "integrated"))
    machine.kernels = kernels()
    monkeypatch.delenv("EDGESEG_DECODE", raising=False)
    yield machine
    gc.collect()
    machine.verify()


def folder(path: Path, output: OutputSpec | None = None, **changes) -> Bundle:
    """An engine folder with a plan and kernels; "channels" gives scores at half the size."""
    output = output or OutputSpec("scores", 2, "bilinear", 2)
    kernels_of = changes.pop("kernels", KernelsRecord(CUBIN, "8.7", "nvcc 12.6", source_hash()))
    image, fit = (1, *SIZE, 3), changes.pop("fit", "pad")
    if output.kind == "labels":
        content = plan(image, (1, *SIZE))
    else:
        content = plan(image, SCORES, network="channels", dtype="FLOAT", name="scores")
    with writing_folder(path) as aside:
        (aside / "network.plan").write_bytes(content)
        (aside / CUBIN).write_bytes(b"edgeseg_prepare edgeseg_decode")
        if output.decode == "deconvolution":
            np.savez(aside / "decode.npz", weight=WEIGHT, bias=BIAS)
        record = BuildRecord(1.0, 5, 0, {}, "12.6", "8.7", kernels=kernels_of)
        spec = InputSpec("rgb", (0.0,) * 3, (1.0,) * 3, fit=fit, size=SIZE, fill=FILL)
        fields = {
            "network_file": "network.plan", "target": Target("tensorrt", "10.3.0", "Orin", record),
            "output": output, "input": spec, **changes,
        }  # fmt: skip
        made = write_bundle(aside, dataclasses.replace(MANIFEST, **fields))
    return Bundle(path, made.manifest)


WEIGHT = np.random.default_rng(5).normal(size=(3, 4, 2, 2)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)


def opened(bundle: Bundle) -> FrameEngine:
    engine = open_engine("tensorrt", bundle)
    assert isinstance(engine, FrameEngine)
    return engine


def frame(seed: int = 0, size: tuple[int, int] = FRAME) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def by_hand(image: np.ndarray, output: OutputSpec, where, swap: bool, measure=None):
    """What CPU preparation, the network and CPU decode give."""
    prepared = prepare(image, where, swap=swap, fill=FILL)[None]
    if output.kind == "labels":
        labels, taken = prepared.argmax(-1).astype(np.uint8), nearest(where, SIZE)
        return (labels if taken is None else labels[:, taken[0]][:, :, taken[1]])[0], None
    scores = (prepared[:, ::2, ::2].transpose(0, 3, 1, 2) / 16).astype(np.float32)
    weighted = output.decode == "deconvolution"
    decoder = Decoder(output, *((WEIGHT, BIAS) if weighted else (None, None)))
    taken = nearest(where, decoder.size(scores))
    labels, sure = decoder.with_confidence(scores, measure or "softmax", taken)
    return labels[0], sure[0]


OUTPUTS = {
    "labels": OutputSpec(),
    "bilinear": OutputSpec("scores", 2, "bilinear", 2),
    "corners": OutputSpec("scores", 2, "bilinear_corners", 2),
    "deconvolution": OutputSpec("scores", 2, "deconvolution", 2),
}


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_labels_are_those_of_the_cpu(machine, tmp_path, output, fit):
    engine = opened(folder(tmp_path / "plan", OUTPUTS[output], fit=fit))
    assert engine.left_to_cpu == ""
    where = place(FRAME, SIZE, fit)
    for seed, swap in enumerate((False, True)):
        image = frame(seed)
        found = engine.segment(image, "rgb", where, swap=swap)
        right, _ = by_hand(image, OUTPUTS[output], where, swap)
        assert found.labels.shape == where.source.size
        assert np.array_equal(found.labels, right)
        assert found.confidence is None
        assert all(ms > 0 for ms in found.took)
    engine.close()


@pytest.mark.parametrize("measure", ["softmax", "margin"])
def test_confidence_is_that_of_the_cpu(machine, tmp_path, measure):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    found = engine.segment(frame(), "rgb", where, swap=False, measure=measure)
    labels, sure = by_hand(frame(), OUTPUTS["bilinear"], where, False, measure)
    assert np.array_equal(found.labels, labels)
    assert np.array_equal(found.confidence, sure)
    again = engine.segment(frame(), "rgb", where, swap=False)
    assert again.confidence is None
    engine.close()


def test_labels_at_the_networks_size(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    found = engine.segment(frame(), "rgb", where, swap=False, whole=True)
    prepared = prepare(frame(), where, swap=False, fill=FILL)[None]
    scores = (prepared[:, ::2, ::2].transpose(0, 3, 1, 2) / 16).astype(np.float32)
    assert np.array_equal(found.labels, Decoder(OUTPUTS["bilinear"])(scores)[0])
    engine.close()


def test_frames_of_a_camera_processor(machine, tmp_path):
    """NV12 and YUYV of grey pixels are the grey frame: Y from 16 to 235 is 0 to 255."""
    engine = opened(folder(tmp_path / "plan", OUTPUTS["labels"]))
    where = place(FRAME, SIZE, "pad")
    nv12 = np.full((FRAME[0] * 3 // 2, FRAME[1]), 128, np.uint8)
    nv12[: FRAME[0]] = np.random.default_rng(1).integers(16, 236, FRAME)
    light = (9539 * (nv12[: FRAME[0]].astype(np.int64) - 16) + 4096 >> 13).astype(np.uint8)
    yuyv = np.stack([nv12[: FRAME[0]], np.full(FRAME, 128, np.uint8)], -1)
    grey = np.repeat(light[..., None], 3, 2)
    right, _ = by_hand(grey, OUTPUTS["labels"], where, False)
    for form, image in (("nv12", nv12), ("yuyv", yuyv), ("grey", light), ("bgr", grey)):
        found = engine.segment(image, form, where, swap=False)
        assert np.array_equal(found.labels, right), form
    engine.close()


def test_a_call_allocates_nothing(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    engine.segment(frame(), "rgb", where, swap=False)
    before, handles = machine.allocated, len(machine.handles)
    machine.done.clear()
    for seed in range(3):
        engine.segment(frame(seed), "rgb", where, swap=False)
    assert (machine.allocated, len(machine.handles)) == (before, handles)
    work = [name for name in machine.done if name != "a mark"]
    steps = ["kernel edgeseg_prepare", "the network", "kernel edgeseg_decode"]
    copies = ["a copy to the device", *steps, "a copy to the host"]
    assert work == (steps if machine.integrated else copies) * 3
    engine.close()


def test_full_size_floats_and_pixels_stay_off_the_bus(machine, tmp_path, monkeypatch):
    """What crosses it is the camera's frame and the labels: no network input, no scores."""
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    engine.segment(frame(), "rgb", where, swap=False)
    moved = []
    if not machine.integrated:
        from edgeseg.runtime.cuda import cuda

        for name in ("memcpy_htod_async", "memcpy_dtoh_async"):
            real = getattr(cuda, name)

            def spy(dest, src, stream, real=real):
                moved.append(max(np.size(dest), np.size(src)))
                real(dest, src, stream)

            monkeypatch.setattr(cuda, name, spy)
        engine.segment(frame(), "rgb", where, swap=False)
        assert moved == [FRAME[0] * FRAME[1] * 3, FRAME[0] * FRAME[1]]
    engine.close()


def test_cameras_of_several_sizes(machine, tmp_path):
    """Each size has its memory; of more than four the one longest unused gives its own back."""
    engine = opened(folder(tmp_path / "plan"))
    alive = []
    for height in (10, 20, 30, 40, 50, 60, 10):
        size = (height, 40)
        where = place(size, SIZE, "pad")
        found = engine.segment(frame(height, size), "rgb", where, swap=False)
        right, _ = by_hand(frame(height, size), OUTPUTS["bilinear"], where, False)
        assert np.array_equal(found.labels, right)
        alive.append(sum(m.alive for m in machine.memory.values()))
    assert alive[3] < alive[4] + 1
    assert len(set(alive[3:])) == 1
    engine.close()


def test_a_size_that_does_not_fit_into_memory(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    engine.segment(frame(), "rgb", where, swap=False)
    big = (400, 400)
    before = sum(m.alive for m in machine.memory.values())
    machine.total = machine.used() + 1000
    with pytest.raises(EngineError, match="too little memory left"):
        engine.segment(frame(0, big), "rgb", place(big, SIZE, "pad"), swap=False)
    assert sum(m.alive for m in machine.memory.values()) == before
    found = engine.segment(frame(), "rgb", where, swap=False)
    assert np.array_equal(found.labels, by_hand(frame(), OUTPUTS["bilinear"], where, False)[0])
    engine.close()


def test_images_and_frames_take_turns(machine, tmp_path, monkeypatch):
    """`infer` and `segment` have their own memory on both sides, with and without graphs."""
    for graph in ("0", "1"):
        monkeypatch.setenv("EDGESEG_CUDA_GRAPH", graph)
        engine = opened(folder(tmp_path / "plan", OUTPUTS["labels"]))
        where = place(FRAME, SIZE, "pad")
        for seed in range(3):
            found = engine.segment(frame(seed), "rgb", where, swap=False)
            right, _ = by_hand(frame(seed), OUTPUTS["labels"], where, False)
            assert np.array_equal(found.labels, right)
            image = frame(seed + 9, SIZE)[None]
            assert np.array_equal(engine.infer(image), image.argmax(-1))
        engine.close()


def test_several_threads(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where, answers = place(FRAME, SIZE, "pad"), {}

    def work(start: int) -> None:
        for seed in range(start, 12, 3):
            answers[seed] = engine.segment(frame(seed), "rgb", where, swap=False).labels

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for seed in range(12):
        right, _ = by_hand(frame(seed), OUTPUTS["bilinear"], where, False)
        assert np.array_equal(answers[seed], right)
    engine.close()


# Where the CPU does it


@pytest.mark.parametrize(
    ("kernels_of", "why"),
    [
        (KernelsRecord(why="there was no nvcc"), "there was no nvcc"),
        (None, "the folder has no kernels; 'edgeseg build' compiles them here"),
    ],
)
def test_without_kernels_the_cpu_does_it(machine, tmp_path, kernels_of, why):
    engine = opened(folder(tmp_path / "plan", kernels=kernels_of))
    assert engine.left_to_cpu == why
    engine.close()


def test_the_cpu_does_it_when_it_is_asked_to(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_DECODE", "numpy")
    engine = opened(folder(tmp_path / "plan"))
    assert engine.left_to_cpu == "EDGESEG_DECODE is numpy"
    engine.close()


# Faults that are planted


def test_a_table_that_is_freed_while_the_kernel_needs_it(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    engine.segment(frame(), "rgb", where, swap=False)
    loaded = engine._loaded
    (fit,) = loaded.pixels._fits.values()
    with loaded.turn():
        loaded.pixels.prepare(fit)
        for made in fit._made[1:5]:  # the taps of rows and columns
            _, free = loaded.gpu._owned[id(made)]
            with pytest.raises(Fault, match=r"is freed, and .* still needs it"):
                free()
        loaded.gpu.stream.synchronize()
    engine.close()


def test_a_kernel_that_writes_beyond_its_output(machine, tmp_path):
    engine = opened(folder(tmp_path / "plan"))
    where = place(FRAME, SIZE, "pad")
    engine.segment(frame(), "rgb", where, swap=False)
    (fit,) = engine._loaded.pixels._fits.values()
    fit.decode.labels += 1
    engine.segment(frame(), "rgb", where, swap=False)
    engine.close()
    with pytest.raises(Fault, match=r"something was written beyond 1200 bytes of \w+ memory"):
        machine.verify()
    for memory in machine.memory.values():
        memory.block[-64:] = 0xFB


def test_a_struct_of_another_size(machine, tmp_path, monkeypatch):
    engine = opened(folder(tmp_path / "plan"))
    functions = engine._loaded.pixels._kernels._functions
    with monkeypatch.context() as broken:
        broken.setitem(functions, "edgeseg_prepare", functions["edgeseg_decode"])
        with pytest.raises(EngineError, match="takes 128 bytes, not 120"):
            engine.segment(frame(), "rgb", place(FRAME, SIZE, "pad"), swap=False)
    engine.close()


# Through the Segmenter


def load(bundle: Bundle, frames: str = "rgb") -> Segmenter:
    return edgeseg.load(bundle.folder, frames=frames)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("output", ["labels", "bilinear", "deconvolution"])
def test_a_segmenter_gives_what_it_gives_without_kernels(
    machine, tmp_path, monkeypatch, output, fit
):
    bundle = folder(tmp_path / "plan", OUTPUTS[output], fit=fit)
    with load(bundle, "bgr") as on_gpu, monkeypatch.context() as asked:
        asked.setenv("EDGESEG_DECODE", "numpy")
        with load(bundle, "bgr") as on_cpu:
            assert (on_gpu.prepare_name, on_cpu.prepare_name != "on the GPU") == (ON_DEVICE, True)
            for at in ("frame", "network"):
                made, stages = on_gpu.timed(frame(), at=at)
                assert np.array_equal(made, on_cpu.segment(frame(), at=at)), at
                out = np.full_like(made, 77)
                assert on_gpu.segment(frame(), out, at=at) is out
                assert np.array_equal(out, made)
                assert min(stages.prepare, stages.engine, stages.decode) > 0
            if output != "labels":
                pairs = (s.segment_with_confidence(frame(), "margin") for s in (on_gpu, on_cpu))
                for made, right in zip(*pairs, strict=True):
                    assert np.array_equal(made, right)


def test_a_segmenter_takes_what_cameras_give(machine, tmp_path, monkeypatch):
    bundle = folder(tmp_path / "plan")
    random = np.random.default_rng(2)
    shapes = {"nv12": (45, 40), "yuyv": (30, 40, 2), "grey": (30, 40)}
    for form, shape in shapes.items():
        image = random.integers(0, 256, shape).astype(np.uint8)
        with load(bundle, form) as on_gpu, monkeypatch.context() as asked:
            asked.setenv("EDGESEG_DECODE", "numpy")
            with load(bundle, form) as on_cpu:
                assert np.array_equal(on_gpu.segment(image), on_cpu.segment(image)), form


def test_reports_name_what_decodes(machine, tmp_path):
    with load(folder(tmp_path / "one")) as segmenter:
        assert segmenter.decode_name == "bilinear x2, then argmax: on the GPU"
    none = KernelsRecord(why="there was no nvcc")
    with load(folder(tmp_path / "two", kernels=none)) as segmenter:
        assert segmenter.decode_name.endswith("(not on the GPU: there was no nvcc)")


def test_a_refused_measure_and_a_wrong_out(machine, tmp_path):
    with load(folder(tmp_path / "plan")) as segmenter:
        with pytest.raises(UsageError, match="unknown confidence 'margn'"):
            segmenter.segment_with_confidence(frame(), "margn")
        with pytest.raises(FrameError, match=r"out is uint8 of shape \(3, 3\)"):
            segmenter.segment(frame(), np.empty((3, 3), np.uint8))


def test_a_stream(machine, tmp_path):
    frames = [frame(seed) for seed in range(6)]
    with load(folder(tmp_path / "plan")) as segmenter:
        right = [segmenter.segment(image) for image in frames]
        with edgeseg.stream(segmenter, frames, policy="every") as stream:
            for image, labels in zip(stream, right, strict=True):
                assert np.array_equal(image.labels, labels)


def test_the_gate_compares_kernels_with_the_cpu(machine, tmp_path, monkeypatch):
    images = np.stack([frame(seed, SIZE) for seed in range(4)])
    with load(folder(tmp_path / "plan")) as segmenter:
        check_device(segmenter, images)
        monkeypatch.setitem(machine.kernels, "edgeseg_decode", Wrong("edgeseg_decode"))
        with pytest.raises(EngineError, match=r"kernels give [\d.]+ % other labels than the CPU"):
            check_device(segmenter, images)
    with load(folder(tmp_path / "plan", kernels=None)) as segmenter:
        check_device(segmenter, images)


class Wrong(CpuKernel):
    """Gives the next class."""

    def run(self, argument: bytes, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        super().run(argument, grid, block)
        job = self.struct.from_buffer_copy(argument)
        size = job.out_height * job.out_width
        labels = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(job.labels))
        labels[:] = (labels + 1) % 3
