"""The pure parts of training against values computed by hand."""

import math

import numpy as np
import pytest
import torch

from edgeseg.dataset import Sample
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.training.augment import crop, jitter
from edgeseg.training.batches import Batch, Order, normalise
from edgeseg.training.ema import Average
from edgeseg.training.journal import describe_seconds
from edgeseg.training.losses import CrossEntropy, class_weights, count_labels, enet_weights, hard
from edgeseg.training.optimizer import build_optimizer, parameter_groups, set_rate
from edgeseg.training.plan import AugmentPlan, Input, LossPlan, Optimizer, Recipe, Schedule
from edgeseg.training.schedule import share
from edgeseg.training.step import freeze_statistics

pytestmark = pytest.mark.torch

FILL = (10, 20, 30)


def frame(height=8, width=16):
    """A frame in which every pixel's red is its row and green its column; labels likewise."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], 2).astype(np.uint8)
    return Sample("frame", image, (rows * width + columns).astype(np.uint8))


class Fixed:
    """A generator that gives the same seven values each time."""

    def __init__(self, scale=0.0, top=0.0, left=0.0, flip=1.0, colour=(0.5, 0.5, 0.5)):
        self.values = np.array([scale, top, left, flip, *colour])

    def random(self, count):
        assert count == 7
        return self.values


# crop


def test_crop_at_scale_one_is_a_piece_of_the_frame():
    sample = frame()
    image, labels = crop(sample, (4, 8), AugmentPlan(), FILL, Fixed(top=0.5, left=0.999))
    np.testing.assert_array_equal(image, sample.image[2:6, 8:16])
    np.testing.assert_array_equal(labels, sample.labels[2:6, 8:16])


def test_crop_flips_image_and_labels_together():
    sample = frame()
    image, labels = crop(sample, (8, 16), AugmentPlan(flip=1.0), FILL, Fixed(flip=0.5))
    np.testing.assert_array_equal(image, sample.image[:, ::-1])
    np.testing.assert_array_equal(labels, sample.labels[:, ::-1])


def test_half_scale_is_the_mean_of_two_by_two_pixels():
    sample = frame()
    image, labels = crop(sample, (4, 8), AugmentPlan(scale=(0.5, 0.5)), FILL, Fixed())
    mean = sample.image.reshape(4, 2, 8, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(image, np.floor(mean + 0.5).astype(np.uint8))
    np.testing.assert_array_equal(labels, sample.labels[::2, ::2])


def test_a_frame_smaller_than_the_crop_is_padded_with_fill_and_ignore():
    sample = frame()
    image, labels = crop(sample, (16, 16), AugmentPlan(), FILL, Fixed(top=0.999))
    np.testing.assert_array_equal(image[8:], sample.image)
    np.testing.assert_array_equal(labels[8:], sample.labels)
    assert (image[:8] == FILL).all()
    assert (labels[:8] == IGNORE).all()


def test_scales_are_log_uniform():
    plan = AugmentPlan(scale=(0.5, 2.0))
    sample = frame()
    half = crop(sample, (4, 8), plan, FILL, Fixed(scale=0.0))[1]
    middle = crop(sample, (4, 8), plan, FILL, Fixed(scale=0.5))[1]
    np.testing.assert_array_equal(half, sample.labels[::2, ::2])
    np.testing.assert_array_equal(middle, sample.labels[:4, :8])


@pytest.mark.parametrize("size", [(4, 8), (32, 8), (5, 40)])
def test_random_crops_keep_their_shape_and_stay_in_the_frame(size):
    plan = AugmentPlan(scale=(0.3, 3.0))
    for seed in range(50):
        image, labels = crop(frame(), size, plan, FILL, np.random.default_rng(seed))
        assert image.shape == (*size, 3)
        inside = labels != IGNORE
        assert inside.any()
        red, green = image[inside][:, 0], image[inside][:, 1]
        assert red.max() < 8
        assert green.max() < 16


# jitter


def test_jitter_in_the_middle_changes_nothing():
    image = frame().image
    plan = AugmentPlan(brightness=0.5, contrast=0.5, saturation=0.5)
    np.testing.assert_array_equal(jitter(image, plan, np.full(3, 0.5)), image)


def test_jitter_by_hand():
    image = np.array([[[100, 50, 200], [20, 20, 20]]], np.uint8)
    bright = jitter(image, AugmentPlan(brightness=0.5), np.array([1.0, 0.5, 0.5]))
    np.testing.assert_array_equal(bright, [[[150, 75, 255], [30, 30, 30]]])
    grey = jitter(image, AugmentPlan(saturation=1.0), np.array([0.5, 0.5, 0.0]))
    np.testing.assert_array_equal(grey, [[[82, 82, 82], [20, 20, 20]]])
    flat = jitter(image, AugmentPlan(contrast=1.0), np.array([0.5, 0.0, 0.5]))
    np.testing.assert_array_equal(flat, np.full((1, 2, 3), 51))


# order


def test_an_epoch_shows_every_frame_once_and_the_next_in_another_order():
    order = Order(10, 4, seed=1)
    keys = [key for step in range(5) for key in order.keys(step)]
    first, second = keys[:10], keys[10:]
    assert [epoch for epoch, _ in keys] == [0] * 10 + [1] * 10
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(10))
    assert [i for _, i in first] != [i for _, i in second]


def test_processes_share_out_the_same_batches():
    whole = Order(7, 6, seed=2)
    parts = [Order(7, 6, seed=2, rank=r, world=3) for r in range(3)]
    for step in (0, 1, 5, 2):
        assert whole.keys(step) == [key for part in parts for key in part.keys(step)]
    assert whole.keys(0) != Order(7, 6, seed=3).keys(0)


def test_normalise_by_hand_in_both_orders():
    images = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    cpu = torch.device("cpu")
    rgb = normalise(images, Input("rgb", (0.0, 10.0, 20.0), (2.0, 5.0, 10.0)), cpu)
    assert rgb.flatten().tolist() == [5.0, 2.0, 1.0]
    bgr = normalise(images, Input("bgr", (0.0, 10.0, 20.0), (2.0, 5.0, 10.0)), cpu)
    assert bgr.flatten().tolist() == [15.0, 2.0, -1.0]
    assert rgb.shape == (1, 3, 1, 1)
    assert Input("bgr", (1.0, 2.0, 3.0)).fill == (1, 2, 3)
    assert Input("bgr", (1.0, 2.0, 3.0)).fill_rgb == (3, 2, 1)


# losses


def batch(labels):
    return Batch(torch.zeros(1), torch.tensor(labels), ("a",))


def logits(probabilities):
    """(pixels, classes) probabilities -> (1, C, 1, pixels) logits."""
    return torch.tensor(probabilities).log().T[None, :, None]


def test_cross_entropy_by_hand():
    outputs = logits([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])
    term = CrossEntropy(LossPlan(), 2)(outputs, batch([[[0, 1, IGNORE]]]))["ce"]
    assert float(term.total) == pytest.approx(-math.log(0.5) - math.log(0.75))
    assert float(term.count) == 2


def test_weighted_cross_entropy_divides_by_the_weights():
    outputs = logits([[0.5, 0.5], [0.25, 0.75]])
    weights = torch.tensor([1.0, 3.0])
    term = CrossEntropy(LossPlan(), 2, weights)(outputs, batch([[[0, 1]]]))["ce"]
    assert float(term.total) == pytest.approx(-math.log(0.5) - 3 * math.log(0.75))
    assert float(term.count) == 4


def test_memory_layout_does_not_change_the_loss():
    outputs = torch.randn(2, 5, 4, 6)
    labels = torch.randint(0, 5, (2, 4, 6))
    labels[0, 1] = IGNORE
    weights = torch.rand(5)
    loss = CrossEntropy(LossPlan(label_smoothing=0.1, ohem_threshold=0.2), 5, weights)
    data = Batch(torch.zeros(1), labels, ("a", "b"))
    a = loss(outputs, data)["ce"]
    b = loss(outputs.contiguous(memory_format=torch.channels_last), data)["ce"]
    torch.testing.assert_close((a.total, a.count), (b.total, b.count))


def test_label_smoothing_by_hand():
    outputs = logits([[0.25, 0.75]])
    term = CrossEntropy(LossPlan(label_smoothing=0.2), 2)(outputs, batch([[[1]]]))["ce"]
    assert float(term.total) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_outputs_behind_the_classes_are_left_out():
    outputs = torch.zeros(1, 3, 1, 1)
    term = CrossEntropy(LossPlan(), 2)(outputs, batch([[[1]]]))["ce"]
    assert float(term.total) == pytest.approx(math.log(2))


def test_a_frame_without_labels_gives_zero_and_not_nan():
    term = CrossEntropy(LossPlan(), 2)(torch.zeros(1, 2, 1, 2), batch([[[255, 255]]]))["ce"]
    assert (float(term.total), float(term.count)) == (0, 0)


def test_hard_pixels():
    outputs = logits([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]])
    labels = torch.tensor([[[0, 0, 0, IGNORE, 1]]])
    assert hard(outputs, labels, 0.7, 0)[0, 0].tolist() == [False, True, True, False, False]
    assert hard(outputs, labels, 0.1, 1)[0, 0].tolist() == [False, False, True, False, False]
    assert hard(outputs, labels, 0.7, 3)[0, 0].tolist() == [True, True, True, False, True]
    assert hard(outputs, labels, 0.7, 100)[0, 0].tolist() == [True, True, True, False, True]


def test_ohem_counts_the_kept_pixels_only():
    outputs = logits([[0.9, 0.1], [0.6, 0.4]])
    term = CrossEntropy(LossPlan(ohem_threshold=0.7), 2)(outputs, batch([[[0, 0]]]))["ce"]
    assert float(term.total) == pytest.approx(-math.log(0.6))
    assert float(term.count) == 1


def test_enet_weights_by_hand():
    counts = count_labels([np.array([[0, 0, 0, 1, 255]], np.uint8)], 3)
    assert counts.tolist() == [3, 1, 0]
    expected = [1 / math.log(1.77), 1 / math.log(1.27), 1 / math.log(1.02)]
    np.testing.assert_allclose(enet_weights(counts), expected, rtol=1e-6)


def test_class_weights_of_a_recipe():
    table = CLASS_TABLES["comma10k5"]
    assert class_weights(LossPlan(), table, lambda: np.zeros(5)) is None
    given = LossPlan(weights="list", weight_list=(1.0, 2.0, 3.0, 4.0, 5.0))
    assert class_weights(given, table, lambda: np.zeros(5)).tolist() == [1, 2, 3, 4, 5]


# schedule


def test_poly_with_warm_up_by_hand():
    plan = Schedule("poly", power=0.9, warmup=10, start=0.1, end=0.0)
    assert share(plan, 0, 110) == pytest.approx(0.1)
    assert share(plan, 5, 110) == pytest.approx(0.55)
    assert share(plan, 10, 110) == 1
    assert share(plan, 60, 110) == pytest.approx(0.5**0.9)
    assert share(plan, 109, 110) == pytest.approx(0.01**0.9)


def test_onecycle_by_hand():
    plan = Schedule("onecycle", rise=0.25, start=0.2, end=0.1)
    assert share(plan, 0, 101) == pytest.approx(0.2)
    assert share(plan, 25, 101) == pytest.approx(1.0)
    assert share(plan, 100, 101) == pytest.approx(0.1)
    assert share(plan, 62, 101) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 37 / 75)) / 2)


# optimizer and average


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU(4))


def test_weight_decay_is_for_kernels_only():
    model = network()
    decayed, plain = parameter_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert len(plain["params"]) == 4
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    model[0].weight.requires_grad_(False)
    assert parameter_groups(model, 0.1)[0]["params"] == []


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_follow_the_schedule_by_their_share(name):
    groups = parameter_groups(network(), 0.1)
    groups[0]["lr_share"] = 10.0
    optimizer = build_optimizer(Optimizer(name), groups)
    set_rate(optimizer, 0.03)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.03]


def test_the_average_forgets_its_start_first():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = Average(model, 0.2)
    torch.nn.init.constant_(model.weight, 1.0)
    average.update(model)
    first = 1 - 2 / 11
    assert float(average.model.weight) == pytest.approx(first)
    average.update(model)
    assert float(average.model.weight) == pytest.approx(0.2 * first + 0.8)


def test_the_average_takes_statistics_along():
    model = network()
    average = Average(model, 0.0)
    model.train()(torch.randn(2, 3, 5, 5))
    average.update(model)
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert int(average.model[1].num_batches_tracked) == 1
    assert not average.model.training


def test_frozen_statistics_stay():
    model = network().train()
    freeze_statistics(model)
    before = model[1].running_mean.clone()
    model(torch.randn(2, 3, 5, 5))
    assert torch.equal(model[1].running_mean, before)


# plan and journal


def plan(**changes):
    return Recipe("espnet_q3", "camvid:x", (32, 64), 10, 2, **changes)


def test_the_digest_follows_what_matters():
    assert plan().digest() == plan(workers=3, cache=True, eval_every=5).digest()
    assert plan().digest() != plan(seed=1).digest()
    assert plan().digest() != plan(optimizer=Optimizer(lr=0.5)).digest()
    assert plan().what_matters()["optimizer.lr"] == 0.01
    assert "workers" not in plan().what_matters()


def test_time_left_reads_like_a_clock():
    assert describe_seconds(3725.2) == "1:02:05"
    assert describe_seconds(-1) == "0:00:00"
