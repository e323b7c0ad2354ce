"""The two graphs of the GPU's tests. A board has no `onnx`: the files are kept, and written by

    python tests/gpu_graphs.py

All numbers are small and whole, so that every order of sums and every precision gives the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "gpu"
SIZE = (64, 96)
CHANNELS = 12
KERNEL = np.random.default_rng(7).integers(-3, 4, (CHANNELS, 3, 2, 2)).astype(np.float32)
GRAPHS = ("labels", "scores")


def labels_of(images: np.ndarray) -> np.ndarray:
    """What labels.onnx says: (N, H, W, 3) uint8 -> the first brightest channel, (N, H, W) uint8."""
    return images.argmax(-1).astype(np.uint8)


def scores_of(images: np.ndarray) -> np.ndarray:
    """What scores.onnx says: (N, CHANNELS, H / 2, W / 2) float32, a 2x2 convolution of stride 2."""
    n, h, w, _ = images.shape
    cells = images.astype(np.float32).reshape(n, h // 2, 2, w // 2, 2, 3)
    return np.einsum("nyixjc,ocij->noyx", cells, KERNEL).astype(np.float32)


def write() -> None:
    """Write both files."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *SIZE, 3])
    first = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    kernels = {
        "labels": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "scores": KERNEL,
    }
    for name, kernel in kernels.items():
        side = kernel.shape[-1]
        convolution = helper.make_node(
            "Conv", ["planes", "kernel"], ["scores"], strides=[side, side]
        )
        nodes, shape, kind = [*first, convolution], [1, *SIZE], TensorProto.UINT8
        if name == "labels":
            nodes += [
                helper.make_node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0),
                helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.UINT8),
            ]
        else:
            shape, kind = [1, CHANNELS, SIZE[0] // 2, SIZE[1] // 2], TensorProto.FLOAT
        graph = helper.make_graph(
            nodes, name, [image], [helper.make_tensor_value_info(name, kind, shape)],
            [numpy_helper.from_array(kernel, "kernel")],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    write()
