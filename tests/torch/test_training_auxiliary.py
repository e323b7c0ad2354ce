"""Auxiliary losses, a learning rate of the head's own, and encoders from torchvision's files."""

from __future__ import annotations

import pytest
import torch

from edgeseg.bundle import ModelSpec
from edgeseg.errors import RecipeError, TrainingError, WeightsError
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.network import build_model
from edgeseg.models.resnet import ResNet
from edgeseg.models.wrapper import innermost
from edgeseg.training.batches import Batch
from edgeseg.training.branches import Auxiliary, build_loss
from edgeseg.training.distributed import World
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.optimizer import parameter_groups
from edgeseg.training.plan import LossPlan, Optimizer, Recipe
from edgeseg.training.start import check_batch, open_model

pytestmark = pytest.mark.torch

NARROW = {"width": 0.125}
CAMVID = CLASS_TABLES["camvid11"]


def recipe(model="pspnet_r18", options=NARROW, **changes) -> Recipe:
    return Recipe(model, "camvid:x", (64, 64), 2, changes.pop("batch", 2), dict(options), **changes)


def batch(labels: torch.Tensor) -> Batch:
    return Batch(torch.zeros(0), labels, ("a",), None)


# The loss


def test_each_head_is_told_the_labels():
    """Two classes, scores 0: ln 2 a pixel; an ignored pixel counts for none."""
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    labels[0, 0, 0] = IGNORE
    outputs = {"aux_a": torch.zeros(1, 2, 2, 2), "aux_b": torch.zeros(1, 2, 2, 2)}
    outputs["aux_b"][:, 0] = 100.0
    loss = Auxiliary(CrossEntropy(LossPlan(), 2), {"a": 0.4, "b": 0.16})
    terms = loss(outputs, batch(labels))
    assert {n: t.weight for n, t in terms.items()} == {"aux_a": 0.4, "aux_b": 0.16}
    assert terms["aux_a"].count == 3
    assert terms["aux_a"].total.item() == pytest.approx(3 * 0.693147)
    assert terms["aux_b"].total.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "auxiliary", "weights"),
    [
        ("pspnet_r18", NARROW, 1.0, {"ce": 1.0, "aux_layer3": 0.4}),
        ("pspnet_r18", NARROW, 0.5, {"ce": 1.0, "aux_layer3": 0.2}),
        ("pspnet_r18", {**NARROW, "auxiliary": False}, 1.0, {"ce": 1.0}),
        ("icnet", NARROW, 1.0, {"ce": 1.0, "aux_low": 0.16, "aux_middle": 0.4}),
        ("pspnet_r18+dsrl", NARROW | {"dsrl": {"stage": "sssr"}}, 1.0, {"ce": 1.0}),
    ],
)
def test_the_losses_of_a_network(model, options, auxiliary, weights):
    made = recipe(model, options, loss=LossPlan(auxiliary=auxiliary))
    network = build_model(ModelSpec(model, dict(options)), 5).train()
    labels = torch.randint(0, 5, (2, 64 * network.scale, 64 * network.scale))
    terms = build_loss(made, network, 5, None)(network(torch.randn(2, 3, 64, 64)), batch(labels))
    assert {n: t.weight for n, t in terms.items()} == pytest.approx(weights)


def test_a_wrapper_leaves_its_hosts_heads_out():
    model = build_model(ModelSpec("pspnet_r18+dsrl", dict(NARROW)), 5)
    assert innermost(model).auxiliary is None
    assert list(model.branches()) == ["sisr", "transform"]


# The head's learning rate


def named(model: torch.nn.Module, groups) -> list[set[str]]:
    names = {id(p): n for n, p in model.named_parameters()}
    return [{names[id(p)].partition(".")[0] for p in g["params"]} for g in groups]


