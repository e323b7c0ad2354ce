from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.labels import CLASS_TABLES

SIZE = (48, 64)


@pytest.fixture
def one_thread():
    """Torch takes one thread: runs are the same to the bit, and share the machine with others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def streets(tmp_path_factory) -> Path:
    """A CamVid-like set: bands of sky, building and road in their colours, some void at random."""
    root = tmp_path_factory.mktemp("streets")
    generator = np.random.default_rng(7)
    for split, count in (("train", 10), ("val", 5)):
        images, annotations = root / split, root / f"{split}annot"
        images.mkdir()
        annotations.mkdir()
        for index in range(count):
            image, labels = _street(generator)
            drive = "0001TP" if index % 5 == 0 else "0006R0"
            Image.fromarray(image).save(images / f"{drive}_{index:03d}.png")
            Image.fromarray(labels).save(annotations / f"{drive}_{index:03d}.png")
    return root


def _street(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = SIZE
    labels = np.full(SIZE, 3, np.uint8)
    horizon = int(generator.integers(16, 28))
    labels[:horizon] = 1
    labels[: horizon // 2] = 0
    palette = CLASS_TABLES["camvid11"].colours()
    noise = generator.integers(-20, 20, (height, width, 3))
    image = np.clip(palette[labels] + noise, 0, 255).astype(np.uint8)
    labels[:, : int(generator.integers(1, 40))] = 11
    return image, labels


RECIPE = """
model = "espnetc_q3"
data = "camvid:{data}"
size = [32, 64]
steps = {steps}
batch = 4
save_every = 4
log_every = 2
seed = 3
[optimizer]
lr = 0.05
clip = 5.0
[schedule]
name = "onecycle"
[loss]
weights = "enet"
[augment]
scale = [0.7, 1.5]
brightness = 0.2
contrast = 0.2
saturation = 0.2
"""


@pytest.fixture
def recipe_file(tmp_path, streets):
    """A function that writes a tiny recipe and returns its path."""

    def write(steps: int = 12, extra: str = "") -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(extra + RECIPE.format(data=streets, steps=steps))
        return path

    return write
