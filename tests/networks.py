"""Tiny checkpoints and frames: export and pipeline are tested without training or downloads."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgeseg
from edgeseg.bundle import Bundle, InputSpec, Manifest, ModelSpec, WeightsSpec, read_bundle
from edgeseg.dataset import Dataset, Sample
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import Network, build_model
from edgeseg.pipeline.floats import FloatNetwork, make_float
from edgeseg.pipeline.plan import Source
from edgeseg.runtime.engine import EngineOptions, open_engine

SIZE = (64, 96)
CLASSES = CLASS_TABLES["camvid11"]
SPEC = InputSpec("rgb", (120.0, 110.0, 100.0), (70.0, 71.0, 72.0), fill=(120, 110, 100), size=SIZE)


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Engines and torch see one core, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda _: {0})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def seeded(spec: ModelSpec, outputs: int = 12, seed: int = 0) -> Network:
    """Fresh weights; normalisations as of a trained network, and labels of many classes."""
    torch.manual_seed(seed)
    model = build_model(spec, outputs)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(0.05, 0.4)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # running means and variances that belong to the weights
            model(torch.from_numpy(_normal(4)))
        void_wins(model)
    return model.eval()


def void_wins(model: Network) -> None:
    """Make the last output, void, the largest nearly everywhere: its labels must not be seen.

    Its weights point along the mean of the features that they are multiplied with.
    """
    last = model.upsample if isinstance(model.upsample, torch.nn.ConvTranspose2d) else None
    weight = model.classifier.weight if last is None else last.weight.transpose(0, 1)
    image = torch.from_numpy(_normal(4))
    model.eval()
    before = model.encoder(image)[-1] if last is None else model.scores(image)
    typical = before.mean((0, 2, 3))
    weight[-1] = (100 * typical / typical.square().sum()).reshape(-1, 1, 1)


@cache
def _normal(count: int) -> np.ndarray:
    images = np.stack([blobs(1000 + i)[0] for i in range(count)]).astype(np.float32)
    normal = (images - np.array(SPEC.mean, np.float32)) / np.array(SPEC.std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def checkpoint(
    folder: Path,
    name: str = "espnetc_q3",
    *,
    spec: InputSpec = SPEC,
    model: Network | None = None,
    data: str = "camvid train",
    **options: object,
) -> Bundle:
    """A checkpoint folder with 11 classes and void behind them."""
    built = ModelSpec(name, {"p": 1, **options}, void_outputs=1)
    manifest = Manifest(
        "checkpoint", f"tiny {name}", CLASSES.to_dict(), spec, model=built,
        weights=WeightsSpec(data, "none", "fresh"),
    )  # fmt: skip
    return save_checkpoint(folder, model or seeded(built), manifest)


def blobs(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours with noise, (H, W, 3) uint8; labels that follow their brightness."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (size[0] // 8 + 2, size[1] // 8 + 2, 3))
    y = np.linspace(0, coarse.shape[0] - 1.01, size[0])
    x = np.linspace(0, coarse.shape[1] - 1.01, size[1])
    top, left = y.astype(int), x.astype(int)
    v, u = (y - top)[:, None, None], (x - left)[None, :, None]
    rows = coarse[top] * (1 - v) + coarse[top + 1] * v
    smooth = rows[:, left] * (1 - u) + rows[:, left + 1] * u
    image = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    labels = (smooth.mean(2) / 256 * 11).astype(np.uint8)
    labels[: size[0] // 16] = IGNORE
    return image, labels


def frames(count: int = 20, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Dataset:
    """A data set in memory with camvid11's classes."""

    def read(index: int) -> Sample:
        return Sample(f"blob-{index}", *blobs(seed + index, size))

    names = tuple(f"blob-{i}" for i in range(count))
    return Dataset("blobs:memory", "train", CLASSES, names, read)


def silent(line: str) -> None:
    pass


def labels_of(folder: Path, inputs: np.ndarray, batch: int = 1) -> np.ndarray:
    """(N, H, W, 3) network inputs -> labels by the folder's own engine, scores decoded."""
    bundle = read_bundle(folder)
    assert bundle.manifest.target is not None
    single = dataclasses.replace(bundle.manifest.input, batch=1)
    relaxed = Bundle(folder, dataclasses.replace(bundle.manifest, input=single))
    engine = open_engine(bundle.manifest.target.name, bundle, EngineOptions(threads=1))
    segmenter = edgeseg.Segmenter(engine, relaxed, frames=single.order)
    results = [
        segmenter.decode(engine.infer(np.ascontiguousarray(inputs[i : i + batch])))
        for i in range(0, len(inputs), batch)
    ]
    return np.concatenate(results)


class Networks:
    """Float networks by what was asked, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[tuple[object, ...], FloatNetwork] = {}

    def checkpoint(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            checkpoint(folder, name)
        return folder

    def get(self, name: str = "espnetc_q3", **asked: object) -> FloatNetwork:
        key = (name, *sorted(asked.items()))
        if key not in self.made:
            source = Source(str(self.checkpoint(name)), **asked)  # type: ignore[arg-type]
            self.made[key] = make_float(source, frames(), silent)
        return self.made[key]


def camvid(root: Path, *, train: int = 40, val: int = 4) -> Path:
    """A folder of blobs as CamVid's are laid out."""
    for split, count, first in (("train", train, 0), ("val", val, 700)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for index in range(count):
            image, labels = blobs(first + index)
            labels[labels == IGNORE] = 11
            Image.fromarray(image).save(root / split / f"{index:03d}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{index:03d}.png")
    return root
