"""The dense CRF: its filters against sums over all pairs of pixels, and what it does to labels."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.bundle import OutputSpec
from edgeseg.errors import FrameError, UsageError
from edgeseg.runtime import crf_native, crf_numpy, decode_native
from edgeseg.runtime.crf import CrfSpec, DenseCrf, crf_words, features, parse_crf
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.scores import upsample

pytestmark = pytest.mark.unit

BY = {"numpy": crf_numpy, **({"native": crf_native} if decode_native.available() else {})}


@pytest.fixture(params=BY)
def by(request) -> str:
    return request.param


def picture(size=(24, 20), seed=0) -> np.ndarray:
    """Two smooth halves of different colour with some grain."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), (60, 90, 120)) + rng.integers(-4, 5, (*size, 3))
    image[:, size[1] // 2 :] += 60
    return image.astype(np.uint8)


def brute(feature: np.ndarray, values: np.ndarray) -> np.ndarray:
    """sum over all j of exp(-|f_i - f_j|^2 / 2) values_j."""
    f = feature.astype(np.float64)
    distance = ((f[:, None] - f[None]) ** 2).sum(2)
    return np.exp(-0.5 * distance) @ values


# Filters


@pytest.mark.parametrize("axes", [2, 5])
def test_lattice_filter_is_near_the_sum_over_all_pairs(by, axes):
    """Averages (K v / K 1) of values in 0..1 are within 0.03 on average and 0.12 at worst.

    Adams, Baek and Davis call their blur an approximation: [1 2 1] along d + 1 axes, and linear
    shares. Brightness is the same all over: that is why averages are compared.
    """
    spec = CrfSpec(sigma_alpha=100, sigma_beta=8)
    feature = features(picture(), spec)[:, :axes].copy()
    values = np.random.default_rng(1).random((len(feature), 4)).astype(np.float32)
    values[: len(values) // 2, 0] = 0
    values[:, 3] = 1
    sums, norm = np.zeros_like(values), np.ones(len(values), np.float32)
    room = BY[by]
    room.lattice_filter(room.lattice(feature), values, norm, 1.0, sums)
    exact = brute(feature, values)
    error = np.abs(sums[:, :3] / sums[:, 3:] - exact[:, :3] / exact[:, 3:])
    assert error.mean() < 0.03
    assert error.max() < 0.12


def test_lattice_is_a_gaussian_of_sigma_one(by):
    """Points of light spread with variance 1 along each of two axes, give or take a fifth."""
    side, step = 81, 0.2
    at = (np.arange(side) - side // 2) * step
    feature = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    points = side * side // 2 + np.array([0, 5, 3 * side, 4 * side + 2])
    values = np.zeros((side * side, 4), np.float32)
    values[points, range(4)] = 1
    sums, norm = np.zeros_like(values), np.ones(len(values), np.float32)
    room = BY[by]
    room.lattice_filter(room.lattice(feature), values, norm, 1.0, sums)
    light = (sums / sums.sum(0)).T[:, :, None]
    spread = (light * (feature - feature[points][:, None]) ** 2).sum(1)
    assert spread.mean(0) == pytest.approx([1, 1], abs=0.2)


def test_gauss_filter_is_the_sum_over_all_pairs(by):
    size = (9, 7)
    place = np.stack(np.mgrid[:9, :7], -1).reshape(-1, 2) / 1.5
    values = np.random.default_rng(2).random((63, 4)).astype(np.float32)
    norm = np.random.default_rng(3).random(63).astype(np.float32)
    sums = np.ones_like(values)
    taps = crf_numpy.gauss_taps(1.5)
    BY[by].gauss_filter(taps, size, values, norm, 2.0, sums)
    exact = 1 + 2 * norm[:, None] * brute(place, norm[:, None] * values)
    assert len(taps) == 7
    assert np.allclose(sums, exact, rtol=2e-3)


def test_gauss_taps_by_hand():
    assert crf_numpy.gauss_taps(1.0) == pytest.approx(
        [1, 0.60653, 0.13534, 0.011109, 0.00033546], rel=1e-4
    )


def test_native_and_numpy_agree():
    if "native" not in BY:
        pytest.skip("lattice.c was not compiled: there was no C compiler")
    feature = features(picture((40, 30)), CrfSpec())
    one, two = crf_native.lattice(feature), crf_numpy.lattice(feature)
    assert one.vertices == two.vertices
    assert one.shares.sum(1) == pytest.approx(1)
    values = np.random.default_rng(4).random((1200, 8)).astype(np.float32)
    norm = np.random.default_rng(5).random(1200).astype(np.float32)
    found = [np.zeros_like(values), np.zeros_like(values)]
    crf_native.lattice_filter(one, values, norm, 3.0, found[0])
    crf_numpy.lattice_filter(two, values, norm, 3.0, found[1])
    assert np.allclose(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [3, 11, 30])
def test_threads_change_no_bit(classes):
    """Also of more channels than stay in registers, which numpy gives too."""
    if "native" not in BY:
        pytest.skip("lattice.c was not compiled: there was no C compiler")
    image = picture((37, 26))
    scores = np.random.default_rng(11).normal(0, 2, (classes, 37, 26)).astype(np.float32)
    spec = CrfSpec(iterations=2)
    alone = DenseCrf(spec, by="native", threads=1).probabilities(scores, image)
    for threads in (2, 5):
        found = DenseCrf(spec, by="native", threads=threads).probabilities(scores, image)
        assert np.array_equal(found, alone)
    numpys = DenseCrf(spec, by="numpy").probabilities(scores, image)
    assert np.allclose(alone, numpys, atol=1e-4)


def test_what_is_impossible_has_no_probability():
    """-104 is where expf ends in float32: just above, it is the smallest number there is."""
    if "native" not in BY:
        pytest.skip("lattice.c was not compiled: there was no C compiler")
    values = np.array([[0, -102, -103.97, -104], [-1e30, 0, -1e30, -np.inf]], np.float32)
    crf_native.softmax(values)
    assert values[0, 1] > values[0, 2] == np.float32(1e-45)
    assert values[0, 3] == 0
    assert values[1].tolist() == [0, 1, 0, 0]


def test_softmax_by_hand(by):
    values = np.log(np.array([[1, 1, 2, 4], [1, 1, 1, 1]], np.float32)) + np.float32(50)
    BY[by].softmax(values)
    assert values.ravel() == pytest.approx(
        [0.125, 0.125, 0.25, 0.5, 0.25, 0.25, 0.25, 0.25], rel=1e-5
    )


# Mean field


def exact_field(scores: np.ndarray, image: np.ndarray, spec: CrfSpec) -> np.ndarray:
    """Mean field by sums over all pairs, (pixels, classes)."""
    kernels = []
    place = features(image, spec)[:, :2] * spec.alpha(image.shape[:2]) / spec.sigma_gamma
    for weight, feature in ((spec.w1, features(image, spec)), (spec.w2, place)):
        k = brute(feature, np.eye(len(feature)))
        norm = 1 / np.sqrt(k.sum(1))
        kernels.append(weight * norm[:, None] * k * norm)
    unary = scores.reshape(len(scores), -1).T.astype(np.float64)
    logits = unary
    for step in range(spec.iterations + 1):
        q = np.exp(logits - logits.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
        if step < spec.iterations:
            logits = unary + sum(k @ q for k in kernels)
    return q


def test_mean_field_is_near_that_of_all_pairs(by):
    """Probabilities are within 0.03 on average after three iterations; labels agree to 97 %."""
    spec = CrfSpec(sigma_alpha=100, sigma_beta=8, iterations=3)
    image = picture()
    scores = np.random.default_rng(6).normal(0, 1.5, (3, 24, 20)).astype(np.float32)
    scores[0, :, :10] += 1
    scores[1, :, 10:] += 1
    found = DenseCrf(spec, by=by).probabilities(scores, image)
    exact = exact_field(scores, image, spec)
    assert found.shape == (480, 3)
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found - exact).mean() < 0.03
    assert (found.argmax(1) == exact.argmax(1)).mean() > 0.97


def scores_of(labels: np.ndarray, classes: int, sure: float = 1.0) -> np.ndarray:
    return np.float32(sure) * (labels == np.arange(classes)[:, None, None]).astype(np.float32)


def test_noise_in_labels_of_a_uniform_image_is_smoothed(by):
    image = np.full((30, 40, 3), 128, np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    labels[np.random.default_rng(7).random((30, 40)) < 0.2] = 1
    assert not DenseCrf(by=by).labels(scores_of(labels, 3), image).any()


def test_an_edge_in_colour_is_kept_and_labels_move_to_it(by):
    image = np.full((30, 40, 3), 60, np.uint8)
    image[:, 20:] = 160
    truth = np.zeros((30, 40), np.uint8)
    truth[:, 20:] = 1
    shifted = np.roll(truth, 3, 1)
    shifted[:, :3] = 0
    found = DenseCrf(CrfSpec(), by=by).labels(scores_of(shifted, 2), image)
    assert (found == truth).all()
    grey = np.full_like(image, 60)
    assert (DenseCrf(by=by).labels(scores_of(shifted, 2), grey) != truth).any()


def test_weights_of_zero_give_the_argmax_back(by):
    scores = np.random.default_rng(8).normal(size=(5, 12, 10)).astype(np.float32)
    found = DenseCrf(CrfSpec(w1=0, w2=0), by=by).labels(scores, picture((12, 10)))
    assert (found == scores.argmax(0)).all()
    smoothed = DenseCrf(CrfSpec(w1=0, w2=9), by=by).labels(scores, picture((12, 10)))
    assert (smoothed != scores.argmax(0)).any()


def test_infinite_scores_and_nan_do_not_spread(by):
    scores = scores_of(np.zeros((8, 8), np.uint8), 2, 4.0)
    scores[1, 2, 2], scores[0, 3, 3] = np.nan, -np.inf
    found = DenseCrf(by=by).labels(scores, np.full((8, 8, 3), 9, np.uint8))
    assert np.argwhere(found).tolist() == [[3, 3]]  # class 0 is impossible there, and nowhere else


def test_sigma_alpha_grows_with_the_image():
    assert CrfSpec().alpha((375, 500)) == 67
    assert CrfSpec().alpha((1024, 2048)) == pytest.approx(274.432)


# Parameters and errors


def test_parameters_are_written_as_they_are_read():
    spec = CrfSpec(w1=0.1, sigma_beta=5, iterations=7)
    assert parse_crf(crf_words(spec)) == spec


def test_parameters_are_read():
    assert parse_crf("") == CrfSpec(4, 3, 67, 3, 1, 10)
    assert parse_crf(" w1=2.5, iterations=5") == CrfSpec(w1=2.5, iterations=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w3=1", "CRF: unknown parameter 'w3'. Known: w1, w2, sigma_alpha"),
        ("w1=much", "CRF: w1 is 'much'; expected a number"),
        ("iterations=2.5", "CRF: iterations is '2.5'; expected a whole number"),
        ("w2=-1", "CRF: w2 is -1.0; expected 0 or more"),
        ("w1=nan", "CRF: w1 is nan; expected 0 or more"),
        ("sigma_beta=0", "CRF: sigma_beta is 0.0; expected 0.1 or more"),
        ("iterations=0", "CRF: iterations is 0; expected 1 or more"),
    ],
)
def test_wrong_parameters_are_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse_crf(text)
    assert message in str(caught.value)


def test_arrays_of_another_kind_are_refused():
    crf, image = DenseCrf(), np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(
        FrameError, match=r"CRF: scores are of shape \(2, 4, 5\); expected \(classe"
    ):
        crf.labels(np.zeros((2, 4, 5), np.float32), image)
    with pytest.raises(FrameError, match=r"CRF: image is float32 of shape .* expected uint8"):
        crf.labels(np.zeros((2, 4, 6), np.float32), image.astype(np.float32))


def test_sigmas_too_small_for_numpy_are_refused():
    feature = np.array([[0] * 5, [9e3] * 5], np.float32)
    with pytest.raises(UsageError, match="so small that numpy can't number the lattice"):
        crf_numpy.lattice(feature)


# Full-size scores


@pytest.mark.parametrize("kind", ["bilinear", "bilinear_corners", "pixel_shuffle"])
def test_upsampled_scores_win_where_decode_says(kind):
    output = OutputSpec("scores", 4, kind, 4)
    channels = 48 if kind == "pixel_shuffle" else 3
    scores = np.random.default_rng(9).normal(size=(1, channels, 5, 6)).astype(np.float32)
    full = upsample(scores[0], output)
    assert full.shape == (3, 20, 24)
    assert (full.argmax(0) == Decoder(output)(scores)[0]).all()


def test_a_deconvolution_is_upsampled_as_decode_says():
    rng = np.random.default_rng(10)
    weight, bias = rng.normal(size=(6, 3, 2, 2)).astype(np.float32), rng.normal(size=3)
    output = OutputSpec("scores", 2, "deconvolution", 2)
    scores = rng.normal(size=(1, 6, 5, 4)).astype(np.float32)
    full = upsample(scores[0], output, weight, bias.astype(np.float32))
    assert (full.argmax(0) == Decoder(output, weight, bias)(scores)[0]).all()
