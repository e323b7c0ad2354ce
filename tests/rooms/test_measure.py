"""A row measured in a process of its own, on a folder of the fake engine and made-up frames."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded_boards import board_tree, put

from edgeseg.benchmarks import measure as room
from edgeseg.benchmarks.job import Job, parse_arguments, to_arguments
from edgeseg.benchmarks.latency import StopRule
from edgeseg.benchmarks.measure import (
    measure,
    measure_in_process,
    seen_in_training,
    write_timing_frames,
)
from edgeseg.benchmarks.pacing import Pace
from edgeseg.bundle import (
    Gate,
    InputSpec,
    Manifest,
    OutputSpec,
    Target,
    WeightsSpec,
    write_bundle,
)
from edgeseg.dataset import open_dataset
from edgeseg.errors import BundleError, DataError, EngineError, UsageError
from edgeseg.labels import CLASS_TABLES
from edgeseg.runtime.crf import CrfSpec
from edgeseg.runtime.crf_segmenter import CrfSegmenter, with_crf
from edgeseg.runtime.engine import ENGINES, Engine

pytestmark = pytest.mark.rooms

TABLE = CLASS_TABLES["camvid11"]
QUICK = StopRule(min_samples=20, min_seconds=0, max_seconds=5, warm_up_calls=1, warm_up_seconds=0)
SPEC = InputSpec("bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size=(6, 8))


class ScoresEngine(Engine):
    """Scores in which class 2 wins everywhere; remembers the shapes that it saw."""

    version, device, inference_precision, threads = "7", "none", "f32", 1
    seen: list[tuple[int, ...]]

    def __init__(self, bundle, options):
        type(self).seen = []

    def infer(self, images):
        self.seen.append(images.shape)
        scores = np.zeros((len(images), 11, images.shape[1] // 2, images.shape[2] // 2), np.float32)
        scores[:, 2] = 1
        return scores


@pytest.fixture
def camvid(tmp_path):
    """Three val frames of 12x16, red; the truth is sky but for a quarter of building."""
    root = tmp_path / "camvid"
    for folder in ("val", "valannot"):
        (root / folder).mkdir(parents=True)
    truth = np.zeros((12, 16), np.uint8)
    truth[:6, :8] = 1
    for i in range(3):
        image = np.zeros((12, 16, 3), np.uint8)
        image[..., 0] = 200 + i
        Image.fromarray(image).save(root / "val" / f"{i}.png")
        Image.fromarray(truth).save(root / "valannot" / f"{i}.png")
    return f"camvid:{root}"


def make_folder(path, **changes):
    path.mkdir()
    (path / "network.onnx").write_bytes(b"x" * 2**19)
    (path / "gate").mkdir()
    (path / "gate" / "frames.npz").write_bytes(b"y" * 2**20)
    manifest = Manifest(
        "network",
        "net",
        TABLE.to_dict(),
        SPEC,
        precision="int8",
        target=Target("fake", "fake", "none"),
        gate=Gate("passed"),
        params=1000,
        macs=20000,
        uncounted={"GridSample": 2},
        weights=WeightsSpec("camvid train"),
        network_file="network.onnx",
    )
    return write_bundle(path, dataclasses.replace(manifest, **changes)).folder


@pytest.fixture
def frames(tmp_path, camvid):
    path = tmp_path / "frames.npy"
    write_timing_frames(path, open_dataset(camvid, "val"), SPEC, count=2)
    return path


def test_timing_frames_are_real_frames_at_the_network_s_size_and_order(frames):
    stored = np.load(frames)
    assert stored.shape == (2, 6, 8, 3)
    assert stored.dtype == np.uint8
    assert stored[0, 0, 0].tolist() == [0, 0, 200]  # red in BGR


def test_a_row_has_every_key_and_hand_computed_scores(tmp_path, camvid, frames):
    folder = make_folder(tmp_path / "net")
    job = Job(folder, frames, threads=1, data=camvid, rule=QUICK)
    row = measure_in_process(job)
    json.dumps(row, allow_nan=False)
    assert set(row) >= {
        "model", "target", "precision", "inference_precision", "size", "batch", "params", "macs",
        "uncounted", "file_mib", "load_ms", "latency_ms", "stages_ms", "throughput_fps", "threads",
        "prepare", "decode", "crf", "peak_rss_mib", "miou", "per_class", "pixel_accuracy", "data",
        "seen_in_training", "fit", "rule", "engine", "machine", "power",
    }  # fmt: skip
    assert (row["model"], row["target"], row["precision"]) == ("net", "fake", "int8")
    assert (row["size"], row["batch"], row["threads"]) == ([6, 8], 1, 1)
    assert (row["params"], row["macs"]) == (1000, 20000)
    assert row["uncounted"] == {"GridSample": 2}
    assert row["file_mib"] == 0.5  # the gate's frames are not the network
    assert row["gate"] == "passed"
    assert row["decode"] == "in the graph"
    assert row["prepare"].endswith(("numpy", ", 1 thread"))
    assert row["crf"] is row["power"] is None
    # The fake engine calls everything sky: 3/4 of the pixels. IoU sky 75, building 0.
    assert row["miou"] == 37.5
    assert row["pixel_accuracy"] == 75
    assert (row["per_class"]["sky"], row["per_class"]["building"]) == (75, 0)
    assert row["per_class"]["car"] is None
    assert row["frame_miou"] == {"0": 37.5, "1": 37.5, "2": 37.5}
    assert row["data"] == {"kind": "camvid", "split": "val", "frames": 3}
    assert row["seen_in_training"] is False
    assert row["fit"] == "pad"
    assert "void" in row["rule"]
    assert row["engine"] == {"name": "fake", "version": "fake", "device": "none"}


def test_samples_stages_and_memory(tmp_path, frames):
    row = measure_in_process(Job(make_folder(tmp_path / "net"), frames, rule=QUICK))
    latency = row["latency_ms"]
    assert latency["n"] == len(latency["samples"]) >= 20
    assert latency["p90"] is latency["p99"] is latency["p999"] is None
    assert min(latency["samples"]) <= latency["p50"] <= latency["max"] == max(latency["samples"])
    stages = row["stages_ms"]
    assert set(stages) == {"prepare", "engine", "decode", "call"}
    assert sum(stages[s]["p50"] for s in ("prepare", "engine", "decode")) < 2 * latency["p50"]
    assert stages["call"]["p50"] == pytest.approx(latency["p50"], abs=1e-3)
    mean = sum(latency["samples"]) / latency["n"]
    assert row["throughput_fps"] == pytest.approx(1e3 / mean, rel=0.02)
    assert row["load_ms"] > 0
    assert 10 < row["peak_rss_mib"] < 500
    # Without data there is no accuracy, and it is not called zero.
    assert row["miou"] is row["per_class"] is row["seen_in_training"] is None


def test_peak_memory_is_that_of_the_latency_phase(tmp_path, camvid, frames, monkeypatch):
    order = []
    monkeypatch.setattr(room, "peak_mib", lambda: order.append("memory") or 1.0)
    monkeypatch.setattr(room, "_accuracy", lambda *_: order.append("accuracy") or {})
    measure(Job(make_folder(tmp_path / "net"), frames, data=camvid, rule=QUICK))
    assert order == ["memory", "accuracy"]


def test_what_others_used_meanwhile(monkeypatch):
    readings = iter([100.0, 107.0, 0.0, 1.0])
    monkeypatch.setattr(room, "busy_seconds", lambda: next(readings))
    clock, own = iter([10.0, 15.0, 0.0, 0.5]), iter([1.0, 4.0, 0.0])
    monkeypatch.setattr(room, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(room, "process_time", lambda: next(own))
    watch = room.Watch()
    watch.stop()
    assert watch.cores == 0.8  # 7 s busy, 3 of them our own, in 5 s
    short = room.Watch()
    short.stop()
    assert short.cores is None


def test_batches_are_timed_whole_and_decoded(tmp_path, frames, monkeypatch):
    monkeypatch.setitem(ENGINES, "fake", f"{__name__}:ScoresEngine")
    folder = make_folder(
        tmp_path / "net",
        input=dataclasses.replace(SPEC, batch=3),
        output=OutputSpec("scores", 2, "bilinear", 2),
    )
    row = measure(Job(folder, frames, rule=QUICK))
    assert set(ScoresEngine.seen) == {(3, 6, 8, 3)}
    assert row["batch"] == 3
    assert row["decode"].startswith("bilinear x2, then argmax: ")
    assert row["decode"].endswith(("numpy", ", 1 thread"))
    assert row["stages_ms"]["prepare"] is None
    assert row["stages_ms"]["decode"]["n"] == row["latency_ms"]["n"]
    mean = sum(row["latency_ms"]["samples"]) / row["latency_ms"]["n"]
    assert row["throughput_fps"] == pytest.approx(3e3 / mean, rel=0.02)
    assert row["miou"] is None


def test_a_row_with_the_dense_crf_says_what_it_costs(tmp_path, camvid, frames, monkeypatch):
    monkeypatch.setitem(ENGINES, "fake", f"{__name__}:ScoresEngine")
    folder = make_folder(tmp_path / "net", output=OutputSpec("scores", 2, "bilinear", 2))
    job = Job(folder, frames, data=camvid, rule=QUICK, crf=CrfSpec(iterations=2))
    row = measure(job)
    assert row["crf"]["iterations"] == 2
    assert row["crf"]["by"] in ("native", "numpy")
    assert row["decode"].startswith("bilinear x2, then dense CRF: ")
    stages = row["stages_ms"]
    assert stages["crf"]["n"] == row["latency_ms"]["n"]
    assert 0 < stages["crf"]["p50"] <= stages["decode"]["p50"]
    made: list[CrfSegmenter] = []
    monkeypatch.setattr(room, "with_crf", lambda *given: made.append(with_crf(*given)) or made[-1])
    monkeypatch.setattr(room, "_soak", lambda *_: made[0].crf_ms.extend([1e9] * 1000))
    soaked = measure(dataclasses.replace(job, soak=1.0))
    assert soaked["stages_ms"]["crf"]["p50"] < 1e9  # of the timed calls, not of the long run
    assert row["per_class"]["sky"] == 0  # class 2 wins with the CRF, too
    plain = measure(dataclasses.replace(job, crf=None))
    assert plain["crf"] is None
    assert "crf" not in plain["stages_ms"]
    batches = make_folder(tmp_path / "b", input=dataclasses.replace(SPEC, batch=3))
    with pytest.raises(UsageError, match="takes 3 frames a call; --crf is for one: export with"):
        measure(dataclasses.replace(job, folder=batches))


def test_errors_of_the_other_process_are_raised_here_as_one_line(tmp_path, camvid, frames):
    ungated = make_folder(tmp_path / "ungated", gate=None)
    with pytest.raises(BundleError, match="gate: not run") as caught:
        measure_in_process(Job(ungated, frames, rule=QUICK))
    assert "\n" not in str(caught.value)
    row = measure_in_process(Job(ungated, frames, rule=QUICK, allow_ungated=True))
    assert row["gate"] == "not run"
    np.save(tmp_path / "bad.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"expected uint8 \(N, H, W, 3\)"):
        measure_in_process(Job(ungated, tmp_path / "bad.npy", rule=QUICK))
    with pytest.raises(DataError, match=r"no \.npy file of frames"):
        measure_in_process(Job(ungated, tmp_path / "no.npy", rule=QUICK))
    with pytest.raises(BundleError, match="no such model folder"):
        measure_in_process(Job(tmp_path / "none", frames, rule=QUICK))


class Killed:
    returncode, stderr = -9, ""


class Broken:
    returncode, stderr = 1, "Traceback: boom"


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        (Killed, EngineError, "was killed by signal 9 .out of memory"),
        (Broken, RuntimeError, "Traceback: boom"),
    ],
)
def test_a_process_that_dies_is_told(tmp_path, frames, monkeypatch, ending, error, message):
    monkeypatch.setattr(room.subprocess, "run", lambda *_, **__: ending)
    with pytest.raises(error, match=message):
        measure_in_process(Job(tmp_path, frames))


def test_the_command_line_carries_the_whole_job(tmp_path):
    for job in (
        Job(Path("a b"), Path("f.npy")),
        Job(Path("m"), Path("f.npy"), 2, "bf16", True, "camvid:x", "tune", 9, QUICK),
        Job(Path("m"), Path("f.npy"), pace=Pace(29.97, 33.0), soak=1800.0),
        Job(Path("m"), Path("f.npy"), crf=CrfSpec(w1=0.1, iterations=3)),
    ):
        assert parse_arguments(to_arguments(job, tmp_path / "o.json")) == (job, tmp_path / "o.json")


def test_threads_hold_numpy_too(tmp_path, frames, monkeypatch):
    seen = {}
    monkeypatch.setattr(room.subprocess, "run", lambda *_, env, **__: seen.update(env) or Broken)
    with pytest.raises(RuntimeError):
        measure_in_process(Job(tmp_path, frames, threads=3))
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("trained_on", "split", "expected"),
    [
        ("unknown", "val", None),
        ("camvid train", "val", False),
        ("camvid train", "train", True),
        ("camvid train", "tune", True),
        ("camvid (train)", "tune", True),
        ("CamVid train (SegNet split)", "val", False),
        ("CamVid train (SegNet split)", "tune", True),
        ("camvid tune", "train", False),
        ("all our robot frames", "val", None),
        ("camvid", "val", None),
        ("our robot frames + camvid val", "val", True),
        ("camvid train + our robot frames", "val", None),
        ("synthetic train + camvid val", "val", True),
        ("camvid:train", "train", True),
        ("synthetic train", "train", False),
    ],
)
def test_seen_in_training(trained_on, split, expected):
    assert seen_in_training(trained_on, "camvid", split) is expected


def test_an_empty_set_or_mixed_sizes_are_refused(tmp_path, camvid):
    dataset = open_dataset(camvid, "val")
    with pytest.raises(DataError, match="has no frames in split 'val'"):
        write_timing_frames(tmp_path / "f.npy", dataset.subset([]), SPEC)
    other = Path(camvid.partition(":")[2]) / "val" / "0.png"
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(other)
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(
        other.parent.with_name("valannot") / other.name
    )
    free = dataclasses.replace(SPEC, size=None)
    with pytest.raises(DataError, match="frames differ in size"):
        write_timing_frames(tmp_path / "f.npy", dataset, free)


# On a board


def test_a_row_of_a_board(tmp_path, frames):
    tree = board_tree("orin_nano", tmp_path / "board")
    job = Job(make_folder(tmp_path / "net"), frames, rule=QUICK, pace=Pace(200, 5))
    row = measure(job, tree)
    json.dumps(row, allow_nan=False)
    assert row["machine"]["board"].startswith("NVIDIA Jetson Orin Nano")
    assert row["machine"]["power_mode"] == "2 MAXN_SUPER"
    power, n = row["power"], row["latency_ms"]["n"]
    assert power["total_w"] == {"mean": 8, "min": 8, "max": 8}
    # 8 W all the time, 20 frames of 5 ms each and more where this machine is busy
    assert power["energy_mj_per_frame"] == pytest.approx(power["energy_j"] * 1e3 / n, abs=0.1)
    assert power["energy_mj_per_frame"] > 8 * 4.5
    assert row["conditions"]["temperatures_c"]["tj"]["max"] == 50.75
    assert row["timing"]["throttled"] == []
    assert row["pace"]["fps"] == 200
    assert row["pace"]["frames"] >= n
    assert row["soak"] is None


class HotEngine(ScoresEngine):
    """While it runs, the board finds that too much current flows."""

    tree: Path

    def infer(self, images):
        put(self.tree, "sys/class/hwmon/hwmon3/oc3_event_cnt", f"{37 + len(self.seen)}\n")
        return super().infer(images)


def test_a_throttled_row_says_so(tmp_path, frames, monkeypatch):
    HotEngine.tree = board_tree("orin_nano", tmp_path / "board")
    monkeypatch.setitem(ENGINES, "fake", f"{__name__}:HotEngine")
    output = OutputSpec("scores", 2, "bilinear", 2)
    row = measure(Job(make_folder(tmp_path / "net", output=output), frames, rule=QUICK),
                  HotEngine.tree)  # fmt: skip
    (said,) = row["timing"]["throttled"]
    assert said.startswith("instantaneous over-current (oc3): ")


def test_a_soak_in_a_row(tmp_path, frames):
    tree = board_tree("thor", tmp_path / "board")
    job = Job(make_folder(tmp_path / "net"), frames, rule=QUICK, soak=0.5)
    found = measure(job, tree)["soak"]
    assert found["calls"] == sum(w["n"] for w in found["windows"]) > 20
    assert 10 < found["host_growth"]["first_mib"] < 2000
    assert found["device_growth"] is None  # a CPU's engine: nobody asks a GPU
    assert found["power"]["total_w"]["mean"] == 25
    assert found["windows"][0]["hottest_c"] == 55.1
    assert found["throttled"] == ["devfreq-gpu-gpc-0 held it back in 2 of 2 readings (state 18)"]


def test_batches_have_no_camera(tmp_path, frames):
    folder = make_folder(tmp_path / "net", input=dataclasses.replace(SPEC, batch=3))
    with pytest.raises(UsageError, match="takes 3 frames a call; --fps is for one camera"):
        measure(Job(folder, frames, rule=QUICK, pace=Pace(30, 33)))
