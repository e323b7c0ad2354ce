"""One contestant of a race, in a process of its own: camera frames in, labels out, when told to.

`python -m edgeseg.benchmarks.race_worker '{"kind": ..., ...}'` opens what the entry names, says
`{"ready": VERSION}` and obeys lines on standard input: `run N` makes N calls and answers with their
milliseconds, `labels FILE` writes the labels of all frames as .npy. It ends with its input.

Every contestant gets BGR frames (H, W, 3) uint8, as cameras and OpenCV give them, and returns
labels (H, W) uint8 that its caller may keep. What others do here is what their own guides advise.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

Call = Callable[[np.ndarray], np.ndarray]


def open_edgeseg(entry: dict[str, Any]) -> tuple[Call, str]:
    """Ours: `edgeseg.load`, `segment`. A torch folder is run as torch users do: eager."""
    from edgeseg.runtime.segmenter import load

    segmenter = load(
        entry["path"], frames="bgr", threads=entry["threads"],
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

    segmenter = load(entry["path"], frames="bgr", threads=entry["threads"], allow_ungated=True)
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
    rgb = entry["order"] == "rgb"

    def call(frame: np.ndarray) -> np.ndarray:
        image = frame[..., ::-1] if rgb else frame
        normal = (image.astype(np.float32) - mean) / std
        planes = np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
        scores = session.run(None, {name: planes})[0]
        labels: np.ndarray = scores[0].argmax(0).astype(np.uint8)
        return labels

    return call, onnxruntime.__version__


def open_openvino(entry: dict[str, Any]) -> tuple[Call, str]:
    """OpenVINO's best practice: PrePostProcessor, the argmax in the graph, LATENCY hint.

    `entry` has mean, std and order for a network of normalised float planes; a network of uint8
    frames (what NNCF was given) has none.
    """
    import openvino
    from openvino import Layout, Type
    from openvino.preprocess import ColorFormat, PrePostProcessor

    core = openvino.Core()
    model = core.read_model(entry["path"])
    if "mean" in entry:
        steps = PrePostProcessor(model)
        frame = steps.input()
        frame.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
        frame.tensor().set_color_format(ColorFormat.BGR)
        frame.model().set_layout(Layout("NCHW"))
        process = frame.preprocess().convert_element_type(Type.f32)
        if entry["order"] == "rgb":
            process = process.convert_color(ColorFormat.RGB)
        process.mean(entry["mean"]).scale(entry["std"])
        model = steps.build()
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

    def call(frame: np.ndarray) -> np.ndarray:
        request.infer(openvino.Tensor(frame[None], shared_memory=True))
        labels: np.ndarray = request.get_output_tensor().data
        return labels.reshape(labels.shape[-2:]).astype(np.uint8)

    return call, openvino.__version__.partition("-")[0]


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
