"""What must hold for every model: a row of MODELS is a class that inherits `ModelContract`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.export.to_onnx import count_macs
from edgeseg.labels import CLASS_TABLES
from edgeseg.models import MODELS
from edgeseg.models.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.models.network import Network, build_model

SIZE = (64, 96)
CLASSES = CLASS_TABLES["camvid11"]
SPEC = InputSpec("rgb", (110.0, 100.0, 90.0), (60.0, 61.0, 62.0), size=(32, 48))


def seeded(name: str, outputs: int = 12, seed: int = 0, **options: object) -> Network:
    """A model whose normalisations hold no zeros and ones, as a trained one's do not."""
    torch.manual_seed(seed)
    model = build_model(ModelSpec(name, dict(options)), outputs)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                tensor.data.uniform_(low, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(0.05, 0.4, generator=generator)
    return model.eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ModelContract:
    """Tests that each row of MODELS inherits."""

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Network:
        return seeded(cls.name)

    @pytest.mark.parametrize("multiple", [(1, 1), (8, 12), (4, 1), (5, 7)])
    def test_logits_are_of_the_images_size(self, model, multiple):
        size = (multiple[0] * model.divisor, multiple[1] * model.divisor)
        with torch.inference_mode():
            logits = model(images(2, 3, *size))
        assert logits.shape == (2, 12, *size)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()

    def test_forward_is_upsample_of_scores(self, model):
        image = images(1, 3, *SIZE)
        with torch.inference_mode():
            assert torch.equal(model(image), model.upsample(model.scores(image)))

    def test_frames_of_a_batch_do_not_touch(self, model):
        batch = images(3, 3, *SIZE)
        with torch.inference_mode():
            together = model(batch)
            alone = torch.cat([model(image[None]) for image in batch])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_every_parameter_gets_a_gradient(self):
        model = seeded(self.name).train()
        logits = model(images(2, 3, 64, 96))
        weight = images(*logits.shape, seed=1)
        (logits * weight).sum().backward()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []

    def test_every_parameter_is_trained(self, model):
        assert all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize("kept", [11, 1])
    def test_cut_keeps_exactly_the_first_outputs(self, model, kept):
        cut = copy.deepcopy(model)
        cut.cut(kept)
        image = images(1, 3, *SIZE)
        with torch.inference_mode():
            whole, part = model(image), cut(image)
        assert part.shape == (1, kept, *SIZE)
        assert torch.allclose(part, whole[:, :kept], rtol=0, atol=1e-5)
        assert cut.upsample(cut.scores(image)).shape[1] == kept

    def test_a_checkpoint_gives_the_same_logits(self, model, tmp_path):
        manifest = Manifest(
            "checkpoint", self.name, CLASSES.to_dict(), SPEC, model=ModelSpec(self.name, {}, 1)
        )
        save_checkpoint(tmp_path / "model", model, manifest)
        again, bundle = load_checkpoint(tmp_path / "model")
        assert not again.training
        image = images(1, 3, *SIZE)
        with torch.inference_mode():
            assert torch.equal(model(image), again(image))
        assert bundle.manifest.params == sum(p.numel() for p in model.parameters())
        state = model.state_dict()
        assert list(state) == list(again.state_dict())

    def test_macs_are_those_of_torchs_own_counter(self, model):
        with torch.inference_mode(), FlopCounterMode(display=False) as torchs:
            model(torch.zeros(1, 3, *SIZE))
        macs, uncounted = count_macs(model, SIZE)
        assert 2 * macs == torchs.get_total_flops() > 0
        assert {"add", "batch_norm"} <= set(uncounted)
        assert not {"_convolution", "convolution"} & set(uncounted)

    def test_the_row_names_its_paper(self):
        assert "arXiv" in MODELS[self.name].paper
