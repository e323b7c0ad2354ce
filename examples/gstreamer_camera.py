"""NV12 frames of a GStreamer pipeline with the time at which each was taken.

python examples/gstreamer_camera.py FOLDER [PIPELINE]

The default pipeline is a Jetson's CSI camera: the camera's processor writes NV12, which is what the
network's input is prepared from, so that no colour conversion of full-size frames is needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import GLib, Gst, GstApp  # noqa: E402, F401 (GstApp: the sink's methods)

import edgeseg  # noqa: E402
from edgeseg.errors import EdgesegError, EngineError, UsageError  # noqa: E402

JETSON = (
    "nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 "
    "! nvvidconv ! video/x-raw,format=NV12"
)
PATIENCE = 2.0
"""Seconds without a frame after which the pipeline is taken for dead."""


def nv12(data: Any, height: int, width: int) -> np.ndarray:
    """A mapped buffer in GStreamer's default layout -> (height * 3 / 2, width) uint8, copied.

    Rows are padded to a multiple of four bytes.
    """
    stride = (width + 3) // 4 * 4
    rows = height * 3 // 2
    return np.frombuffer(data, np.uint8)[: rows * stride].reshape(rows, stride)[:, :width].copy()


def age(pipeline: Any, buffer: Any) -> float:
    """Seconds since the buffer was taken, by the pipeline's clock."""
    if buffer.pts == Gst.CLOCK_TIME_NONE:
        return 0.0
    now = pipeline.get_clock().get_time() - pipeline.get_base_time()
    return max(0.0, (now - buffer.pts) / Gst.SECOND)


def failure(pipeline: Any) -> str:
    """What an element of the pipeline says went wrong; "" if none does."""
    message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    return "" if message is None else str(message.parse_error()[0].message)


def frames(description: str) -> Iterator[edgeseg.Captured]:
    """(H * 3 / 2, W) uint8 NV12 frames of a pipeline that ends in video/x-raw,format=NV12."""
    Gst.init(None)
    sink_options = "name=sink max-buffers=1 drop=true sync=false"
    try:
        pipeline = Gst.parse_launch(f"{description} ! appsink {sink_options}")
    except GLib.Error as error:
        raise UsageError(f"{error.message}, in the pipeline: {description}") from error
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    try:
        while True:
            sample = sink.try_pull_sample(int(PATIENCE * Gst.SECOND))
            if sample is None:
                why = failure(pipeline)
                if sink.is_eos() and not why:
                    return
                why = why or f"no frame for {PATIENCE:g} s"
                raise EngineError(f"{why}, from: {description}")
            caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
            taken = time.monotonic() - age(pipeline, buffer)
            mapped, info = buffer.map(Gst.MapFlags.READ)
            if not mapped:
                raise EngineError("GStreamer can't map a frame; is its memory NVMM? Use nvvidconv")
            try:
                frame = nv12(info.data, caps.get_value("height"), caps.get_value("width"))
            finally:
                buffer.unmap(info)
            yield edgeseg.Captured(frame, taken)
    finally:
        pipeline.set_state(Gst.State.NULL)


def main(folder: str, description: str = JETSON) -> None:
    """Print one line a second."""
    camera = partial(frames, description)
    with edgeseg.stream(folder, camera, frames="nv12", deadline=0.1, watchdog=3.0) as results:
        shown = time.monotonic()
        for result in results:
            if time.monotonic() - shown >= 1:
                shown = time.monotonic()
                sys.stdout.write(f"age {result.age * 1e3:.0f} ms  {results.counters}\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except EdgesegError as error:
        sys.exit(f"edgeseg: {error}")
