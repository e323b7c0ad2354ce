"""`edgeseg train --qat`: float checkpoint -> calibrated ranges -> training in INT8 -> folder."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import onnx

from edgeseg.bundle import Manifest, WeightsSpec, read_manifest
from edgeseg.calibration.bias import Offsets
from edgeseg.calibration.pixels import is_pixels
from edgeseg.calibration.placement import placement
from edgeseg.calibration.qdq import shift_bias
from edgeseg.calibration.ranges import RangeTable
from edgeseg.dataset import Dataset
from edgeseg.errors import BundleError, RecipeError
from edgeseg.graph import initializers
from edgeseg.pipeline.floats import FloatNetwork, make_float, scores_of
from edgeseg.pipeline.learned import Learned, with_weights, write_learned
from edgeseg.pipeline.model import find_labeller
from edgeseg.pipeline.plan import GATE_FRAMES, Say, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate
from edgeseg.training import loop, qat, start
from edgeseg.training.onnx_module import untied
from edgeseg.training.plan import Recipe
from edgeseg.weights import is_non_commercial


def train(recipe: Recipe, folder: Path, *, resume: bool, source: str, say: Say) -> loop.Outcome:
    """Calibrate the checkpoint of `recipe.qat`, train it in INT8 into `folder`.

    A resumed run calibrates again, to the same ranges, and then takes those of its state.
    """
    calibrated = prepare(recipe, say)
    opener = functools.partial(qat.open_calibrated, calibrated)
    return loop.train(recipe, folder, resume=resume, source=source, opener=opener)


def prepare(recipe: Recipe, say: Say) -> qat.Calibrated:
    """The float graph of the recipe's checkpoint with the ranges to start from."""
    plan = recipe.qat
    before = _check(recipe)
    frames = start.open_data(dataclasses.replace(recipe, cache=False), say).train
    if frames.classes.names != before.table.names:
        raise RecipeError(
            f"data has class table '{frames.classes.name}', {plan.model} '{before.table.name}'; "
            "they must be the same"
        )
    network = _float(recipe, frames, say)
    table = calibrate(network, frames.spread(plan.frames), plan.method, say)
    graph = untied(_corrected(Quantiser(network, table).single, table.offsets))
    places = placement(graph)
    spec = before.model
    assert spec is not None  # _check
    return qat.Calibrated(
        graph,
        network.single,
        scores_of(graph),
        places,
        table.ranges,
        spec,
        network.manifest.output,
        functools.partial(_write, network, graph, table, recipe),
        frozenset(p.activation for p in places if is_pixels(p.activation)),
        network.decode,
    )


def _check(recipe: Recipe) -> Manifest:
    """The manifest of the checkpoint to start from; errors where it is not that of the recipe."""
    model = recipe.qat.model
    path = find_labeller(model)
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is None or manifest.kind != "checkpoint" or manifest.model is None:
        raise BundleError(
            f"--qat {model} is no checkpoint folder; give one made by 'edgeseg train' or 'convert'"
        )
    if manifest.model.name != recipe.model:
        raise RecipeError(
            f"model is '{recipe.model}', and {model} holds '{manifest.model.name}'; they must be "
            "the same"
        )
    mine, theirs = recipe.input, manifest.input
    if (mine.order, mine.mean, mine.std) != (theirs.order, theirs.mean, theirs.std):
        raise RecipeError(
            f"{model} expects order '{theirs.order}', mean {list(theirs.mean)}, std "
            f"{list(theirs.std)}; put these into the recipe's [input]"
        )
    _weights(recipe, manifest.weights)
    return manifest


def _float(recipe: Recipe, frames: Dataset, say: Say) -> FloatNetwork:
    scores = recipe.qat.output == "scores"
    source = Source(recipe.qat.model, recipe.size, recipe.input.fit, scores=scores)
    return make_float(source, frames.spread(GATE_FRAMES), say)


def _corrected(model: onnx.ModelProto, offsets: Offsets) -> onnx.ModelProto:
    """A copy with the means of its layers corrected, so that training starts where PTQ ends."""
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    graph, constants = corrected.graph, initializers(model)
    for node in graph.node:
        if node.name in offsets:
            shift_bias(graph, node, offsets[node.name], constants)
    return corrected


def _weights(recipe: Recipe, before: WeightsSpec) -> WeightsSpec:
    """Data, licence and origin of the trained weights: those of the start travel along."""
    given, data = recipe.weights, f"{recipe.data.partition(':')[0]} {recipe.split}"
    seen = before.data if data.lower() in before.data.lower() else f"{before.data}; {data}"
    licence = before.licence if given.licence == "unknown" else given.licence
    if is_non_commercial(before.licence) and not is_non_commercial(licence):
        raise RecipeError(
            f"{recipe.qat.model} is under '{before.licence}' and [weights] says '{licence}'; it "
            "must say that the weights are non-commercial"
        )
    return WeightsSpec(given.data or seen, licence, f"{before.source}; {given.source} --qat")


def _write(
    network: FloatNetwork,
    graph: onnx.ModelProto,
    table: RangeTable,
    recipe: Recipe,
    folder: Path,
    learned: qat.Learned,
    manifest: Manifest,
) -> None:
    """What was learned so far, as a model folder: `graph` with other weights.

    Rescaling and corrected means are in the weights and biases already.
    """
    made = dataclasses.replace(
        network.manifest,
        weights=_weights(recipe, network.manifest.weights),
        history=(*network.manifest.history, *manifest.history),
    )
    parts = Learned(
        with_weights(graph, learned.weights),
        network.single,
        dataclasses.replace(table, method="qat", ranges=learned.ranges, factors={}, offsets={}),
        network.decode,
    )
    write_learned(folder, parts, made)
