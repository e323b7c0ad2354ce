"""Training keypoint heatmaps on drawn persons, with and without DSRL's branches.

The recipe, the step and the losses of the branches are those of labels; data, loss and score are
others. Whatever a network's resolution, joints are placed and scored at twice that of its input.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeseg.dataset.persons import JOINTS, draw_person
from edgeseg.errors import RecipeError
from edgeseg.frame import resize_image
from edgeseg.models import split_name
from edgeseg.models.dsrl import DSRL, Options
from edgeseg.models.keypoints import Keypoints
from edgeseg.models.network import Network
from edgeseg.models.work import count_macs
from edgeseg.recipe import from_table
from edgeseg.training.batches import Batch, Crops, normalise
from edgeseg.training.branches import Joint, asked_of_crops, branch_losses
from edgeseg.training.distributed import join
from edgeseg.training.losses import Term
from edgeseg.training.plan import Recipe
from edgeseg.training.start import check_machine, check_size
from edgeseg.training.step import Stepper

SIGMA = 4.0
"""Of a target's Gaussian, in pixels at twice the input's resolution."""
FOREGROUND = 20.0
"""What the error at a joint weighs beside that of the background, which is nearly all there is."""
PERSONS = 500
"""Scored where the recipe's eval_frames does not say."""
TRAIN, SCORED = 0, 1
"""What the seeds of persons begin with, so that none is in both."""
TORSO = JOINTS.index("neck"), JOINTS.index("hip")
DATA = "persons:"
"""The recipe's data: there are no others."""
USED = (
    "model", "data", "size", "steps", "batch", "options", "freeze_bn", "seed", "ema", "amp",
    "channels_last", "device", "log_every", "eval_frames", "input", "optimizer", "schedule", "dsrl",
)  # fmt: skip
"""Keys of a recipe that keypoints are trained by."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A run: its network as deployed, work of one frame, time, and (persons, joints) distances.

    Distances are in torsos, neck to hip, of each person.
    """

    network: Network
    params: int
    macs: int
    seconds: float
    distances: np.ndarray


def build(recipe: Recipe) -> Network:
    """The recipe's model with heatmaps for a head, inside of DSRL where the name says so."""
    _check(recipe)
    host, wrappers = split_name(recipe.model)
    if wrappers not in ((), ("dsrl",)):
        raise RecipeError(
            f"model is '{recipe.model}'; keypoints take a host alone or '{host}+dsrl'"
        )
    torch.manual_seed(recipe.seed)
    network: Network = Keypoints(len(JOINTS), host)
    if wrappers:
        options = from_table(Options, recipe.options.get("dsrl", {}), "options of 'dsrl'")
        network = DSRL(network, len(JOINTS), options)
    check_size(recipe.model, recipe.size, network.divisor)
    return network


def _check(recipe: Recipe) -> None:
    """RecipeError for what would be ignored: persons are drawn, heatmaps have their own loss."""
    if recipe.data != DATA:
        raise RecipeError(f"data is '{recipe.data}'; keypoints are learned on '{DATA}'")
    plain = Recipe(recipe.model, DATA, recipe.size, recipe.steps, recipe.batch)
    for key in (field.name for field in dataclasses.fields(Recipe)):
        if key not in USED and getattr(recipe, key) != getattr(plain, key):
            raise RecipeError(f"{key} does nothing for keypoints; leave it away")


def train(recipe: Recipe, say: Say) -> Trained:
    """Train by `recipe`, and find the joints of persons that were not trained on."""
    world = join(recipe.device)
    check_machine(recipe, world)
    network = build(recipe)
    loss = Joint([heatmap_error, *branch_losses(recipe.dsrl, network)])
    stepper = Stepper(recipe, world, network, loss)
    stepper.connect()
    sharp = asked_of_crops(network).sharp
    began = time.monotonic()
    for step in range(recipe.steps):
        seeds = [(TRAIN, recipe.seed, step, i) for i in range(recipe.batch)]
        found = stepper.train(step, draw(recipe, seeds, sharp=sharp))
        if (step + 1) % recipe.log_every == 0:
            terms = ", ".join(f"{name} {value:.3f}" for name, value in found.terms.items())
            say(f"step {step + 1} of {recipe.steps}: {terms}")
    seconds = time.monotonic() - began
    best = stepper.average.model
    best.deploy()
    params = sum(p.numel() for p in best.parameters())
    macs, _ = count_macs(best.cpu(), recipe.size)
    return Trained(best, params, macs, seconds, score(best, recipe))


