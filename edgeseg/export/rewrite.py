"""The rewrites of every exported graph: the same results in less time, whatever the engine.

One pass is one function that changes an Editor, one line here, one test of equality. What was
measured with each, and what was tried and not kept, is in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from edgeseg.export.editing import Editor
from edgeseg.export.fold_linear import fold_linear
from edgeseg.export.fold_swap import fold_swap
from edgeseg.export.pools_as_convolutions import pools_as_convolutions
from edgeseg.export.upsampled import depthwise_before_concat, pointwise_first

# fmt: off
PASSES: dict[str, Callable[[Editor], None]] = {
    # in this order
    "pools as convolutions":     pools_as_convolutions,
    "swap in the weights":       fold_swap,
    "linear layers folded":      fold_linear,
    "pointwise first":           pointwise_first,
    "depthwise before concat":   depthwise_before_concat,
}
# fmt: on


def rewrite(model: onnx.ModelProto, names: Iterable[str] = PASSES) -> onnx.ModelProto:
    """Apply the PASSES of these names to `model`, which knows its shapes, in place; the model."""
    editor = Editor(model)
    for name in names:
        PASSES[name](editor)
    return editor.finish()
