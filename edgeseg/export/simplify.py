"""Folding constants and batch normalisation, by onnxslim; then our own rewrites."""

from __future__ import annotations

import onnx
import onnxslim

from edgeseg.errors import GraphError
from edgeseg.export.rewrite import rewrite
from edgeseg.graph import name_nodes

MAX_OPSET = 18


def simplify(model: onnx.ModelProto, *, rewritten: bool = True) -> onnx.ModelProto:
    """Fold constants and batch normalisation, drop what nothing reads, name the nodes, rewrite.

    With `rewritten=False` the graph stays as others have it, who do not know our rewrites.
    """
    slim = onnxslim.slim(model, model_check=False)
    if slim is None:
        raise GraphError("onnxslim could not simplify the graph")
    opset = max((o.version for o in slim.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset > MAX_OPSET:
        raise GraphError(
            f"the graph has opset {opset}; export it with opset {MAX_OPSET} or lower, which "
            "every target reads"
        )
    name_nodes(slim)
    known = onnx.shape_inference.infer_shapes(slim)
    return rewrite(known) if rewritten else known
