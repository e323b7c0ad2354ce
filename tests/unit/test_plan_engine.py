"""The engine for plans, on doubles of TensorRT and PyCUDA that account for everything."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import threading
from pathlib import Path

import numpy as np
import plan_doubles
import pytest
from cuda_doubles import FOREIGN, Machine
from engine_folders import MANIFEST, SIZE, expected
from plan_doubles import plan, put

import edgeseg
from edgeseg.bundle import BuildRecord, Bundle, InputSpec, OutputSpec, Target, write_bundle
from edgeseg.disk import writing_folder
from edgeseg.errors import BundleError, EngineError
from edgeseg.runtime.engine import EngineOptions, open_engine

pytestmark = pytest.mark.unit

IMAGE = (1, *SIZE, 3)
LABELS = (1, *SIZE)


@pytest.fixture(params=["discrete", "integrated"])
def machine(request, monkeypatch):
    """A GPU with its own memory, and a board's that shares it; nothing may be left at the end."""
    machine = put(monkeypatch, Machine(integrated=request.param == "integrated"))
    yield machine
    gc.collect()
    machine.verify()


def folder(path: Path, content: bytes | None = None, name: str = "tensorrt", **changes) -> Bundle:
    """An engine folder with a plan."""
    options = changes.pop("options", {})
    with writing_folder(path) as aside:
        (aside / "network.plan").write_bytes(content or plan(IMAGE, LABELS))
        record = BuildRecord(1.0, 5, 0, options, "12.6", "8.7")
        fields = {
            "network_file": "network.plan", "target": Target(name, "10.3.0", "Orin", record),
            **changes,
        }  # fmt: skip
        made = write_bundle(aside, dataclasses.replace(MANIFEST, **fields))
    return Bundle(path, made.manifest)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, IMAGE).astype(np.uint8) for _ in range(count)]


def refused(bundle: Bundle, options: EngineOptions | None = None) -> str:
    assert bundle.manifest.target is not None
    with pytest.raises(EngineError) as error:
        open_engine(bundle.manifest.target.name, bundle, options)
    said = str(error.value)
    del error
    return said


# Labels


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "10.13.3", "11.4.1"])
def test_labels_are_those_of_the_network(machine, monkeypatch, tmp_path, version):
    put(monkeypatch, machine, version)
    bundle = folder(tmp_path / "plan", plan(IMAGE, LABELS, version=version))
    engine = open_engine("tensorrt", bundle, EngineOptions(threads=3))
    assert (engine.version, engine.device, engine.threads) == (version, "Orin", 3)
    assert engine.inference_precision == "f32"
    first, second = images(2)
    one, two = engine.infer(first), engine.infer(second)
    assert np.array_equal(one, expected(first))
    assert np.array_equal(two, expected(second))
    assert not np.shares_memory(one, two)
    assert one.flags.writeable
    engine.close()


def test_scores_of_half_precision(machine, tmp_path):
    content = plan(IMAGE, (1, 3, 4, 8), network="channels", dtype="HALF", name="scores", memory=64)
    output = OutputSpec("scores", 2, "bilinear", 2)
    bundle = folder(tmp_path / "plan", content, output=output, precision="fp16")
    engine = open_engine("tensorrt", bundle)
    (image,) = images(1)
    scores = engine.infer(image)
    assert (scores.dtype, engine.inference_precision) == (np.float16, "f16")
    assert np.array_equal(scores, (image[:, ::2, ::2].transpose(0, 3, 1, 2) / 16).astype("f2"))
    out = np.empty_like(scores)
    engine.infer_into(image, out)
    assert np.array_equal(out, scores)
    engine.close()


def test_edgeseg_load_opens_it_and_close_gives_the_gpu_back(machine, tmp_path):
    folder(tmp_path / "plan")
    with edgeseg.load(tmp_path / "plan", frames="rgb") as segmenter:
        (image,) = images(1)
        assert np.array_equal(segmenter.segment(image[0]), expected(image)[0])
        assert machine.retained == 1
    assert machine.retained == 0


def test_rtx(monkeypatch, tmp_path):
    machine = Machine(name="RTX 4090", capability=(8, 9))
    put(monkeypatch, machine, "1.7.1.116", "tensorrt_rtx")
    content = plan(IMAGE, LABELS, version="1.7.1.116", capability=(8, 9))
    record = BuildRecord(1.0, 5, 0)
    target = Target("tensorrt-rtx", "1.7.1.116", "any RTX GPU", record)
    bundle = folder(tmp_path / "plan", content, target=target)
    engine = open_engine("tensorrt-rtx", bundle)
    (image,) = images(1)
    assert np.array_equal(engine.infer(image), expected(image))
    engine.close()
    machine.verify()


