"""The placement of each family as a text list, so that a change of it can be read.

`python -m edgeseg.pipeline.placement_lists calibration/placements` writes them; a test compares.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import onnx

from edgeseg.bundle import InputSpec, Manifest, ModelSpec, WeightsSpec
from edgeseg.calibration.pixels import read_pixels
from edgeseg.calibration.placement import placement
from edgeseg.calibration.rescale import find_sources, rescale
from edgeseg.disk import write_text
from edgeseg.graph import convolutions, initializers
from edgeseg.labels import CLASS_TABLES

DUPSAMPLE = {"stride": 16, "low_level": ["level2"]}
# fmt: off
FAMILIES = {
    "espnet":           ModelSpec("espnet_q8"),
    "espnetv2":         ModelSpec("espnetv2_s0.5"),
    "dfanet":           ModelSpec("dfanet_b"),
    "espnet_dsrl":      ModelSpec("espnet_q8+dsrl", {"dsrl": {"stage": "sssr"}}),
    "espnet_dupsample": ModelSpec("espnet_q8+dupsample", {"dupsample": DUPSAMPLE}),
}
# fmt: on
"""File name -> the network that stands for the family."""
SIZE = (64, 128)
CLASSES = "cityscapes19"
INPUT = InputSpec("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), size=SIZE)


def placement_list(family: str) -> str:
    """One line for each convolution: its name, its weights, the tensor that it reads in INT8."""
    pixels = read_pixels(family_graph(family))
    graph = rescale(pixels, {s.tensor: (1.0,) * s.channels for s in find_sources(pixels)})
    places = placement(graph)
    shapes = {name: value.shape for name, value in initializers(graph).items()}
    kinds = {n.name: n.op_type for n in convolutions(graph)}
    wide = max(len(place.layer) for place in places)
    weights = [f"{kinds[p.layer]} {'x'.join(map(str, shapes[p.weight]))}" for p in places]
    middle = max(map(len, weights))
    rows = [
        f"{p.layer:<{wide}}  {w:<{middle}}  {p.activation}"
        for p, w in zip(places, weights, strict=True)
    ]
    tensors = len({p.activation for p in places})
    head = (
        f"# {FAMILIES[family].name}: {len(places)} convolutions in INT8 read {tensors} tensors "
        "(/scaled: channels are rescaled); all else is float"
    )
    return "\n".join([head, *rows, ""])


@functools.cache
def family_graph(family: str) -> onnx.ModelProto:
    """The float graph of a family with fresh weights. It is shared: copy it before a change."""
    from edgeseg.export.simplify import simplify
    from edgeseg.export.to_onnx import to_onnx
    from edgeseg.models.checkpoint import save_checkpoint
    from edgeseg.models.network import build_model

    spec, table = FAMILIES[family], CLASS_TABLES[CLASSES]
    manifest = Manifest(
        "checkpoint",
        spec.name,
        table.to_dict(),
        INPUT,
        model=spec,
        weights=WeightsSpec("none", "none", "fresh"),
    )
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        folder = Path(temporary) / "model"
        save_checkpoint(folder, build_model(spec, len(table)), manifest)
        exported = to_onnx(folder, size=SIZE, batch=1, order=INPUT.order, scores=False)
    return simplify(exported.model)


def main() -> int:
    """Write the lists, one file for each family."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.pipeline.placement_lists", description=__doc__
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write them to")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        write_text(folder / f"{family}.txt", placement_list(family))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
