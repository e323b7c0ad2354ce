"""A recipe -> data, network and loss, before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.bundle import InputSpec, Manifest, ModelSpec, WeightsSpec
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.errors import RecipeError, TrainingError
from edgeseg.frame import Size, enlarged, format_size, place, prepare_labels
from edgeseg.labels import ClassTable, ImageClasses
from edgeseg.models import CLASSIFIERS
from edgeseg.models.checkpoint import fill_weights, load_checkpoint, save_checkpoint
from edgeseg.models.classifier import XceptionClassifier
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.imagenet import read_encoder
from edgeseg.models.network import Network, build_trainee
from edgeseg.models.wrapper import Wrapper, innermost
from edgeseg.training.augment import crop
from edgeseg.training.backbone import start_backbones
from edgeseg.training.batches import cached, without
from edgeseg.training.distributed import World
from edgeseg.training.losses import Loss, class_weights, count_labels
from edgeseg.training.patches import collect, find_basis, measure
from edgeseg.training.plan import Recipe
from edgeseg.training.teacher import open_teacher
from edgeseg.weights import weights_folder


@dataclass(frozen=True)
class Data:
    """Frames to train on and frames to measure with."""

    train: Dataset
    evaluation: Dataset


def open_data(recipe: Recipe, say: Callable[[str], None]) -> Data:
    """The recipe's data; read into memory where it says so."""
    train = open_dataset(recipe.data, recipe.split)
    whole = isinstance(train.classes, ImageClasses)
    if whole != recipe.classifies:
        raise RecipeError(
            f"data {recipe.data} labels {'whole images' if whole else 'pixels'}, and model "
            f"'{recipe.model}' {'pixels' if whole else 'whole images'}; "
            + ("take one of " + ", ".join(CLASSIFIERS) if whole else "take imagefolder:ROOT")
        )
    evaluation = open_dataset(recipe.eval_data or recipe.data, recipe.eval_split)
    if evaluation.classes.names != train.classes.names:
        raise RecipeError(
            f"data has class table '{train.classes.name}', eval_data '{evaluation.classes.name}'; "
            "they must be the same"
        )
    if recipe.exclude_tune:
        train = without(train, open_dataset(recipe.data, "tune"))
        if not len(train):
            raise TrainingError(f"exclude_tune leaves no frame of {recipe.data} to train on")
    if recipe.eval_frames:
        evaluation = evaluation.spread(recipe.eval_frames)
    if recipe.cache:
        train, evaluation = cached(train, say), cached(evaluation, say)
    return Data(train, evaluation)


@dataclass(frozen=True)
class Opened:
    """A network and its manifest's description; `fresh` if its last layer has not been trained.

    `keep` writes it as a model folder; `beside` are losses beside its own; parameters named in
    `lr_shares` learn at that share of the rate.
    """

    model: Network
    spec: ModelSpec
    fresh: bool
    keep: Callable[[Path, Network, Manifest], object] = save_checkpoint
    beside: tuple[Loss, ...] = ()
    lr_shares: Mapping[str, float] = field(default_factory=dict)


Opener = Callable[[Recipe, ClassTable, Callable[[str], None]], Opened]


def open_model(recipe: Recipe, classes: ClassTable, say: Callable[[str], None]) -> Opened:
    """Fresh weights from the recipe's seed, or those of its `init` folder or .pth file."""
    torch.manual_seed(recipe.seed)
    if recipe.init.endswith(".pth"):
        opened = _open_encoder(recipe, classes, say)
    elif recipe.init:
        opened = _open_init(recipe, classes, say)
    else:
        spec = ModelSpec(recipe.model, recipe.options)
        opened = Opened(build_trainee(spec, len(classes)), spec, fresh=True)
    for size in (recipe.size, *recipe.evaluated):
        check_size(recipe.model, size, opened.model.divisor)
    return dataclasses.replace(opened, beside=open_teacher(recipe, classes, opened.model, say))


