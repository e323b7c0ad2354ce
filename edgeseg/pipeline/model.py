"""MODEL as typed -> a folder, a Segmenter; published weights -> a checkpoint folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgeseg.bundle import (
    Bundle,
    InputSpec,
    Manifest,
    ModelSpec,
    WeightsSpec,
    is_learned,
    read_bundle,
    read_manifest,
)
from edgeseg.disk import check_replaceable
from edgeseg.errors import BundleError, UsageError, guess
from edgeseg.frame import FITS, Size, format_size
from edgeseg.labels import class_table
from edgeseg.models import CLASSIFIERS, MODELS, REFINERS, WORK, split_name
from edgeseg.runtime.crf import CrfSpec
from edgeseg.runtime.crf_segmenter import FULL_SIZE, CrfSegmenter, with_crf
from edgeseg.runtime.engine import EngineOptions, open_engine
from edgeseg.runtime.segmenter import Segmenter, load, only_refines
from edgeseg.weights import is_non_commercial, scores, shipped, terms


def find_model(model: str) -> Path:
    """MODEL as typed -> its folder or .onnx file; UsageError that says what to type instead."""
    path = Path(model)
    if path.is_dir() or (path.is_file() and path.suffix == ".onnx"):
        return path
    if path.is_file():
        raise UsageError(
            f"{model} is a file, and no .onnx file; give a model folder, an .onnx file or a model "
            "name ('edgeseg convert' makes a folder of a published .pth file)"
        )
    folders = shipped()
    if model in folders:
        return folders[model]
    if model.partition("+")[0] in (*MODELS, *CLASSIFIERS, *REFINERS):
        split_name(model)
        raise UsageError(
            f"no weights are shipped for '{model}'. Train it (edgeseg train RECIPE --out DIR) or "
            f"convert published ones (edgeseg convert --model {model} --weights FILE.pth ...), "
            f"then give that folder. Shipped: {', '.join(folders) or 'none'}"
        )
    known = dict.fromkeys((*folders, *MODELS))
    rest = f"Shipped: {', '.join(folders) or 'none'}; 'edgeseg models' lists all names"
    raise UsageError(
        f"'{model}' is no model folder, no .onnx file and no model name.{guess(model, known, rest)}"
    )


def takes_mask(path: Path) -> bool:
    """Whether a model folder holds a refiner."""
    return path.is_dir() and read_manifest(path).input.mask


def find_labeller(model: str) -> Path:
    """`find_model`; BundleError for a refiner, which labels no frames."""
    path = find_model(model)
    if takes_mask(path):
        raise BundleError(only_refines(model, read_manifest(path).name))
    return path


def open_model(
    model: str,
    *,
    size: Size | None,
    fit: str | None,
    options: EngineOptions,
    allow_ungated: bool = False,
) -> Segmenter:
    """Any MODEL as a Segmenter for RGB frames.

    An engine folder runs on its engine at its own size, if its gate passed or `allow_ungated`; a
    checkpoint in torch, at `size` (its own if None); what QAT has trained, in float.
    """
    folder = find_labeller(model)
    if folder.suffix == ".onnx":
        raise UsageError(
            f"{folder}: export the ONNX file first: edgeseg export {folder} --classes TABLE ..."
        )
    manifest = read_manifest(folder)
    if manifest.kind == "network":
        if size is not None and size != manifest.input.size:
            raise UsageError(
                f"{folder} was exported at {format_size(manifest.input.size or (0, 0))} and can't "
                f"run at {format_size(size)}; export it at that size"
            )
        if fit is not None and fit != manifest.input.fit:
            raise UsageError(f"{folder} was exported with fit '{manifest.input.fit}', not '{fit}'")
        return load(
            folder,
            frames="rgb",
            threads=options.threads,
            inference_precision=options.inference_precision,
            allow_ungated=allow_ungated or is_learned(manifest),
        )
    bundle = resized(read_bundle(folder), size, fit)
    engine = open_engine("torch", bundle, options)
    return Segmenter(engine, bundle, frames="rgb")


def open_with_crf(
    model: str,
    spec: CrfSpec,
    *,
    size: Size | None,
    fit: str | None,
    options: EngineOptions,
    allow_ungated: bool = False,
) -> CrfSegmenter:
    """The same, with the dense CRF behind it; an engine folder has to return scores."""
    folder = find_labeller(model)
    if not folder.is_dir() or read_manifest(folder).kind == "network":
        opened = open_model(model, size=size, fit=fit, options=options, allow_ungated=allow_ungated)
        return with_crf(opened, spec)
    from edgeseg.training.engine_torch import TorchScoresEngine

    bundle = resized(read_bundle(folder), size, fit)
    output = dataclasses.replace(FULL_SIZE, scale=bundle.manifest.output.scale)
    scores = dataclasses.replace(bundle.manifest, output=output)
    engine = TorchScoresEngine(bundle, options)
    return CrfSegmenter(engine, Bundle(bundle.folder, scores), frames="rgb", spec=spec)


def resized(bundle: Bundle, size: Size | None, fit: str | None) -> Bundle:
    """A checkpoint's bundle with another input size and fit; sizes that can't be are refused."""
    from edgeseg.models.network import build_shapes

    manifest = bundle.manifest
    size = size or manifest.input.size
    if size is None:
        raise UsageError(f"{bundle.folder} names no input size; give --size HEIGHTxWIDTH")
    if manifest.model is None:
        raise BundleError(f"{bundle.folder}: the manifest names no model")
    if fit is not None and fit not in FITS:
        raise UsageError(f"unknown fit '{fit}'.{guess(fit, FITS)}")
    divisor = build_shapes(manifest.model, len(manifest.table)).divisor
    check_size(size, divisor, manifest.name)
    spec = dataclasses.replace(manifest.input, size=size, fit=fit or manifest.input.fit)
    return Bundle(bundle.folder, dataclasses.replace(manifest, input=spec))


def check_size(size: Size, divisor: int, name: str) -> None:
    """UsageError that names the nearest size unless both sides are multiples of `divisor`."""
    nearest = tuple(max(divisor, round(side / divisor) * divisor) for side in size)
    if nearest != tuple(size):
        raise UsageError(
            f"{name} takes sizes whose height and width are multiples of {divisor}; "
            f"{format_size(size)} is not. The nearest is {format_size((nearest[0], nearest[1]))}"
        )


def convert(
    name: str,
    weights: Path,
    out: Path,
    *,
    spec: InputSpec,
    classes: str,
    options: dict[str, str],
    void_outputs: int,
    origin: WeightsSpec,
) -> Bundle:
    """Published weights -> checkpoint folder."""
    from edgeseg.models.checkpoint import fill_weights, save_checkpoint
    from edgeseg.models.network import build_model
    from edgeseg.models.published import read_published

    check_replaceable(out)
    table = class_table(classes)
    if void_outputs < 0:
        raise UsageError(f"--void-outputs is {void_outputs}; expected 0 or more")
    model_spec = ModelSpec(name, dict(options), void_outputs)
    model = build_model(model_spec, len(table) + void_outputs)
    if spec.size is not None:
        check_size(spec.size, model.divisor, name)
    fill_weights(model, read_published(weights, model), str(weights))
    manifest = Manifest(
        kind="checkpoint",
        name=name,
        model=model_spec,
        classes=table.to_dict(),
        input=spec,
        weights=origin,
        history=(f"convert --model {name} --weights {weights.name}",),
    )
    return save_checkpoint(out, model, manifest)


def terms_of(model: str) -> str:
    """One line: what the weights of MODEL were trained on, and their licence."""
    path = find_model(model)
    if not path.is_dir():
        return f"weights of {model}: the file does not say what data and licence they are of"
    weights = read_manifest(path).weights
    return f"weights of {model}: {terms(weights.data, weights.licence)}"


MACS_AT = ((256, 512), (512, 1024))


def list_models() -> list[dict[str, Any]]:
    """Every model: name, params, MACs at both sizes (19 classes), paper, shipped weights."""
    weights = shipped()
    rows = []
    for name, entry in MODELS.items():
        params, *macs = WORK[name]
        origin = read_manifest(weights[name]).weights if name in weights else None
        rows.append(
            {
                "name": name,
                "params": params,
                "macs": dict(zip(map(format_size, MACS_AT), macs, strict=True)),
                "source": entry.paper,
                "weights": origin.data if origin else None,
                "licence": origin.licence if origin else None,
            }
        )
    return rows


def list_weights() -> list[dict[str, Any]]:
    """The shipped weights: name, model, classes, data, licence, val mIoU and where it was taken.

    `miou` of a refiner is that of refined labels; `refined` says whose they were and what was
    gained (None for all others).
    """
    rows = []
    for name, folder in shipped().items():
        manifest = read_manifest(folder)
        found = scores(name)
        rows.append(
            {
                "name": name,
                "model": manifest.model.name if manifest.model else None,
                "classes": manifest.table.name,
                "data": manifest.weights.data,
                "licence": manifest.weights.licence,
                "non_commercial": is_non_commercial(manifest.weights.licence),
                "miou": found["miou"],
                "size": found["size"],
                "miou_data": found["data"],
                "frames": found["frames"],
                "refined": found.get("refined"),
                "bytes": sum((folder / file).stat().st_size for file in manifest.files),
            }
        )
    return rows