def test_a_call_allocates_nothing(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    engine.infer(images(1)[0])
    before, handles = machine.allocated, len(machine.handles)
    for image in images(5):
        engine.infer(image)
    assert (machine.allocated, len(machine.handles)) == (before, handles)
    engine.close()


def test_what_shares_memory_copies_nothing(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    machine.done.clear()
    engine.infer(images(1)[0])
    work = [name for name in machine.done if name != "a mark"]
    copies = ["a copy to the device", "the network", "a copy to the host"]
    assert work == (["the network"] if machine.integrated else copies)
    engine.close()


def test_a_graph_is_captured_once_and_launched_then(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", "1")
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    for image in images(3):
        assert np.array_equal(engine.infer(image), expected(image))
    assert machine.done.count("the network") == 1
    assert machine.done.count("the network of a graph") == 2
    engine.close()


def test_a_graph_that_the_driver_refuses(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", "1")
    monkeypatch.setattr("cuda_doubles.Driver.cuGraphInstantiateWithFlags", lambda *_: 801)
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    with pytest.raises(EngineError, match="cuGraphInstantiateWithFlags failed with error 801"):
        engine.infer(images(1)[0])
    engine.close()
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", "yes")
    assert refused(folder(tmp_path / "plan")) == "EDGESEG_CUDA_GRAPH is 'yes'; expected 0 or 1"


# Several threads, several instances, another library on the same GPU


def test_several_threads_get_the_labels_of_one(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    many, answers = images(24), {}

    def work(start: int) -> None:
        for index in range(start, len(many), 4):
            answers[index] = engine.infer(many[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(np.array_equal(answers[i], expected(many[i])) for i in range(len(many)))
    engine.close()


def test_two_instances_share_the_context(machine, tmp_path):
    bundle = folder(tmp_path / "plan")
    one, two = open_engine("tensorrt", bundle), open_engine("tensorrt", bundle)
    assert machine.retained == 2
    first, second = images(2)
    assert np.array_equal(one.infer(first), expected(first))
    assert np.array_equal(two.infer(second), expected(second))
    one.close()
    assert np.array_equal(two.infer(first), expected(first))
    two.close()


@pytest.mark.parametrize("handle", ["primary", "foreign"])
def test_what_another_library_made_current_stays(machine, tmp_path, handle):
    """torch has the primary context on its thread; another library one of its own."""
    machine.retained += 1
    stack = machine.here().driver
    stack.append(machine.primary if handle == "primary" else FOREIGN)
    before = list(stack)
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    engine.infer(images(1)[0])
    assert stack == before
    engine.close()
    assert stack == before
    assert machine.retained == 1
    stack.clear()
    machine.retained -= 1


def test_an_engine_that_is_closed_inside_of_another_ones_call(machine, tmp_path):
    bundle = folder(tmp_path / "plan")
    one, two = open_engine("tensorrt", bundle), open_engine("tensorrt", bundle)
    with two._loaded.turn():
        one.close()  # as the garbage collector may
        assert machine.has_current()
    (image,) = images(1)
    assert np.array_equal(two.infer(image), expected(image))
    two.close()


# The end


def test_an_engine_that_nobody_uses_gives_the_gpu_back(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    engine.infer(images(1)[0])
    del engine
    assert machine.retained == 0


def test_an_engine_that_is_closed_by_another_thread(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join(20)
    assert machine.retained == 0
    engine.close()  # twice is fine
    with pytest.raises(EngineError, match=r"^this engine is closed; open the folder again$"):
        engine.infer(images(1)[0])


def test_the_interpreter_ends_before_anybody_closes(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    assert engine._finalizer.atexit
    engine._finalizer()  # what the interpreter calls
    assert machine.retained == 0
    engine.close()


def test_another_library_took_the_context_away_first(machine, tmp_path):
    """cudaDeviceReset, or a torch that ended before us: nothing to free, and no error."""
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    machine.retained = 0
    engine.close()
    for memory in machine.memory.values():
        memory.alive = False
        memory.bytes[:] = 0xDD
    machine.handles.clear()
    machine.faults.clear()


def test_a_forked_child_refuses_and_frees_nothing(machine, tmp_path, monkeypatch):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(EngineError, match="CUDA does not outlive a fork; open it in the child"):
            engine.infer(images(1)[0])
        engine._loaded.release()
        engine._loaded.gpu.release()
    assert machine.retained == 1
    (image,) = images(1)
    assert np.array_equal(engine.infer(image), expected(image))
    engine.close()


# What is refused


def test_wrong_images(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    with pytest.raises(EngineError, match=r"image is uint8 of shape \(1, 8, 17, 3\)"):
        engine.infer(np.zeros((1, 8, 17, 3), np.uint8))
    engine.close()


def test_a_plan_of_another_release(machine, monkeypatch, tmp_path):
    put(monkeypatch, machine, "10.7.0")
    bundle = folder(tmp_path / "plan")
    assert refused(bundle) == (
        f"TensorRT 10.7.0 can't open {tmp_path}/plan/network.plan: expecting library version "
        "10.7.0 got 10.3.0; it was built by TensorRT 10.3.0, and this machine has 10.7.0: type "
        f"here 'edgeseg build {tmp_path}/plan --target tensorrt'"
    )


@pytest.mark.parametrize(
    ("options", "name", "capability", "fits"),
    [
        ({}, "Orin", (8, 7), True),
        ({}, "Another", (8, 7), False),
        ({}, "Thor", (11, 0), False),
        ({"hardware_compatible": "same-capability"}, "Another", (8, 7), True),
        ({"hardware_compatible": "same-capability"}, "A100", (8, 0), False),
        ({"hardware_compatible": "ampere+"}, "Thor", (11, 0), True),
        ({"hardware_compatible": "ampere+"}, "Xavier", (7, 2), False),
    ],
)
def test_a_plan_for_another_gpu(monkeypatch, tmp_path, options, name, capability, fits):
    machine = put(monkeypatch, Machine(name=name, capability=capability))
    content = plan(IMAGE, LABELS, capability=capability)
    bundle = folder(tmp_path / "plan", content, options=options)
    if fits:
        open_engine("tensorrt", bundle).close()
    else:
        assert refused(bundle) == (
            f"{tmp_path}/plan/network.plan was built for Orin (compute capability 8.7), and this "
            f"GPU is {name} ({capability[0]}.{capability[1]}). Type here 'edgeseg build "
            f"{tmp_path}/plan'; a plan for several GPUs is built with --hardware-compatible"
        )
    machine.verify()


def test_what_a_plan_needs_of_the_runtime(machine, tmp_path, monkeypatch):
    seen = []
    real = plan_doubles.Runtime.deserialize_cuda_engine

    def look(self, data):
        seen.append((self.DLA_core, self.engine_host_code_allowed))
        return real(self, data)

    monkeypatch.setattr(plan_doubles.Runtime, "deserialize_cuda_engine", look)
    for options in ({}, {"dla": 1}, {"version_compatible": True}):
        open_engine("tensorrt", folder(tmp_path / "plan", options=options)).close()
    assert seen == [(-1, False), (1, False), (-1, True)]


def test_a_file_that_is_no_plan(machine, tmp_path):
    bundle = folder(tmp_path / "plan", b"not a network")
    assert refused(bundle) == (
        f"TensorRT 10.3.0 can't open {tmp_path}/plan/network.plan: Magic tag does not match; copy "
        f"the folder again, or type here 'edgeseg build {tmp_path}/plan'"
    )


def test_a_tampered_plan(machine, tmp_path):
    folder(tmp_path / "plan")
    (tmp_path / "plan/network.plan").write_bytes(plan(IMAGE, LABELS, memory=1))
    with pytest.raises(BundleError, match=r"'network\.plan' was changed after export"):
        edgeseg.load(tmp_path / "plan", frames="rgb")


def test_a_plan_of_another_network(machine, tmp_path):
    bundle = folder(tmp_path / "plan", plan((1, 4, 4, 3), (1, 4, 4), name="mask"))
    assert refused(bundle) == (
        f"{tmp_path}/plan/network.plan takes image (1, 4, 4, 3) and gives mask; the manifest says "
        "image (1, 8, 16, 3) and labels. Build the folder again"
    )


def test_an_output_of_an_odd_type(machine, tmp_path):
    bundle = folder(tmp_path / "plan", plan(IMAGE, LABELS, dtype="INT32"))
    assert "gives labels of type INT32; expected one of UINT8, FLOAT, HALF" in refused(bundle)


def test_another_precision(machine, tmp_path):
    assert refused(folder(tmp_path / "plan"), EngineOptions(inference_precision="f16")) == (
        f"{tmp_path}/plan/network.plan: the plan computes in f32, not f16: its precision is in the "
        "graph. Export with another --precision"
    )


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (100, "can't open {network}: out of memory; 0 MiB of GPU memory are free: close what else"),
        (
            5 << 20,
            "can't run {network}: cuMemAlloc failed: out of memory; it needs 64 MiB of GPU memory "
            "to work in, and 4 MiB are free. Close what else uses it, or build with a smaller "
            "--workspace",
        ),
    ],
)
def test_too_little_memory(machine, tmp_path, total, said):
    bundle = folder(tmp_path / "plan", plan(IMAGE, LABELS, memory=64 << 20))
    machine.total = total
    assert said.format(network=bundle.network) in refused(bundle)


def test_too_little_memory_for_buffers(monkeypatch, tmp_path):
    machine = put(monkeypatch, Machine())
    content = plan(IMAGE, LABELS, memory=4096)
    machine.total = len(content) + 4096 + 400  # of 384 bytes of image and 128 of labels
    assert refused(folder(tmp_path / "plan", content)) == (
        "the GPU has too little memory left (cuMemAlloc failed: out of memory); close what else "
        "uses it, or take a smaller --size"
    )
    machine.verify()


def test_a_network_that_fails(machine, tmp_path):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    machine.networks_fail = True
    with pytest.raises(EngineError) as error:
        engine.infer(images(1)[0])
    assert str(error.value) == (
        "TensorRT 10.3.0: inference failed: enqueue failed: illegal memory access"
    )
    streams = [ref() for ref in machine.streams.values()]
    assert [s.queue for s in streams if s is not None] == [[]]  # nothing uses our memory any more
    del streams
    machine.networks_fail = False
    (image,) = images(1, seed=3)
    assert np.array_equal(engine.infer(image), expected(image))
    engine.close()


def test_no_gpu(machine, tmp_path):
    machine.no_device = True
    assert refused(folder(tmp_path / "plan")) == (
        "no NVIDIA GPU can be used: cuInit failed: no CUDA-capable device is detected; "
        "'nvidia-smi' (on a Jetson 'tegrastats') shows whether driver and GPU are there"
    )


def test_a_kernel_that_crashed(machine, tmp_path, monkeypatch):
    engine = open_engine("tensorrt", folder(tmp_path / "plan"))
    from cuda_doubles import Event, LaunchError

    def crash(self):
        raise LaunchError("cuEventSynchronize failed: an illegal memory access")

    with monkeypatch.context() as broken:
        broken.setattr(Event, "synchronize", crash)
        with pytest.raises(EngineError, match=r"^CUDA failed: cuEventSynchronize failed.*again$"):
            engine.infer(images(1)[0])
    engine.close()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("pycuda", "engine 'tensorrt' needs 'pycuda'. Install it: pip install pycuda (it is "),
        ("tensorrt", "engine 'tensorrt' needs 'tensorrt'. Install it: it comes with JetPack"),
    ],
)
def test_a_library_that_is_missing(machine, tmp_path, monkeypatch, missing, said):
    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    assert refused(folder(tmp_path / "plan")).startswith(said)


def test_no_driver(machine, tmp_path, monkeypatch):
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "site/pycuda").mkdir(parents=True)
    (tmp_path / "site/pycuda/__init__.py").write_text("")
    (tmp_path / "site/pycuda/driver.py").write_text(
        "raise ImportError('libcuda.so.1: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert refused(folder(tmp_path / "plan")) == (
        "engine 'tensorrt' needs an NVIDIA GPU, and its driver is not on this machine "
        "(libcuda.so.1: cannot open shared object file); a folder made with --target onnxruntime "
        "runs on the CPU"
    )
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


def test_batches(machine, tmp_path):
    spec = InputSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size=SIZE, batch=2)
    bundle = folder(tmp_path / "plan", plan((2, *SIZE, 3), (2, *SIZE)), input=spec)
    engine = open_engine("tensorrt", bundle)
    both = np.concatenate(images(2))
    assert np.array_equal(engine.infer(both), expected(both))
    engine.close()
