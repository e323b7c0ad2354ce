"""Published weight files: every key is mapped or refused, and nothing in a file is run."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict

import pytest
import torch
from model_contract import images, seeded

from edgeseg.cli import main
from edgeseg.errors import WeightsError
from edgeseg.models.checkpoint import fill_weights, load_checkpoint
from edgeseg.models.network import Network
from edgeseg.models.published import read_published

pytestmark = pytest.mark.torch

# fmt: off
PAIRS = {
    # in the authors' file                           ours
    "encoder.level1.conv.weight":                   "encoder.stem.0.weight",
    "encoder.level1.bn.running_mean":               "encoder.stem.1.running_mean",
    "encoder.level1.act.weight":                    "encoder.stem.2.weight",
    "encoder.b1.bn.bias":                           "encoder.join1.0.bias",
    "encoder.b2.act.weight":                        "encoder.join2.1.weight",
    "encoder.b3.bn.running_var":                    "encoder.join3.0.running_var",
    "encoder.level2_0.c1.conv.weight":              "encoder.down2.reduce.weight",
    "encoder.level2_0.d1.conv.weight":              "encoder.down2.branches.0.weight",
    "encoder.level2_0.d16.conv.weight":             "encoder.down2.branches.4.weight",
    "encoder.level2_0.bn.weight":                   "encoder.down2.post.0.weight",
    "encoder.level2_0.act.weight":                  "encoder.down2.post.1.weight",
    "encoder.level2.1.c1.conv.weight":              "encoder.stage2.1.reduce.weight",
    "encoder.level3_0.d4.conv.weight":              "encoder.down3.branches.2.weight",
    "encoder.level3.2.d8.conv.weight":              "encoder.stage3.2.branches.3.weight",
    "encoder.level3.2.bn.bn.running_mean":          "encoder.stage3.2.post.0.running_mean",
    "encoder.level3.2.bn.act.weight":               "encoder.stage3.2.post.1.weight",
    "encoder.classifier.conv.weight":               "project3.weight",
    "level3_C.conv.weight":                         "project2.weight",
    "br.bias":                                      "norm3.bias",
    "up_l3.0.weight":                               "up3.weight",
    "combine_l2_l3.0.bn.weight":                    "join.0.weight",
    "combine_l2_l3.0.act.weight":                   "join.1.weight",
    "combine_l2_l3.1.d2.conv.weight":               "fuse.branches.1.weight",
    "combine_l2_l3.1.bn.bn.bias":                   "fuse.post.0.bias",
    "combine_l2_l3.1.bn.act.weight":                "fuse.post.1.weight",
    "up_l2.0.weight":                               "up2.0.weight",
    "up_l2.1.bn.running_var":                       "up2.1.running_var",
    "up_l2.1.act.weight":                           "up2.2.weight",
    "conv.conv.weight":                             "last.0.weight",
    "conv.bn.weight":                               "last.1.weight",
    "conv.act.weight":                              "last.2.weight",
    "classifier.weight":                            "upsample.weight",
}
# fmt: on
# Ours -> the authors', for a whole network; PAIRS holds it to what stands in their files.
_BRANCH = {"reduce": "c1"} | {f"branches.{i}": f"d{2**i}" for i in range(5)}
_BACK = (
    (r"encoder\.stem\.0\.", "encoder.level1.conv."),
    (r"encoder\.stem\.1\.", "encoder.level1.bn."),
    (r"encoder\.stem\.2\.", "encoder.level1.act."),
    (r"encoder\.join(\d)\.0\.", r"encoder.b\1.bn."),
    (r"encoder\.join(\d)\.1\.", r"encoder.b\1.act."),
    (r"encoder\.down(\d)\.post\.0\.", r"encoder.level\1_0.bn."),
    (r"encoder\.down(\d)\.post\.1\.", r"encoder.level\1_0.act."),
    (r"encoder\.down(\d)\.(reduce|branches\.\d)\.", r"encoder.level\1_0.<\2>.conv."),
    (r"encoder\.stage(\d)\.(\d)\.post\.0\.", r"encoder.level\1.\2.bn.bn."),
    (r"encoder\.stage(\d)\.(\d)\.post\.1\.", r"encoder.level\1.\2.bn.act."),
    (r"encoder\.stage(\d)\.(\d)\.(reduce|branches\.\d)\.", r"encoder.level\1.\2.<\3>.conv."),
    (r"project3\.", "encoder.classifier.conv."),
    (r"project2\.", "level3_C.conv."),
    (r"norm3\.", "br."),
    (r"up3\.", "up_l3.0."),
    (r"join\.0\.", "combine_l2_l3.0.bn."),
    (r"join\.1\.", "combine_l2_l3.0.act."),
    (r"fuse\.post\.0\.", "combine_l2_l3.1.bn.bn."),
    (r"fuse\.post\.1\.", "combine_l2_l3.1.bn.act."),
    (r"fuse\.(reduce|branches\.\d)\.", r"combine_l2_l3.1.<\1>.conv."),
    (r"up2\.0\.", "up_l2.0."),
    (r"up2\.1\.", "up_l2.1.bn."),
    (r"up2\.2\.", "up_l2.1.act."),
    (r"last\.0\.", "conv.conv."),
    (r"last\.1\.", "conv.bn."),
    (r"last\.2\.", "conv.act."),
    (r"upsample\.", "classifier."),
)


def theirs(key: str) -> str:
    for pattern, replacement in _BACK:
        if match := re.match(pattern, key):
            head = re.sub(r"<(.+)>", lambda m: _BRANCH[m.group(1)], match.expand(replacement))
            return head + key[match.end() :]
    raise AssertionError(key)


def published(model: Network) -> dict[str, torch.Tensor]:
    """The model's weights under the authors' names, as old files are: without batch counters."""
    state = model.state_dict()
    return OrderedDict((theirs(k), v) for k, v in state.items() if "num_batches" not in k)


@pytest.fixture
def file(tmp_path):
    """A function that saves anything as a .pth file."""

    def save(content: object):
        torch.save(content, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def test_the_pairs_are_those_of_the_files():
    ours = seeded("espnet_q3").state_dict()
    for their, our in PAIRS.items():
        assert our in ours
        assert theirs(our) == their


def test_a_published_file_maps_strictly(file):
    source, model = seeded("espnet_q3", seed=1), seeded("espnet_q3", seed=2)
    state = read_published(file(published(source)), model)
    for their, our in PAIRS.items():
        assert torch.equal(state[our], published(source)[their])
    assert set(state) == {k for k in model.state_dict() if "num_batches" not in k}
    fill_weights(model, state, "file")
    image = images(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model(image), source(image))


def test_a_published_encoder_maps_to_espnet_c(file):
    source, model = seeded("espnetc_q3", seed=1), seeded("espnetc_q3", seed=2)
    state = {}
    for key, tensor in source.state_dict().items():
        own = key == "classifier.weight"
        name = "classifier.conv.weight" if own else theirs(key).removeprefix("encoder.")
        state[name] = tensor
    fill_weights(model, read_published(file(state), model), "file")
    image = images(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model(image), source(image))


def test_what_data_parallel_and_trainers_put_around_is_taken_off(file):
    source, model = seeded("espnet_q3", seed=1), seeded("espnet_q3", seed=2)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in published(source).items()}, "epoch": 3}
    assert set(read_published(file(wrapped), model)) == {
        k for k in model.state_dict() if "num_batches" not in k
    }


def test_our_own_names_pass(file):
    model = seeded("espnet_q3")
    assert set(read_published(file(model.state_dict()), model)) == set(model.state_dict())


# Refusals


def refusal(path, name="espnet_q3") -> str:
    """What is said when the file is read and filled into a fresh model."""
    model = seeded(name)
    with pytest.raises(WeightsError) as refused:
        fill_weights(model, read_published(path, model), str(path))
    said = str(refused.value)
    assert said.startswith(str(path))
    return said.removeprefix(str(path))


def test_a_missing_key(file):
    state = published(seeded("espnet_q3"))
    del state["level3_C.conv.weight"]
    assert refusal(file(state)) == (
        ": weights do not fit the model: 1 missing (first: 'project2.weight'), 0 unknown"
    )


def test_a_foreign_key(file):
    state = published(seeded("espnet_q3")) | {"head.weight": torch.zeros(1)}
    assert refusal(file(state)) == (
        ": key 'head.weight' belongs to no network that we know; "
        "is this the right --model for these weights?"
    )


def test_a_key_of_a_deeper_network(file):
    """q = 5 into q = 3: the names are known, the blocks are not there."""
    assert refusal(file(published(seeded("espnet_q5")))) == (
        ": weights do not fit the model: 0 missing, 36 unknown "
        "(first: 'encoder.stage3.3.reduce.weight')"
    ).replace("36", str(2 * 11))


def test_two_keys_of_one_name(file):
    state = published(seeded("espnet_q3"))
    state["up3.weight"] = state["up_l3.0.weight"]
    assert refusal(file(state)) == ": two keys map to 'up3.weight' (the second is 'up3.weight')"


def test_a_wrong_shape(file):
    state = published(seeded("espnet_q3", 20))
    assert refusal(file(state)) == (
        ": 'project3.weight' has shape (20, 256, 1, 1); the model expects (12, 256, 1, 1)"
    )


def test_the_other_skip(file):
    state = published(seeded("espnet_q3", skip="stem"))
    assert refusal(file(state)) == (
        ": 'last.0.weight' has shape (12, 28, 3, 3); the model expects (12, 31, 3, 3)"
    )


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_code_is_refused_and_not_run(tmp_path, legacy):
    path, trace = tmp_path / "weights.pth", tmp_path / "code_was_run"
    content = {"level1.conv.weight": torch.zeros(1), "evil": Payload(trace)}
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    assert "is no plain weights file" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file(tmp_path, zipped):
    path = tmp_path / "weights.pth"
    torch.save(
        {"a": torch.arange(100.0), "b": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    for length in (0, 1, 2, 3, 10, 40, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        said = refusal(path)
        assert re.match(r": (truncated or no weights file \(.+\)|is no plain weights file )", said)
        assert "\n" not in said


@pytest.mark.parametrize("content", [b"PK\x03\x04 no zip", b"text, not weights\n", b"\x80\x02}q."])
def test_a_file_that_is_something_else(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert re.match(r": (truncated or no|is no plain|holds a|weights do not fit)", refusal(path))


@pytest.mark.parametrize(
    ("content", "kind"),
    [([torch.zeros(1)], "list"), (torch.zeros(3), "Tensor"), ({"a": 1}, "dict"), ({3: 4}, "dict")],
)
def test_what_is_no_state_dict(file, content, kind):
    assert refusal(file(content)) == f": holds a {kind}, not a state dict of tensors"


def test_no_file(tmp_path):
    assert refusal(tmp_path / "no.pth") == ": no such weights file"
    assert refusal(tmp_path) == ": no such weights file"


# The verb


def test_convert_by_preset(file, tmp_path, capsys):
    source = seeded("espnet_q3")
    path, out = file(published(source)), tmp_path / "model"
    typed = ["convert", "--model", "espnet_q3", "--weights", str(path), "--out", str(out)]
    assert main([*typed, "--preset", "espnet-camvid"]) == 0
    said = capsys.readouterr().out
    assert said == (
        f"{out}: espnet_q3, {sum(p.numel() for p in source.parameters()):,} params, "
        "11 classes (camvid11), input bgr 360x480\n"
    )
    model, bundle = load_checkpoint(out)
    spec = bundle.manifest.input
    assert (spec.order, spec.size, spec.fit) == ("bgr", (360, 480), "pad")
    assert spec.mean == (110.331, 108.409, 105.033)
    assert spec.std == pytest.approx((72.126 * 255, 72.691 * 255, 69.904 * 255))
    assert spec.fill == (110, 108, 105)
    assert bundle.manifest.model.void_outputs == 1
    assert "CC BY-NC" in bundle.manifest.weights.licence
    image = images(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model(image), source(image))


def test_convert_by_hand(file, tmp_path):
    source = seeded("espnet_q3", 11, skip="stem")
    typed = [
        "convert", "--model", "espnet_q3", "--weights", str(file(published(source))),
        "--out", str(tmp_path / "model"), "--classes", "camvid11", "--mean", "1,2,3",
        "--std", "4,5,6", "--divide", "2", "--order", "rgb", "--option", "skip=stem",
        "--size", "64x96", "--fit", "crop", "--data", "camvid train", "--licence", "MIT",
    ]  # fmt: skip
    assert main(typed) == 0
    manifest = load_checkpoint(tmp_path / "model")[1].manifest
    assert (manifest.input.mean, manifest.input.std) == ((1, 2, 3), (8, 10, 12))
    assert (manifest.input.size, manifest.input.fit) == ((64, 96), "crop")
    assert manifest.model.options == {"skip": "stem"}
    assert (manifest.weights.data, manifest.weights.licence) == ("camvid train", "MIT")


BY_HAND = ["--classes", "camvid11", "--mean", "1,2,3", "--std", "1,1,1", "--order", "rgb"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--preset", "espnet-camvit"], "unknown preset 'espnet-camvit'. Did you mean"),
        (["--preset", "espnet-camvid", "--order", "rgb"],
         "--preset espnet-camvid already says what --order says; leave it away"),
        (["--preset", "espnet-camvid", "--option", "skip=stem"],
         "--preset espnet-camvid already says what --option says; leave it away"),
        (["--preset", "espnet-camvid", "--void-outputs", "0"],
         "--preset espnet-camvid already says what --void-outputs says; leave it away"),
        ([], "--classes, --mean, --std, --order missing; or give --preset espnet-camvid|"),
        ([*BY_HAND, "--classes", "camvid12"], "unknown class table 'camvid12'. Did you mean 'camv"),
        ([*BY_HAND, "--std", "0,1,1"], "--std and --divide must be positive"),
        ([*BY_HAND, "--divide", "0"], "--std and --divide must be positive"),
        ([*BY_HAND, "--option", "skip"], "--option skip: expected KEY=VALUE"),
        ([*BY_HAND, "--option", "skip=no"], "skip is 'no'; expected one of stem, join"),
        ([*BY_HAND, "--option", "depth=3"], "model 'espnet_q3' does not take {'depth': '3'}"),
        ([*BY_HAND, "--size", "64"], "size '64' is not HEIGHTxWIDTH, such as 512x1024"),
        ([*BY_HAND, "--size", "63x96"], "espnet_q3 takes sizes whose height and width are multi"),
        ([*BY_HAND, "--void-outputs", "-1"], "--void-outputs is -1; expected 0 or more"),
        ([*BY_HAND, "--model", "espnet"], "unknown model 'espnet'. Did you mean 'espnet_q"),
    ],
)  # fmt: skip
def test_convert_refuses(typed, said, file, tmp_path, capsys):
    path = file(published(seeded("espnet_q3")))
    out = tmp_path / "model"
    fixed = ["convert", "--model", "espnet_q3", "--weights", str(path), "--out", str(out)]
    assert main([*fixed, *typed]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"edgeseg: {said}")
    assert shown.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pth"]
