"""The race: ratios by hand, turns, processes that fail, the cut of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeseg.benchmarks.camera_frames import Camera, as_camera
from edgeseg.benchmarks.race import Contestant, Worker, ratio, results, run_race
from edgeseg.benchmarks.race_worker import _usual_frames, open_openvino, open_usual
from edgeseg.cli import main
from edgeseg.errors import EngineError, GraphError, RecipeError, UsageError
from edgeseg.pipeline.race import Rivals, choose
from edgeseg.pipeline.race_networks import cut
from edgeseg.recipe import read_recipe

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]


# Ratios and turns


def test_a_ratio_is_taken_round_by_round():
    ours = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 90.0], [4.0, 4.0, 4.0]])
    theirs = np.array([[4.0, 4.0, 4.0], [60.0, 60.0, 60.0], [16.0, 16.0, 16.0]])
    low, middle, high = ratio(theirs, ours)  # medians 2, 20, 4 -> quotients 2, 3, 4
    assert middle == 3.0
    assert (low, high) == (2.0, 4.0)


def test_steady_times_have_a_narrow_interval():
    ours = np.full((9, 4), 2.0)
    assert ratio(3 * ours, ours) == [3.0, 3.0, 3.0]


@dataclass
class Fake:
    """A worker whose calls take 1, 2, 3, ... ms."""

    name: str
    log: list[str]
    at: list[int] = field(default_factory=lambda: [0])

    def run(self, calls: int) -> list[float]:
        self.log.append(self.name)
        self.at[0] += calls
        return [float(self.at[0] - calls + i + 1) for i in range(calls)]


def test_turns_are_drawn_anew_and_first_calls_and_rounds_are_dropped():
    log: list[str] = []
    workers = [Fake(name, log) for name in "abc"]
    times = run_race(workers, rounds=6, calls=2, dropped=1)  # type: ignore[arg-type]
    assert times["a"].tolist() == [[3 * r + 2.0, 3 * r + 3.0] for r in range(1, 7)]
    rounds = ["".join(log[i : i + 3]) for i in range(0, 21, 3)]
    assert {"".join(sorted(r)) for r in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def entrant(name: str, against: str) -> Contestant:
    return Contestant(name, f"the {name}", "fp32", {}, against)


def test_rows_are_sorted_and_know_agreement():
    ours, fast, other = entrant("o", "o"), entrant("f", "o"), entrant("x", "o")
    times = {"o": np.full((2, 3), 4.0), "f": np.full((2, 3), 1.0), "x": np.full((2, 3), 9.0)}
    labels = {"o": np.zeros((1, 2, 2)), "f": np.array([[[0, 0], [2, 1]]]), "x": np.zeros((1, 4, 4))}
    inside = np.array([[[True, True], [False, True]]])  # the 2 lies in the padding
    rows = results([ours, fast, other], dict.fromkeys("ofx", "1"), times, labels, inside, "o")
    assert [row["name"] for row in rows] == ["f", "o", "x"]
    assert [row["ratio"] for row in rows] == [[0.25] * 3, [1.0] * 3, [2.25] * 3]
    assert [row["agreement"] for row in rows] == [66.667, 100.0, None]
    assert rows[0]["p50_ms"] == 1.0


def test_who_is_measured_against_comes_along():
    entrants = [entrant("o", "o"), entrant("f", "o"), entrant("x", "o")]
    assert [c.name for c in choose(entrants, ["x"])] == ["o", "x"]
    assert choose(entrants, []) == entrants
    with pytest.raises(UsageError, match=r"--only 'y': no such contestant\."):
        choose(entrants, ["y"])


# Processes


def test_a_contestant_that_dies_says_why(tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((1, 8, 8, 3), np.uint8))
    entry = {
        "kind": "usual script", "path": str(tmp_path / "no.onnx"), "threads": 1, "order": "rgb",
        "frames": str(tmp_path / "frames.npy"), "mean": [0, 0, 0], "std": [1, 1, 1],
        "format": "bgr",
    }  # fmt: skip
    with pytest.raises(EngineError, match=r"late can't take part: .*no\.onnx.*doesn't exist"):
        Worker(Contestant("late", "", "fp32", entry, "late"), 1)


# The cut


def small_graph(after: str = "Mul") -> onnx.ModelProto:
    """Image -> normalised planes -> one convolution to two classes -> labels."""
    node = helper.make_node
    last = node(after, ["centred", "scale"], ["normal"])
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["planes", "mean"], ["centred"]),
        last,
        node("Conv", ["normal", "weight"], ["scores"]),
        node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = {
        "mean": np.full((1, 3, 1, 1), 100, np.float32),
        "scale": np.full((1, 3, 1, 1), 0.5, np.float32),
        "weight": np.array([[1, 0, 0], [0, 1, 0]], np.float32).reshape(2, 3, 1, 1),
    }
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 6, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 4, 6])
    stored = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "small", [image], [labels], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def infer(model: onnx.ModelProto, tensor: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {session.get_inputs()[0].name: tensor})[0])


def test_a_cut_graph_takes_planes_and_says_the_same():
    model = small_graph()
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3)).astype(np.uint8)
    planes = ((image.astype(np.float32) - 100) * 0.5).transpose(0, 3, 1, 2)
    scores, labels = cut(model)
    np.testing.assert_array_equal(infer(scores, planes), planes[:, :2])
    np.testing.assert_array_equal(infer(labels, planes), infer(model, image))


def test_a_graph_that_begins_otherwise_is_refused():
    with pytest.raises(GraphError, match=r"'centred' is read by Div, not by one Mul"):
        cut(small_graph("Div"))


# Frames of a camera


@pytest.mark.parametrize("form", ["bgr", "rgb", "nv12"])
def test_contestants_prepare_a_camera_s_frames(form: str, tmp_path):
    """12x12 into 4x6 between bars: red left of the middle, green right of it, in everyone's labels.

    The small network says 0 where its input has more red than green.
    """
    image = np.empty((12, 12, 3), np.uint8)
    image[:, :6], image[:, 6:] = (220, 40, 40), (40, 220, 40)
    frame = as_camera(image, Camera((12, 12), form))
    scores, labels = cut(small_graph())
    onnx.save(scores, tmp_path / "scores.onnx")
    onnx.save(labels, tmp_path / "labels.onnx")
    entry = {
        "threads": 1, "order": "rgb", "mean": [100.0] * 3, "std": [2.0] * 3, "precision": "f32",
        "format": form, "place": [[12, 12], [4, 6], "pad"], "fill": [100, 100, 100],
    }  # fmt: skip
    usual, _ = open_usual({**entry, "path": str(tmp_path / "scores.onnx")})
    best, _ = open_openvino({**entry, "path": str(tmp_path / "labels.onnx")})
    for call in (usual, best):
        found = call(frame)
        assert found.shape == (4, 6)
        assert (found[:, 1:5] == [0, 0, 1, 1]).all()
        assert (found[:, [0, 5]] == 0).all()  # the bars: neither


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_bars_have_the_fill_in_the_network_s_order(order):
    entry = {"order": order, "format": "bgr", "place": [[12, 12], [4, 6], "pad"], "fill": [1, 2, 3]}
    made = _usual_frames(entry)(np.full((12, 12, 3), (30, 20, 10), np.uint8))
    assert made[0, 0].tolist() == [1, 2, 3]
    assert made[0, 2].tolist() == ([10, 20, 30] if order == "rgb" else [30, 20, 10])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "yuyv"}, "OpenVINO's PrePostProcessor takes no yuyv for a network of colours"),
        (
            {"place": [[12, 12], [4, 6], "crop"]},
            "prepared with fit pad or stretch, not 'crop'",
        ),
    ],
)
def test_frames_that_openvino_is_not_asked_to_prepare(changes, said, tmp_path):
    onnx.save(cut(small_graph())[1], tmp_path / "labels.onnx")
    entry = {
        "threads": 1, "order": "rgb", "mean": [100.0] * 3, "std": [2.0] * 3, "precision": "f32",
        "format": "bgr", "place": [[12, 16], [4, 6], "pad"], "fill": [0, 0, 0],
        "path": str(tmp_path / "labels.onnx"), **changes,
    }  # fmt: skip
    with pytest.raises(EngineError, match=said):
        open_openvino(entry)


def test_a_camera_is_for_the_built_in_contestants(tmp_path, capsys):
    path = tmp_path / "r.toml"
    path.write_text(
        'folder = "x"\n[environments.other]\npackages = ["numpy"]\n[rivals.r]\ntitle = "t"\n'
        'environment = "other"\nscript = "s.py"\nprecision = "f32"\n'
    )
    words = ["race", "--camera", "72x128", "--rivals", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--camera is for the built-in contestants, which prepare" in capsys.readouterr().err


# The rivals' file


def test_rivals_name_their_environment(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        'folder = "x"\n[environments.other]\npackages = ["numpy"]\n[rivals.r]\ntitle = "t"\n'
        'environment = "othr"\nscript = "s.py"\nprecision = "f32"\n'
    )
    with pytest.raises(RecipeError, match=r"\[rivals.r\]: no environment 'othr'. Did you mean"):
        read_recipe(Rivals, path)
    path.write_text(path.read_text().replace("othr", "other") + 'input = "frame"\n')
    with pytest.raises(RecipeError, match=r"input is 'frame'\. Did you mean 'frames'"):
        read_recipe(Rivals, path)


def test_rivals_are_prepared_from_a_file(tmp_path, capsys):
    assert main(["race", "--prepare", "--out", str(tmp_path / "out")]) == 2
    assert "--prepare makes the environments of rivals; give --rivals" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "edgeseg: 'nothing' is no model folder, no .onnx file and no model name."),
        (["--only", "openvino fp32"], "edgeseg: --only 'openvino fp32': no such contestant. Did "),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(tmp_path, capsys, words, said):
    assert main(["race", *words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not (tmp_path / "out").exists()