def _open_encoder(recipe: Recipe, classes: ClassTable, say: Callable[[str], None]) -> Opened:
    """Fresh weights but those of the encoder, which `init` holds: torchvision's file of it."""
    spec = ModelSpec(recipe.model, recipe.options)
    model = build_trainee(spec, len(classes))
    encoder = getattr(innermost(model), "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise TrainingError(
            f"init {recipe.init}: '{recipe.model}' has no encoder that was trained on ImageNet; "
            "leave init away"
        )
    read_encoder(Path(recipe.init), encoder)
    say(f"init {recipe.init}: {len(encoder.state_dict())} tensors taken into the encoder")
    return Opened(model, spec, fresh=True)


def _open_init(recipe: Recipe, classes: ClassTable, say: Callable[[str], None]) -> Opened:
    """The network of the recipe with the weights of `init`, a folder or a shipped name.

    All of them for the same model on the same classes (a further stage of `+dsrl` adds its
    branches, fresh); else those of the encoder, and what fits of the rest, for which outputs of
    void stay on the same classes; those of a classifier go into the backbones of its DFANet.
    """
    model, bundle = load_checkpoint(weights_folder(recipe.init), build_trainee)
    manifest, spec = bundle.manifest, bundle.manifest.model
    assert spec is not None  # load_checkpoint built the model from it
    mine, theirs = recipe.input, manifest.input
    if (mine.order, mine.mean, mine.std) != (theirs.order, theirs.mean, theirs.std):
        raise TrainingError(
            f"init {recipe.init} expects order '{theirs.order}', mean {list(theirs.mean)}, std "
            f"{list(theirs.std)}; put these into the recipe's [input]"
        )
    if spec.name != recipe.model or manifest.table.names != classes.names:
        same = manifest.table.names == classes.names
        asked = ModelSpec(recipe.model, recipe.options, spec.void_outputs if same else 0)
        grown = build_trainee(asked, len(classes) + asked.void_outputs)
        if isinstance(model, XceptionClassifier) and not recipe.classifies:
            say(start_backbones(model, grown, recipe.model, recipe.init))
        else:
            say(transfer(model, grown, recipe.init))
        return Opened(grown, asked, fresh=True)
    asked = ModelSpec(recipe.model, recipe.options, spec.void_outputs)
    if not recipe.options or asked == spec:
        return Opened(model, spec, fresh=False)
    grown = build_trainee(asked, len(classes) + asked.void_outputs)
    state = model.state_dict()
    fill_weights(grown, _fresh_branches(grown) | state, f"init {recipe.init}")
    return Opened(grown, asked, fresh=False)


def transfer(trained: Network, model: Network, where: str) -> str:
    """Fill the encoder of `model` from `trained`, and what fits of its head; says what stays fresh.

    Both are looked at without their wrappers. TrainingError where the encoders differ.
    """
    theirs, mine = innermost(trained), innermost(model)
    given, own = theirs.state_dict(), mine.state_dict()
    taken = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    fresh = [key for key in own if key not in taken]
    odd = [key for key in fresh if key.partition(".")[0] not in mine.HEAD]
    if odd:
        raise TrainingError(
            f"init {where}: its encoder is not that of the recipe's model: {len(odd)} tensors are "
            f"missing or have another shape (first: '{odd[0]}')"
        )
    mine.load_state_dict(own | taken)
    layers = dict.fromkeys(key.partition(".")[0] for key in fresh)
    left = f"fresh: {', '.join(layers)}" if layers else "the rest is new"
    return f"init {where}: {len(taken)} of {len(own)} tensors taken; {left}"


def _fresh_branches(model: Network) -> dict[str, Tensor]:
    """The random start of the branches that only training needs."""
    if not isinstance(model, Wrapper):
        return {}
    prefixes = tuple(f"{name}." for name in model.branches())
    return {k: v for k, v in model.state_dict().items() if k.startswith(prefixes)}


def check_size(model: str, size: Size, divisor: int) -> None:
    """RecipeError that names the nearest size unless both sides are multiples of `divisor`."""
    if size[0] % divisor or size[1] % divisor:
        height, width = (max(divisor, round(s / divisor) * divisor) for s in size)
        raise RecipeError(
            f"size {format_size(size)} does not fit '{model}': both sides must be multiples of "
            f"{divisor}. Nearest: {height}x{width}"
        )


