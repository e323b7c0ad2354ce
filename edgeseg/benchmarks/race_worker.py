"""One contestant of a race, in a process of its own: camera frames in, labels out, when told to.

`python -m edgeseg.benchmarks.race_worker '{"kind": ..., ...}'` opens what the entry names, says
`{"ready": VERSION}` and obeys lines on standard input: `run N` makes N calls and answers with their
milliseconds, `labels FILE` writes the labels of all frames as .npy. It ends with its input.

Every contestant gets frames in the entry's `format`, BGR (H, W, 3) uint8 where nothing else is
asked for, and returns labels (H, W) uint8 at the network's size that its caller may keep. With
`place` frames are not of that size. What others do here is what their own guides advise.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.frame import Placement, place
from edgeseg.runtime.prepare import to_three

Call = Callable[[np.ndarray], np.ndarray]


def open_edgeseg(entry: dict[str, Any]) -> tuple[Call, str]:
    """Ours: `edgeseg.load`, `segment`. A torch folder is run as torch users do: eager."""
    from edgeseg.runtime.segmenter import load

    segmenter = load(
        entry["path"], frames=entry["format"], threads=entry["threads"],
        inference_precision=entry.get("precision"), allow_ungated=True,
    )  # fmt: skip
    return lambda frame: segmenter.segment(frame, at="network"), segmenter.engine.version


def open_engine_alone(entry: dict[str, Any]) -> tuple[Call, str]:
    """The engine of our folder and nothing else: no preparation, no decode. What it returns."""
    from edgeseg.runtime.segmenter import load

    segmenter = load(
        entry["path"], frames="bgr", threads=entry["threads"],
        inference_precision=entry.get("precision"), allow_ungated=True,
    )  # fmt: skip
    engine = segmenter.engine
    return lambda frame: engine.infer(frame[None]), engine.version


def open_compiled(entry: dict[str, Any]) -> tuple[Call, str]:
    """torch.compile on the network of a torch folder."""
    from edgeseg.runtime.segmenter import load
    from edgeseg.training.engine_torch import TorchEngine

    segmenter = load(
        entry["path"], frames=entry["format"], threads=entry["threads"], allow_ungated=True
    )
    assert isinstance(segmenter.engine, TorchEngine)
    segmenter.engine.compile()
    return lambda frame: segmenter.segment(frame, at="network"), segmenter.engine.version


def open_usual(entry: dict[str, Any]) -> tuple[Call, str]:
    """The usual script: numpy normalises, ONNX Runtime gives full-size scores, numpy's argmax."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = entry["threads"]
    session = onnxruntime.InferenceSession(
        entry["path"], options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    mean = np.array(entry["mean"], np.float32)
    std = np.array(entry["std"], np.float32)
    prepared = _usual_frames(entry)

    def call(frame: np.ndarray) -> np.ndarray:
        image = prepared(frame)
        normal = (image.astype(np.float32) - mean) / std
        planes = np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
        scores = session.run(None, {name: planes})[0]
        labels: np.ndarray = scores[0].argmax(0).astype(np.uint8)
        return labels

    return call, onnxruntime.__version__


def _usual_frames(entry: dict[str, Any]) -> Call:
    """A frame -> the network's input before it is normalised, as scripts do it."""
    rgb = entry["order"] == "rgb"
    if "place" not in entry:
        return lambda frame: frame[..., ::-1] if rgb else frame
    placement, fill = _placement(entry), tuple(entry["fill"][:: 1 if rgb else -1])
    if entry.get("opencv"):
        from edgeseg.benchmarks.prepare_speed import in_opencv, opencv

        cv2 = opencv()
        if cv2 is None:
            raise EngineError("OpenCV is not here: pip install opencv-python-headless")
        cv2.setNumThreads(entry["threads"])
        made = partial(in_opencv, cv2, entry["format"], placement=placement, fill=fill)
    else:
        made = partial(in_pillow, entry["format"], placement=placement, fill=fill)
    return made if rgb else lambda frame: made(frame)[..., ::-1]


def _placement(entry: dict[str, Any]) -> Placement:
    frame, network, fit = entry["place"]
    placement = place(tuple(frame), tuple(network), fit)
    if placement.source.size != placement.frame:
        raise EngineError(f"its frames are prepared with fit pad or stretch, not '{fit}'")
    return placement


def in_pillow(
    form: str, frame: np.ndarray, placement: Placement, fill: tuple[int, ...]
) -> np.ndarray:
    """A frame -> RGB at the network's size: numpy turns colours, Pillow resizes, numpy pads."""
    from PIL import Image

    three = to_three(frame, form)
    image = np.ascontiguousarray(three[..., ::-1] if form == "bgr" else three)
    height, width = placement.target.size
    source = placement.source
    small = Image.fromarray(image[source.slices]).resize((width, height), Image.Resampling.BILINEAR)
    made = np.empty((*placement.network, 3), np.uint8)
    made[:] = fill
    made[placement.target.slices] = np.asarray(small)
    return made


def open_openvino(entry: dict[str, Any]) -> tuple[Call, str]:
    """OpenVINO's best practice: PrePostProcessor, the argmax in the graph, LATENCY hint.

    `entry` has mean, std and order for a network of normalised float planes; a network of uint8
    frames (what NNCF was given) has none.
    """
    import openvino
    from openvino import Layout
    from openvino.preprocess import ColorFormat, PrePostProcessor

    core = openvino.Core()
    model = core.read_model(entry["path"])
    if "mean" in entry:
        model = _with_preparation(model, entry)
    elif entry["order"] == "rgb":
        steps = PrePostProcessor(model)
        steps.input().tensor().set_layout(Layout("NHWC")).set_color_format(ColorFormat.BGR)
        steps.input().model().set_layout(Layout("NHWC"))
        steps.input().preprocess().convert_color(ColorFormat.RGB)
        model = steps.build()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": entry["precision"],
        "INFERENCE_NUM_THREADS": entry["threads"],
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    planar = frame_of_planes(entry["format"])

    def call(frame: np.ndarray) -> np.ndarray:
        whole = frame[None, ..., None] if planar else frame[None]
        request.infer(openvino.Tensor(whole, shared_memory=True))
        labels: np.ndarray = request.get_output_tensor().data
        return labels.reshape(labels.shape[-2:]).astype(np.uint8)

    return call, openvino.__version__.partition("-")[0]


def frame_of_planes(form: str) -> bool:
    """Whether frames of that format have two axes, to which OpenVINO wants one more."""
    return form in ("nv12", "grey")


def _with_preparation(model: Any, entry: dict[str, Any]) -> Any:
    """OpenVINO's PrePostProcessor: colours, resize, mean and scale, then the padding."""
    from openvino import Layout, Type
    from openvino.preprocess import ColorFormat, PaddingMode, PrePostProcessor, ResizeAlgorithm

    form, rgb = entry["format"], entry["order"] == "rgb"
    if form in ("yuyv", "grey"):
        raise EngineError(f"OpenVINO's PrePostProcessor takes no {form} for a network of colours")
    formats = {
        "bgr": ColorFormat.BGR, "rgb": ColorFormat.RGB, "nv12": ColorFormat.NV12_SINGLE_PLANE,
    }  # fmt: skip
    steps = PrePostProcessor(model)
    frame = steps.input()
    tensor = frame.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    tensor.set_color_format(formats[form])
    frame.model().set_layout(Layout("NCHW"))
    process = frame.preprocess()
    if form == "nv12":  # whole numbers, as OpenVINO's plugin has it
        process.convert_color(ColorFormat.RGB if rgb else ColorFormat.BGR)
    process.convert_element_type(Type.f32)
    if form != "nv12" and rgb != (form == "rgb"):
        process.convert_color(ColorFormat.RGB if rgb else ColorFormat.BGR)
    if "place" not in entry:
        process.mean(entry["mean"]).scale(entry["std"])
        return steps.build()
    placement = _placement(entry)
    tensor.set_spatial_static_shape(*placement.frame)
    process.resize(ResizeAlgorithm.RESIZE_LINEAR, *placement.target.size)
    process.mean(entry["mean"]).scale(entry["std"])
    target, (height, width) = placement.target, placement.network
    before = [0, target.top, target.left, 0]
    behind = [0, height - target.bottom, width - target.right, 0]
    if any((*before, *behind)):
        process.pad(before, behind, 0.0, PaddingMode.CONSTANT)
    return steps.build()


OPENERS = {
    "edgeseg": open_edgeseg,
    "engine alone": open_engine_alone,
    "torch.compile": open_compiled,
    "usual script": open_usual,
    "openvino": open_openvino,
}


def serve(call: Call, frames: np.ndarray, orders: TextIO, answers: TextIO) -> None:
    """Obey `orders` until they end."""
    at = 0
    for line in orders:
        verb, _, word = line.strip().partition(" ")
        answer: object = None
        if verb == "run":
            times = []
            for _ in range(int(word)):
                frame = frames[at % len(frames)]
                begin = perf_counter()
                call(frame)
                times.append((perf_counter() - begin) * 1e3)
                at += 1
            answer = times
        elif verb == "labels":
            np.save(Path(word), np.stack([call(frame) for frame in frames]))
        else:
            raise ValueError(f"no such order: {line!r}")
        print(json.dumps(answer), file=answers, flush=True)


def main(words: list[str]) -> None:
    """Open the contestant and serve. Whatever libraries print goes to standard error."""
    entry = json.loads(words[0])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    frames = np.load(entry["frames"])
    call, version = OPENERS[entry["kind"]](entry)
    print(json.dumps({"ready": version}), file=answers, flush=True)
    serve(call, frames, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