def test_what_is_behind_the_encoder_learns_at_its_own_rate():
    model = build_model(ModelSpec("pspnet_r18", dict(NARROW)), 5)
    groups = parameter_groups(model, 0.1, head_lr=10.0)
    assert [g["lr_share"] for g in groups] == [1.0, 1.0, 10.0, 10.0]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0, 0.1, 0.0]
    head = {"pyramid", "classifier", "auxiliary"}
    assert named(model, groups) == [{"encoder"}, {"encoder"}, head, head]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_a_wrappers_own_parts_are_its_head():
    model = build_model(ModelSpec("fcn_r50+dupsample", dict(NARROW)), 5)
    groups = parameter_groups(model, 0.1, head_lr=10.0)
    names = {id(p): n for n, p in model.named_parameters()}
    slow = {names[id(p)] for g in groups[:2] for p in g["params"]}
    fast = {names[id(p)] for g in groups[2:] for p in g["params"]}
    assert all(n.startswith("host.encoder.") for n in slow)
    assert {n.partition(".")[0] for n in fast} == {"fuse", "project", "upsample"}


def test_one_rate_has_two_groups_as_before():
    model = build_model(ModelSpec("pspnet_r18", dict(NARROW)), 5)
    assert len(parameter_groups(model, 0.1)) == 2


def test_new_keys_change_no_digest_at_their_defaults():
    """Runs that began before there were such keys can be resumed."""
    plain = recipe().what_matters()
    assert not {"optimizer.head_lr", "loss.auxiliary"} & set(plain)
    other = recipe(optimizer=Optimizer(head_lr=10.0), loss=LossPlan(auxiliary=0.0))
    assert other.what_matters()["optimizer.head_lr"] == 10.0
    assert other.what_matters()["loss.auxiliary"] == 0.0
    assert other.digest() != recipe().digest()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Optimizer(head_lr=0.0), "head_lr is 0.0; expected a positive number, times lr"),
        (lambda: LossPlan(auxiliary=-1.0), "auxiliary is -1.0; expected 0 or more"),
    ],
)
def test_numbers_that_can_not_be(build, said):
    with pytest.raises(ValueError, match="expected") as refused:
        build()
    assert str(refused.value) == said


# Encoders from files


def test_init_takes_torchvisions_file(tmp_path):
    path = tmp_path / "resnet18.pth"
    source = ResNet(18, width=0.125)
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    state = source.state_dict() | {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    torch.save(state, path)
    said: list[str] = []
    made = recipe(options={**NARROW, "stem": "plain"}, init=str(path))
    model = open_model(made, CAMVID, said.append).model
    assert torch.equal(model.encoder.conv1.weight, source.conv1.weight)
    assert said == [f"init {path}: {len(source.state_dict())} tensors taken into the encoder"]
    wrapped = recipe("pspnet_r18+dsrl", {**NARROW, "stem": "plain"}, init=str(path))
    model = open_model(wrapped, CAMVID, said.append).model
    assert torch.equal(model.host.encoder.conv1.weight, source.conv1.weight)


def test_a_file_of_another_encoder_is_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(ResNet(18, width=0.125).state_dict(), path)
    with pytest.raises(WeightsError, match=r"is no ResNet as the model has it: .* missing"):
        open_model(recipe(init=str(path)), CAMVID, print)  # the deep stem is not torchvision's


def test_a_network_without_encoder_takes_no_file():
    with pytest.raises(TrainingError) as refused:
        open_model(recipe("unet", init="x.pth"), CAMVID, print)
    assert str(refused.value) == (
        "init x.pth: 'unet' has no encoder that was trained on ImageNet; leave init away"
    )


# Batches


def test_one_frame_can_not_be_normalised():
    """Its mean over the whole frame is one number for each channel."""
    world = World(torch.device("cpu"), 0, 1)
    model = build_model(ModelSpec("pspnet_r18", dict(NARROW)), 5)
    with pytest.raises(RecipeError) as refused:
        check_batch(recipe(batch=1), model, world)
    assert str(refused.value) == (
        "batch gives each process 1 frame; 'pspnet_r18' normalises the mean of a whole frame, "
        "which takes 2: raise batch, or set freeze_bn"
    )
    check_batch(recipe(batch=2), model, world)
    check_batch(recipe(batch=1, freeze_bn=True), model, world)
    check_batch(recipe("unet", batch=1), build_model(ModelSpec("unet", dict(NARROW)), 5), world)