def loss_weights(
    recipe: Recipe, data: Dataset, known: Tensor | None, say: Callable[[str], None]
) -> Tensor | None:
    """Class weights: `known` ones of a resumed run, or from the training labels."""
    if known is not None:
        return known

    def counts() -> np.ndarray:
        say("counting labels")
        return count_labels((sample.labels for sample in data), len(data.classes))

    return class_weights(recipe.loss, data.classes, counts)


def settle_basis(
    recipe: Recipe,
    opened: Opened,
    data: Data,
    known: dict[str, float] | None,
    say: Callable[[str], None],
) -> dict[str, float] | None:
    """Fill W of DUpsampling from training labels; what it loses of the evaluation's labels.

    A W that was trained with is kept. `known` are the numbers of a resumed run, whose W is in its
    state. None for a network without DUpsampling.
    """
    model, layer = opened.model, opened.model.upsample
    if known is not None or not isinstance(layer, Reconstruct):
        return known
    count = 0
    if opened.fresh:
        say("finding the basis of label patches")
        patches = _label_patches(recipe, data.train, model.scale, layer.factor)
        channels, classes, _, _ = layer.weight.shape
        basis = find_basis(patches, classes, channels, recipe.seed)
        layer.weight.data.copy_(torch.from_numpy(basis.weight))
        count = len(patches)
    size = recipe.evaluated[0]
    placed = (
        prepare_labels(labels, enlarged(place(labels.shape, size, recipe.input.fit), model.scale))
        for labels in (sample.labels for sample in data.evaluation)
    )
    error, bound = measure(layer.weight.detach().numpy(), placed)
    say(f"label patches: reconstruction error {error:.4f}, mIoU* {bound:.2f}")
    return {
        "patch": layer.factor,
        "channels": layer.weight.shape[0],
        "patches": count,
        "reconstruction_error": error,
        "miou_bound": bound,
    }


def _label_patches(recipe: Recipe, data: Dataset, scale: int, r: int) -> np.ndarray:
    """(n, r, r) patches of one random crop of each frame, cut as in training."""
    generator = np.random.default_rng((recipe.seed, len(data)))
    size = (recipe.size[0] * scale, recipe.size[1] * scale)
    fill = recipe.input.fill_rgb
    crops = (crop(sample, size, recipe.augment, fill, generator)[1] for sample in data)
    return collect(crops, r, -(-recipe.dupsample.patches // len(data)), generator)


def check_machine(recipe: Recipe, world: World) -> None:
    """RecipeError for settings that this machine or number of processes can't take."""
    if recipe.batch % world.size:
        raise RecipeError(
            f"batch is {recipe.batch} for all processes together; it can't be shared by "
            f"{world.size} processes"
        )
    if world.device.type != "cuda":
        for key, wrong in (("amp = 'fp16'", recipe.amp == "fp16"), ("sync_bn", recipe.sync_bn)):
            if wrong:
                raise RecipeError(f"{key} needs CUDA; this run is on the {world.device.type}")


def check_batch(recipe: Recipe, model: Network, world: World) -> None:
    """RecipeError for fewer frames on a process than the network can normalise."""
    frames = recipe.batch // world.size
    if frames < model.least_batch and not recipe.freeze_bn:
        raise RecipeError(
            f"batch gives each process {frames} frame; '{recipe.model}' normalises the mean of a "
            f"whole frame, which takes {model.least_batch}: raise batch, or set freeze_bn"
        )


def describe(recipe: Recipe, classes: ClassTable, spec: ModelSpec, step: int) -> Manifest:
    """The manifest of a checkpoint after `step` steps."""
    given = recipe.input
    kind = recipe.data.partition(":")[0]
    weights = WeightsSpec(
        recipe.weights.data or f"{kind} {recipe.split}",
        recipe.weights.licence,
        recipe.weights.source,
    )
    inputs = InputSpec(
        given.order, given.mean, given.std, given.fit, given.fill, recipe.evaluated[0]
    )
    history = f"edgeseg train: recipe {recipe.digest()}, step {step} of {recipe.steps}"
    return Manifest(
        "checkpoint",
        recipe.model,
        classes.to_dict(),
        inputs,
        model=spec,
        weights=weights,
        history=(history,),
    )
