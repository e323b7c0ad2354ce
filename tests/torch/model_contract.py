"""What must hold for every model, wrapped ones too: a class that inherits `ModelContract`."""

from __future__ import annotations

import copy
import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.calibration.observe import Observer
from edgeseg.export.simplify import simplify
from edgeseg.export.to_onnx import to_onnx
from edgeseg.graph import convolutions
from edgeseg.labels import CLASS_TABLES
from edgeseg.models import MODELS, WRAPPERS, split_name
from edgeseg.models.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import Network, build_model
from edgeseg.models.work import count_macs
from edgeseg.training.onnx_module import OnnxModule, untied
from edgeseg.training.patches import find_basis

SIZE = (64, 128)
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


def eight_images(scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(8, 3, 64, 64) and (8, s 64, s 64): coloured quarters of four classes in eight orders."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(8)])
    cells = orders.view(8, 2, 2)
    labels = cells.repeat_interleave(32 * scale, 1).repeat_interleave(32 * scale, 2)
    colours = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0], [-2.0, -2.0, -2.0]])
    small = cells.repeat_interleave(32, 1).repeat_interleave(32, 2)
    return colours[small].permute(0, 3, 1, 2).contiguous(), labels


def fill_basis(layer: Reconstruct, labels: torch.Tensor) -> None:
    """Find W from the patches of the labels, as training does from random crops."""
    channels, classes, r, _ = layer.weight.shape
    shifts = itertools.product(range(0, r, r // 4), repeat=2)
    labels = torch.cat([labels.roll(shift, (1, 2)) for shift in shifts])
    patches = labels.unfold(1, r, r).unfold(2, r, r).reshape(-1, r, r).numpy()
    basis = find_basis(patches.astype("uint8"), classes, channels, seed=0)
    layer.weight.data.copy_(torch.from_numpy(basis.weight))


class ModelContract:
    """Tests that each row of MODELS inherits, and each kind of wrapped network."""

    name: str
    options: ClassVar[dict[str, object]] = {}
    """What makes a large network narrow enough for a test."""
    rate = 0.01
    steps = 40
    """In so many steps of this learning rate eight images are known by heart."""
    frozen: tuple[str, ...] = ()
    """Parameters that training does not touch."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Network:
        return seeded(cls.name, **cls.options)

    @property
    def manifest(self) -> Manifest:
        spec = ModelSpec(self.name, dict(self.options), 1)
        return Manifest("checkpoint", self.name, CLASSES.to_dict(), SPEC, model=spec)

    @pytest.mark.parametrize("multiple", [(1, 1), (8, 12), (4, 1), (5, 7)])
    def test_logits_are_of_the_images_size(self, model, multiple):
        size = (multiple[0] * model.divisor, multiple[1] * model.divisor)
        with torch.inference_mode():
            logits = model(images(2, 3, *size))
        assert logits.shape == (2, 12, model.scale * size[0], model.scale * size[1])
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()

    def test_two_classes_are_enough(self):
        model = build_model(ModelSpec(self.name, dict(self.options)), 2).eval()
        with torch.inference_mode():
            assert model(images(1, 3, *SIZE)).shape[1] == 2

    def test_forward_is_upsample_of_scores(self, model):
        image = images(1, 3, *SIZE)
        with torch.inference_mode():
            assert torch.equal(model(image), model.upsample(model.scores(image)))

    def test_frames_of_a_batch_do_not_touch(self, model):
        batch = images(3, 3, *SIZE)
        with torch.inference_mode():
            together = model(batch)
            alone = torch.cat([model(image[None]) for image in batch])
        assert (together - alone).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))

    def test_every_parameter_gets_a_gradient(self):
        model = seeded(self.name, **self.options).train()
        outputs = model(images(2, 3, *SIZE))
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        sum((x * images(*x.shape, seed=1)).sum() for x in outputs.values()).backward()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == list(self.frozen)

    def test_every_parameter_is_trained(self, model):
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert frozen == list(self.frozen)

    def test_it_learns_eight_images_by_heart(self):
        torch.manual_seed(0)
        model = build_model(ModelSpec(self.name, dict(self.options)), 4).train()
        pictures, labels = eight_images(model.scale)
        if isinstance(model.upsample, Reconstruct):
            fill_basis(model.upsample, labels)
        optimizer = torch.optim.AdamW(model.parameters(), self.rate)
        right = []
        while len(right) < self.steps and not (right and right[-1] > 0.9):
            outputs = model(pictures)
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right.append(float((logits.argmax(1) == labels).float().mean()))
        assert right[-1] > 0.9, right

    def test_the_exported_graph_has_one_output_and_can_be_trained(self, model, tmp_path):
        """QAT reads it back into torch: the same scores, and a gradient for all that is learned."""
        save_checkpoint(tmp_path / "model", model, self.manifest)
        side = model.divisor
        graph = to_onnx(
            tmp_path / "model", size=(side, 2 * side), batch=1, order="rgb", scores=False
        )
        (output,) = graph.model.graph.output
        shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        assert shape == [1, model.scale * side, model.scale * 2 * side]
        assert output.type.tensor_type.elem_type == TensorProto.UINT8
        floats = simplify(graph.model)
        (argmax,) = [n for n in floats.graph.node if n.op_type == "ArgMax"]
        scores = argmax.input[0]
        pixels = np.random.default_rng(0).integers(0, 256, (2, side, 2 * side, 3)).astype(np.uint8)
        observer = Observer(floats, [scores])
        wanted = np.concatenate([observer.run(image[None])[scores] for image in pixels])
        module = OnnxModule(untied(floats), scores).to(memory_format=torch.channels_last)
        found = module(torch.from_numpy(pixels).float())
        assert np.abs(found.detach().numpy() - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
        found.square().mean().backward()
        learned = {n.input[1] for n in convolutions(floats)}
        assert sum(p.ndim == 4 for p in module.parameters()) == len(learned)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    @pytest.mark.parametrize("kept", [11, 1])
    def test_cut_keeps_exactly_the_first_outputs(self, model, kept):
        cut = copy.deepcopy(model)
        cut.cut(kept)
        image = images(1, 3, *SIZE)
        with torch.inference_mode():
            whole, part = model(image), cut(image)
        assert part.shape == (1, kept, model.scale * SIZE[0], model.scale * SIZE[1])
        limit = 1e-5 * max(1.0, float(whole.abs().max()))
        assert torch.allclose(part, whole[:, :kept], rtol=0, atol=limit)
        assert cut.upsample(cut.scores(image)).shape[1] == kept

    def test_a_checkpoint_gives_the_same_logits(self, model, tmp_path):
        save_checkpoint(tmp_path / "model", model, self.manifest)
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
        assert {"add", "batch_norm"} & set(uncounted)
        assert not {"_convolution", "convolution"} & set(uncounted)

    def test_the_row_names_its_paper(self):
        host, wrappers = split_name(self.name)
        assert "arXiv" in MODELS[host].paper
        assert all("CVPR" in WRAPPERS[wrapper].paper for wrapper in wrappers)
