"""The doubles of TensorRT and PyCUDA fail where a real GPU would be wrong in silence.

Each test breaks one line of the engine, or of what it is given, and sees what says so.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading

import numpy as np
import pytest
from cuda_doubles import Fault, LogicError, Machine
from engine_folders import expected
from plan_doubles import NETWORKS, put
from test_plan_engine import folder, images

from edgeseg.errors import EngineError
from edgeseg.runtime.engine import open_engine

pytestmark = pytest.mark.unit


@pytest.fixture
def machine(monkeypatch):
    return put(monkeypatch, Machine())


@pytest.fixture
def cuda(machine):
    """edgeseg/runtime/cuda.py as this test's engine has it, to be broken."""
    import edgeseg.runtime.cuda

    return edgeseg.runtime.cuda


def opened(tmp_path):
    return open_engine("tensorrt", folder(tmp_path / "plan"))


def run_and_close(tmp_path):
    """One call of an engine that is closed then; its labels and what they should be."""
    engine = opened(tmp_path)
    (image,) = images(1)
    labels = engine.infer(image)
    engine.close()
    return labels, expected(image)


def found(machine: Machine) -> str:
    gc.collect()
    with pytest.raises(Fault) as fault:
        machine.verify()
    return str(fault.value)


def test_nothing_is_found_where_nothing_is_wrong(machine, tmp_path):
    labels, right = run_and_close(tmp_path)
    assert np.array_equal(labels, right)
    machine.verify()


def test_memory_that_is_not_freed(machine, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda.Buffer, "_free", lambda self: None)
    run_and_close(tmp_path)
    said = found(machine)
    assert said.count("384 bytes of device memory are leaked") == 1
    assert said.count("128 bytes of pinned memory are leaked") == 1
    assert "the context was destroyed with 4 allocations" in said


def test_an_engine_that_is_never_released(machine, tmp_path):
    engine = opened(tmp_path)
    engine._finalizer.detach()
    said = found(machine)
    for part in ("a stream", "a event", "a TensorRT context", "a TensorRT engine"):
        assert f"{part} is leaked" in said
    assert "the primary context is retained 1 times" in said


def test_memory_that_is_used_after_it_was_freed(machine, cuda, tmp_path):
    engine = opened(tmp_path)
    loaded = engine._loaded
    with loaded.turn():
        loaded.gpu.free(loaded.result)
    with pytest.raises(Fault, match="address of device memory that was freed"):
        engine.infer(images(1)[0])


def test_memory_that_is_freed_while_the_network_needs_it(machine, tmp_path):
    engine = opened(tmp_path)
    loaded = engine._loaded
    with loaded.turn():
        loaded.network(loaded.image.address, loaded.result.address)
        with pytest.raises(Fault, match="device memory is freed, and the network still needs it"):
            loaded.gpu.free(loaded.result)


def test_memory_that_is_freed_twice(machine, tmp_path):
    engine = opened(tmp_path)
    with engine._loaded.turn():
        memory = engine._loaded.image._memory
        memory.free()
        with pytest.raises(LogicError, match="free failed: invalid resource handle"):
            memory.free()


def test_memory_that_is_written_after_it_was_freed(machine, tmp_path):
    engine = opened(tmp_path)
    kept = engine._loaded.image.host
    engine.close()
    kept[...] = 1
    assert found(machine) == "pinned memory was written after it was freed"


def test_a_network_that_writes_beyond_its_output(machine, tmp_path, monkeypatch):
    def beyond(image):
        address = next(m for m in machine.memory.values() if m.size == 128 and m.kind == "device")
        address.block[-64] = 0
        return expected(image)

    monkeypatch.setitem(NETWORKS, "brightest", beyond)
    run_and_close(tmp_path)
    assert found(machine) == "something was written beyond 128 bytes of device memory"


def test_a_result_that_is_copied_before_it_is_there(machine, cuda, tmp_path, monkeypatch):
    """Wrong order: the copy to the host goes onto the stream before the network."""
    loaded = importlib.import_module("edgeseg.runtime.plan_engine")._Loaded
    copy, network = cuda.Buffer.download, loaded.network

    def early(self, image, result):
        copy(self.result)
        network(self, image, result)

    monkeypatch.setattr(loaded, "network", early)
    monkeypatch.setattr(cuda.Buffer, "download", lambda self: None)
    labels, _ = run_and_close(tmp_path)
    assert (labels == 0xCD).all(), "what the device's memory held before the network wrote"


def test_a_result_that_nobody_waits_for(machine, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda.Clock, "wait", lambda self: [0.0])
    engine = opened(tmp_path)
    (image,) = images(1)
    labels = engine.infer(image)
    assert (labels == 0xCD).all(), "what pinned memory holds before anything was written"
    assert "nobody waited for the network" in found(machine)


