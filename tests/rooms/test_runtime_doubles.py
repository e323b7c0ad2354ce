"""The doubles of TensorRT's runtime have no name that the real library lacks: seen on RTX's."""

from __future__ import annotations

import plan_doubles
import pytest
import tensorrt_rtx

pytestmark = pytest.mark.rooms

OURS = {"machine", "kind", "trt", "log", "refuse", "runtime", "content", "weights", "engine",
        "scratch", "addresses", "busy", "fails"}  # fmt: skip
"""What the doubles have for themselves."""


@pytest.mark.parametrize(
    ("double", "real"),
    [
        (plan_doubles.Runtime, tensorrt_rtx.Runtime),
        (plan_doubles.Engine, tensorrt_rtx.ICudaEngine),
        (plan_doubles.Execution, tensorrt_rtx.IExecutionContext),
    ],
)
def test_methods_are_those_of_the_library(double, real):
    names = {name for name in vars(double) if not name.startswith("__")} - OURS
    assert names
    assert names <= set(dir(real))


def test_attributes_are_those_of_the_library():
    assert {"DLA_core", "engine_host_code_allowed"} <= set(dir(tensorrt_rtx.Runtime))
    assert {"num_io_tensors", "device_memory_size_v2"} <= set(dir(tensorrt_rtx.ICudaEngine))
    assert set(plan_doubles.DTYPES) <= set(tensorrt_rtx.DataType.__members__)
    assert {"INPUT", "OUTPUT"} <= set(tensorrt_rtx.TensorIOMode.__members__)
    assert tensorrt_rtx.DataType.UINT8.name == "UINT8"
    assert tensorrt_rtx.ILogger.ERROR < tensorrt_rtx.ILogger.WARNING


def test_arguments_are_taken_as_the_library_takes_them():
    """`execute_async_v3(stream_handle)` and `set_tensor_address(name, memory)`, by position."""
    told = tensorrt_rtx.IExecutionContext.execute_async_v3.__doc__
    assert "stream_handle: typing.SupportsInt) -> bool" in told
    told = tensorrt_rtx.IExecutionContext.set_tensor_address.__doc__
    assert "name: str, memory: typing.SupportsInt) -> bool" in told
