"""Frames -> batches, in an order that depends on seed and step only.

Neither the number of workers nor of processes changes which frames step k sees or how they are
cropped, so a resumed run goes on exactly where it was.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import EdgesegError, TrainingError
from edgeseg.frame import resize_image
from edgeseg.training.augment import crop, resized_crop
from edgeseg.training.perturb import coarse_mask
from edgeseg.training.plan import Input, Recipe

Key = tuple[int, int]
"""(epoch, index of the frame)."""


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, H, W) float32 normalised, labels (N, s H, s W) int64, names of the frames.

    For refiners the images have a fourth channel, a coarse mask from -1 to 1, and labels are 1, 0.

    s is the model's `scale`; labels of whole images are (N, 1, 1). `sharp` are the images at the
    size of the labels, where asked for, in units of ImageNet's mean and standard deviation whatever
    the network's own are: a squared error then weighs the same for every network.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    sharp: Tensor | None = None


@dataclass(frozen=True)
class Crops:
    """What the loader hands over: images (N, H, W, 3) uint8, labels (N, s H, s W) uint8, names.

    Labels of whole images are (N, 1, 1) int64. With a coarse mask (255 inside) images are
    (N, H, W, 4).

    `sharp` are the images at the size of the labels, (N, s H, s W, 3) uint8, where asked for.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    sharp: Tensor | None = None

    def pin_memory(self) -> Crops:
        """The same in page-locked memory (the loader calls it)."""
        sharp = None if self.sharp is None else self.sharp.pin_memory()
        return Crops(self.images.pin_memory(), self.labels.pin_memory(), self.names, sharp)


@dataclass
class Order:
    """Which frames step k sees: epochs are seeded permutations laid end to end.

    Process `rank` of `world` takes its consecutive part of every batch.
    """

    frames: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1
    _epochs: dict[int, np.ndarray] = field(default_factory=dict)

    def keys(self, step: int) -> list[Key]:
        """(epoch, frame) of this process's part of the batch of `step` (0 is the first)."""
        part = self.batch // self.world
        first = step * self.batch + self.rank * part
        return [self._key(position) for position in range(first, first + part)]

    def _key(self, position: int) -> Key:
        epoch, place = divmod(position, self.frames)
        if epoch not in self._epochs:
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            generator = np.random.default_rng((self.seed, epoch))
            self._epochs[epoch] = generator.permutation(self.frames)
        return epoch, int(self._epochs[epoch][place])


class Steps(Sampler[list[Key]]):
    """The keys of steps `start` to `stop` (excluded)."""

    def __init__(self, order: Order, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.order.keys(step) for step in range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Asked:
    """What a model asks of its crops: labels `scale` times the size; `sharp` images beside them."""

    scale: int = 1
    sharp: bool = False


@dataclass(frozen=True)
class Item:
    """One crop: (h, w, 3) uint8 image, (s h, s w) uint8 labels, (s h, s w, 3) uint8 sharp image.

    The label of a whole image is (1, 1) int64. With a coarse mask the image is (h, w, 4).
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    sharp: np.ndarray | None


class RandomCrops(TorchDataset[Item | EdgesegError]):
    """Key -> Item: the random values are a function of (seed, epoch, frame).

    A crop is made at the size of the labels; the image for the network is that one made smaller as
    the runtime would do it. An error is handed over as a value: a worker process would wrap it in
    its traceback.
    """

    def __init__(self, data: Dataset, recipe: Recipe, asked: Asked = Asked()) -> None:
        self.data, self.recipe, self.asked = data, recipe, asked

    def __getitem__(self, key: Key) -> Item | EdgesegError:
        epoch, index = key
        recipe = self.recipe
        generator = np.random.default_rng((recipe.seed, epoch, index))
        try:
            sample = self.data[index]
        except EdgesegError as error:
            return error
        if recipe.classifies:
            image = resized_crop(sample.image, recipe.size, recipe.augment, generator)
            return Item(sample.name, image, sample.labels, None)
        height, width = recipe.size
        large = (height * self.asked.scale, width * self.asked.scale)
        sharp, labels = crop(sample, large, recipe.augment, recipe.input.fill_rgb, generator)
        if recipe.refines:
            truth, mask = coarse_mask(labels, recipe.refine.iou, generator)
            return Item(sample.name, np.concatenate([sharp, mask[..., None]], 2), truth, None)
        image = sharp if large == recipe.size else resize_image(sharp, recipe.size)
        return Item(sample.name, image, labels, sharp if self.asked.sharp else None)


def load(
    data: Dataset,
    recipe: Recipe,
    order: Order,
    start: int,
    *,
    pin: bool,
    asked: Asked = Asked(),
) -> Iterator[Crops]:
    """The batches of steps `start` to the recipe's last."""
    loader = DataLoader(
        RandomCrops(data, recipe, asked),
        batch_sampler=Steps(order, start, recipe.steps),
        collate_fn=_collate,
        num_workers=recipe.workers,
        worker_init_fn=_leave_signals,
        pin_memory=pin,
        multiprocessing_context="fork" if recipe.workers else None,
    )
    try:
        for crops in loader:
            if isinstance(crops, EdgesegError):
                raise crops
            yield crops
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that prepares crops was lost ({str(error).rstrip('. ')}). If memory ran "
            "out, lower workers or cache; go on with --resume"
        ) from error


def _collate(items: list[Item | EdgesegError]) -> Crops | EdgesegError:
    good: list[Item] = []
    for item in items:
        if isinstance(item, EdgesegError):
            return item
        good.append(item)
    images = torch.from_numpy(np.stack([item.image for item in good]))
    labels = torch.from_numpy(np.stack([item.labels for item in good]))
    sharp = [item.sharp for item in good if item.sharp is not None]
    names = tuple(item.name for item in good)
    return Crops(images, labels, names, torch.from_numpy(np.stack(sharp)) if sharp else None)


def _leave_signals(worker: int) -> None:
    """Ctrl-C is the main process's to handle; SIGTERM ends a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def normalise(images: Tensor, spec: Input, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 on `device`: (pixel - mean) / std.

    Channels come in the order of `spec`; in memory they stay the innermost (channels-last). A
    fourth one is a mask: 0 to 255 becomes -1 to 1.
    """
    given = images.to(device, non_blocking=True)
    pixels = given[..., :3]
    if spec.order == "bgr":
        pixels = pixels.flip(3)
    scaled = (pixels.float() - torch.tensor(spec.mean, device=device)) / torch.tensor(
        spec.std, device=device
    )
    if given.shape[3] > 3:
        scaled = torch.cat([scaled, given[..., 3:].float() / 127.5 - 1], 3)
    return scaled.permute(0, 3, 1, 2)


def cached(data: Dataset, say: Callable[[str], None]) -> Dataset:
    """The same data set, read once and kept in memory; forked workers share it."""
    samples: list[Sample] = []
    for sample in data:
        samples.append(sample)
        say(f"reading frame {len(samples)}/{len(data)}")
    return Dataset(data.source, data.split, data.classes, data.names, samples.__getitem__)


def without(data: Dataset, other: Dataset) -> Dataset:
    """`data` less the frames whose names `other` has."""
    left_out = set(other.names)
    return data.subset([i for i, name in enumerate(data.names) if name not in left_out])