def test_an_image_that_is_overwritten_before_it_was_copied(machine, cuda, tmp_path, monkeypatch):
    engine = opened(tmp_path)
    loaded, (image, later) = engine._loaded, images(2)
    with loaded.turn():
        loaded.image.host[...] = image
        loaded.image.upload()
        loaded.image.host[...] = later
        loaded.network(loaded.image.address, loaded.result.address)
        loaded.result.download()
        loaded.clock.mark(3)
        loaded.clock._events[3].synchronize()
        assert not np.array_equal(loaded.result.host, expected(image))
    engine.close()


def test_a_copy_of_memory_that_is_not_pinned(machine, cuda, tmp_path, monkeypatch):
    engine = opened(tmp_path)
    with engine._loaded.turn():
        engine._loaded.image.host = images(1)[0]
        with pytest.raises(Fault, match="copy of memory that is not pinned"):
            engine._loaded.image.upload()


def test_host_memory_that_a_kernel_is_given(machine, cuda, tmp_path):
    engine = opened(tmp_path)
    loaded = engine._loaded
    loaded._context.set_tensor_address("labels", loaded.result.address)
    loaded._context.set_tensor_address("image", loaded.image.host.ctypes.data)
    loaded._bound = loaded.image.address, loaded.result.address
    with pytest.raises(Fault, match="a kernel was given the address of host memory"):
        engine.infer(images(1)[0])


def test_another_thread_that_does_not_push_the_context(machine, cuda, tmp_path, monkeypatch):
    engine = opened(tmp_path)
    monkeypatch.setattr(cuda.Gpu, "using", lambda self: contextlib.nullcontext())
    said = []

    def work():
        with pytest.raises(LogicError) as error:
            engine.infer(images(1)[0])
        said.append(str(error.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert said == ["invalid device context: no context is current in this thread"]


def test_a_context_that_is_not_popped(machine, cuda, tmp_path, monkeypatch):
    engine = opened(tmp_path)
    monkeypatch.setattr(cuda.cuda.Context, "pop", lambda: None)
    engine.infer(images(1)[0])
    assert "a thread has a context on PyCUDA's stack: PyCUDA aborts at its end" in found(machine)


def test_a_context_that_stays_on_the_drivers_stack(machine, cuda, tmp_path, monkeypatch):
    """What PyCUDA's detach alone does."""
    monkeypatch.setattr(cuda, "_detach", lambda context: context.detach())
    run_and_close(tmp_path)
    assert found(machine) == "a thread has the context on the driver's stack"


def test_a_context_that_is_let_go_in_another_thread_without_a_push(machine, cuda, tmp_path):
    engine = opened(tmp_path)
    context = engine._loaded.gpu._context
    thread = threading.Thread(target=context.detach)
    thread.start()
    thread.join(20)
    assert "the primary context is retained 1 times" in found(machine)


def test_a_context_that_is_let_go_twice(machine, cuda, tmp_path, monkeypatch):
    def twice(context):
        context.detach()
        machine.release_primary()

    monkeypatch.setattr(cuda, "_detach", twice)
    run_and_close(tmp_path)
    assert "the primary context was released more often than retained" in found(machine)


def test_what_goes_while_its_context_is_not_current(machine, cuda, tmp_path):
    engine = opened(tmp_path)
    loaded = engine._loaded
    loaded.gpu._owned.pop(id(loaded._context))
    del loaded._context
    engine.close()
    assert "a TensorRT context went while its context was not current" in found(machine)


def test_two_threads_in_one_execution_context(machine, cuda, tmp_path, monkeypatch):
    """Without the lock: the second call comes before anybody waited for the first."""
    engine = opened(tmp_path)
    engine._loaded.lock = threading.Semaphore(99)
    monkeypatch.setattr(cuda.Clock, "wait", lambda self: [0.0])
    engine.infer(images(1)[0])
    said = []

    def work():
        with pytest.raises(Fault) as error:
            engine.infer(images(1)[0])
        said.append(str(error.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert said == ["two threads use one TensorRT context at the same time"]


def test_an_allocation_in_every_call(machine, cuda, tmp_path, monkeypatch):
    engine = opened(tmp_path)
    before = machine.allocated
    real = cuda.Clock.wait

    def wait(self):
        cuda.DeviceMemory(self._gpu, 8)
        return real(self)

    monkeypatch.setattr(cuda.Clock, "wait", wait)
    engine.infer(images(1)[0])
    assert machine.allocated == before + 1
    engine.close()


def test_a_graph_that_is_not_destroyed(machine, cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", "1")
    monkeypatch.setattr("cuda_doubles.Driver.cuGraphExecDestroy", lambda self, graph: 0)
    run_and_close(tmp_path)
    assert "a CUDA graph is leaked" in found(machine)


def test_a_capture_of_work_that_waits(machine, cuda, tmp_path):
    engine = opened(tmp_path)
    gpu = engine._loaded.gpu
    with pytest.raises(EngineError, match="not permitted when capturing"), gpu.using():
        cuda.Graph(gpu, gpu.stream.synchronize)