def draw(recipe: Recipe, seeds: Sequence[tuple[int, ...]], *, sharp: bool) -> Crops:
    """Persons at twice the recipe's size, and halved by area as the network's input.

    `labels` are the joints, (N, joints, 2) int64 pixels of the larger picture as (row, column).
    """
    height, width = recipe.size
    pairs = [draw_person(seed, (2 * height, 2 * width)) for seed in seeds]
    small = np.stack([resize_image(picture, recipe.size) for picture, _ in pairs])
    large = torch.from_numpy(np.stack([picture for picture, _ in pairs])) if sharp else None
    joints = torch.from_numpy(np.stack([joints for _, joints in pairs]))
    names = tuple("person-" + "-".join(map(str, seed)) for seed in seeds)
    return Crops(torch.from_numpy(small), joints, names, large)


def heatmap_error(outputs: Tensor | dict[str, Tensor], batch: Batch) -> dict[str, Term]:
    """{"heatmaps": term}: squared error over the targets' own squares; 1 is to say nothing.

    Targets are Gaussians at the joints, at the resolution of the network's heatmaps. Both squares
    weigh 1 + FOREGROUND times the target: without it a network says nothing for hundreds of steps.
    """
    found = (outputs["logits"] if isinstance(outputs, dict) else outputs).float()
    wanted = targets(batch.labels, (found.shape[2], found.shape[3]), batch.images.shape[2])
    weight = 1 + FOREGROUND * wanted
    error = (weight * (found - wanted).square()).sum()
    return {"heatmaps": Term(error, (weight * wanted.square()).sum())}


def targets(joints: Tensor, size: tuple[int, int], height: int) -> Tensor:
    """(N, K, 2) pixels at twice an input's `height` -> (N, K, *size) Gaussians, at most 1."""
    factor = size[0] / (2 * height)
    places = (joints + 0.5) * factor - 0.5
    rows, columns = (torch.arange(side, device=joints.device) for side in size)
    down = (rows - places[..., :1]).square()
    across = (columns - places[..., 1:]).square()
    return torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * (SIGMA * factor) ** 2))


@torch.inference_mode()
def score(network: Network, recipe: Recipe) -> np.ndarray:
    """(persons, joints): how far from its place each joint is found, in torsos."""
    network.eval()
    found = []
    for index in range(recipe.eval_frames or PERSONS):
        crops = draw(recipe, [(SCORED, index)], sharp=False)
        heatmaps = network(normalise(crops.images, recipe.input, torch.device("cpu")))
        found.append(distances(locate(heatmaps, recipe.size), crops.labels))
    return np.concatenate(found)


def locate(heatmaps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, K, h, w) -> (N, K, 2): where each is highest, at twice an input's `size`."""
    large = (2 * size[0], 2 * size[1])
    full = functional.interpolate(heatmaps, large, mode="bilinear", align_corners=False)
    highest = full.flatten(2).argmax(2)
    return torch.stack((highest // large[1], highest % large[1]), 2)


def distances(found: Tensor, joints: Tensor) -> np.ndarray:
    """(N, K, 2) pixels, found and true -> (N, K), over each person's neck to hip."""
    torso = (joints[:, TORSO[0]] - joints[:, TORSO[1]]).float().norm(dim=1)
    away: np.ndarray = ((found - joints).float().norm(dim=2) / torso[:, None]).numpy()
    return away
