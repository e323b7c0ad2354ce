"""The published ESPNetv2 files on the Cityscapes frames that they were trained on.

The numbers are those that these commands print, S being the width and SIZE the file's:

    edgeseg convert --model espnetv2_sS --weights espnetv2_s_S_city_WIDTHxHEIGHT.pth \
        --preset espnetv2-cityscapes --size SIZE --out DIR
    edgeseg eval DIR --data cityscapes:PATH --split train --labels-at network
"""

from __future__ import annotations

import pytest
import torch

from edgeseg.benchmarks.accuracy import evaluate
from edgeseg.bundle import InputSpec, WeightsSpec
from edgeseg.dataset import open_dataset
from edgeseg.models.presets import PRESETS
from edgeseg.pipeline.model import convert, open_model
from edgeseg.runtime.engine import EngineOptions

pytestmark = pytest.mark.golden

# fmt: off
EXPECTED = {
    # s, height  pixel accuracy, mIoU over the 16 classes present
    ("0.5",  256): (92.83, 46.60),
    ("0.5",  512): (93.86, 50.41),
    ("1.0",  256): (93.62, 49.86),
    ("1.0",  512): (95.04, 54.64),
    ("1.5",  256): (93.72, 49.25),
    ("1.5",  512): (95.85, 62.73),
    ("2.0",  256): (92.72, 45.62),
    ("2.0",  512): (95.97, 62.44),
}
# fmt: on


TESTED = [key for key in EXPECTED if key[1] == 256 or key[0] == "1.0"]
"""Not all of the slow ones: CI has to be quick."""


@pytest.mark.parametrize(("s", "height"), TESTED)
def test_published_files(s, height, tmp_path, published_weights, cityscapes_samples):
    name = f"espnetv2_s_{s}_city_{2 * height}x{height}.pth"
    weights = published_weights / "espnetv2" / name
    preset = PRESETS["espnetv2-cityscapes"]
    assert (preset.order, preset.divide) == ("rgb", 1.0)
    convert(
        f"espnetv2_s{s}",
        weights,
        tmp_path / "model",
        spec=InputSpec("rgb", preset.mean, preset.std, size=(height, 2 * height)),
        classes=preset.classes,
        options=preset.options,
        void_outputs=preset.void_outputs,
        origin=WeightsSpec(preset.data, preset.licence, preset.source),
    )
    dataset = open_dataset(f"cityscapes:{cityscapes_samples}", "train")
    options = EngineOptions(torch.get_num_threads())
    with open_model(str(tmp_path / "model"), size=None, fit=None, options=options) as segmenter:
        result = evaluate(segmenter, dataset, at="network")
    accuracy, miou = EXPECTED[s, height]
    assert result.pixel_accuracy == pytest.approx(accuracy, abs=0.02)
    assert result.miou == pytest.approx(miou, abs=0.05)
    assert sum(iou is not None for iou in result.per_class.values()) == 16
