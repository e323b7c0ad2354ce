"""The examples run: with doubles of OpenCV, GStreamer and ROS 2, and for real in C++."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_folders import SIZE, TABLE, expected, onnxruntime_folder

import edgeseg
from edgeseg.errors import EngineError, UsageError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.rooms


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while set(threading.enumerate()) > before and time.monotonic() < end:
        time.sleep(0.005)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="the example folder is for ONNX Runtime")
    onnxruntime_folder(tmp_path / "m")
    return tmp_path / "m"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def double(monkeypatch, name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def noise(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(count)]


# OpenCV


class Capture:
    """cv2.VideoCapture: `turns` holds the frames of each opening, None for one that fails."""

    turns: list[list[np.ndarray] | None]
    released: int

    def __init__(self, source: int | str) -> None:
        self.source = source
        self.frames = Capture.turns.pop(0)
        self.position = 0

    def isOpened(self) -> bool:
        return self.frames is not None

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.001)
        self.position += 1
        there = self.position <= len(self.frames)
        return there, self.frames[self.position - 1] if there else None

    def release(self) -> None:
        Capture.released += 1


@pytest.fixture
def opencv(monkeypatch) -> SimpleNamespace:
    seen = SimpleNamespace(shown=[], texts=[], keys=iter(()))
    Capture.released = 0

    def mixed(a: np.ndarray, x: float, b: np.ndarray, y: float, _: float) -> np.ndarray:
        return (a * x + b * y).astype(np.uint8)

    double(
        monkeypatch, "cv2", VideoCapture=Capture, FONT_HERSHEY_SIMPLEX=0, addWeighted=mixed,
        putText=lambda *words: seen.texts.append(words[1]),
        imshow=lambda _, image: seen.shown.append(image),
        waitKey=lambda _: next(seen.keys, -1),
    )  # fmt: skip
    return seen


def test_a_video_is_shown_to_its_end(opencv, folder: Path, capsys):
    given = noise(3)
    Capture.turns = [given]
    example("opencv_loop").main(str(folder), "drive.mp4")
    assert len(opencv.shown) == 3
    colours = np.array([[0, 0, 200], [0, 200, 0], [200, 0, 0]])  # BGR of red, green, blue
    labels = expected(given[0][..., ::-1])
    assert np.array_equal(opencv.shown[0], (given[0] * 0.5 + colours[labels] * 0.5).astype(int))
    assert "taken=3, dropped=0, delivered=3" in capsys.readouterr().out
    assert Capture.released == 1


def test_a_camera_that_fails_is_opened_again_and_a_key_ends_the_loop(opencv, folder: Path):
    Capture.turns = [noise(1), noise(1) * 5000]
    opencv.keys = iter([-1, 27])
    example("opencv_loop").main(str(folder), "0")
    assert len(opencv.shown) == 2
    assert Capture.turns == []


def test_what_opencv_can_not_open_is_said(opencv):
    Capture.turns = [None]
    with pytest.raises(EngineError, match=r"OpenCV can't open 'no\.mp4'; give a camera"):
        next(example("opencv_loop").frames("no.mp4"))
    assert Capture.released == 1


def test_a_networks_stream_is_live(opencv, folder: Path):
    Capture.turns = [noise(1), noise(1) * 5000]
    opencv.keys = iter([-1, 27])
    example("opencv_loop").main(str(folder), "rtsp://front")
    assert Capture.turns == [], "opened again"


def test_late_results_are_marked_in_the_picture(opencv):
    frame, labels = noise(1)[0], np.zeros(SIZE, np.uint8)
    result = SimpleNamespace(frame=frame, labels=labels, late=True)
    example("opencv_loop").draw(result, np.zeros((256, 3), np.uint8))
    assert opencv.texts == ["late"]


# GStreamer


class Buffer:
    def __init__(self, data: bytes, pts: int) -> None:
        self.data, self.pts, self.mapped = data, pts, 0

    def map(self, _: int) -> tuple[bool, SimpleNamespace]:
        self.mapped += 1
        return True, SimpleNamespace(data=self.data)

    def unmap(self, _: object) -> None:
        self.mapped -= 1


class Pipeline:
    """A pipeline at 10 s of its clock that began at 2 s; `samples` come out of its sink."""

    def __init__(self, samples: list[Buffer], size: tuple[int, int]) -> None:
        self.samples, self.size, self.states, self.ended = samples, size, [], True
        self.errors: list[str] = []

    def get_by_name(self, name: str) -> Pipeline:
        assert name == "sink"
        return self

    def set_state(self, state: str) -> None:
        self.states.append(state)

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(get_time=lambda: 10_000_000_000)

    def get_base_time(self) -> int:
        return 2_000_000_000

    def try_pull_sample(self, patience: int) -> SimpleNamespace | None:
        assert patience == 2_000_000_000
        if not self.samples:
            return None
        buffer = self.samples.pop(0)
        values = dict(zip(("height", "width"), self.size, strict=True))
        caps = SimpleNamespace(get_structure=lambda _: SimpleNamespace(get_value=values.get))
        return SimpleNamespace(get_caps=lambda: caps, get_buffer=lambda: buffer)

    def is_eos(self) -> bool:
        return self.ended

    def get_bus(self) -> Pipeline:
        return self

    def pop_filtered(self, kind: str) -> SimpleNamespace | None:
        assert kind == "error"
        if not self.errors:
            return None
        error = SimpleNamespace(message=self.errors.pop(0))
        return SimpleNamespace(parse_error=lambda: (error, "debug"))


class Refused(Exception):
    """What GStreamer raises for a pipeline that it can't make."""

    message = 'no element "camrasrc"'


@pytest.fixture
def gstreamer(monkeypatch):
    launched = []

    def start(pipeline: Pipeline) -> ModuleType:
        gst = SimpleNamespace(
            SECOND=1_000_000_000, CLOCK_TIME_NONE=-1, MapFlags=SimpleNamespace(READ=1),
            MessageType=SimpleNamespace(ERROR="error"),
            State=SimpleNamespace(PLAYING="playing", NULL="null"), init=lambda _: None,
            parse_launch=lambda text: (launched.append(text), pipeline)[1],
        )  # fmt: skip
        double(monkeypatch, "gi", require_version=lambda *_: None)
        glib = SimpleNamespace(Error=Refused)
        double(monkeypatch, "gi.repository", GLib=glib, Gst=gst, GstApp=None)
        return example("gstreamer_camera")

    start.launched = launched  # type: ignore[attr-defined]
    return start


def test_frames_carry_the_time_at_which_they_were_taken(gstreamer, monkeypatch):
    """A frame 6x10 in rows of 12 bytes, taken at 7.5 s of 8: half a second ago."""
    stored = np.arange(9 * 12, dtype=np.uint8).reshape(9, 12)
    buffers = [Buffer(stored.tobytes(), 7_500_000_000), Buffer(stored.tobytes(), -1)]
    pipeline = Pipeline(list(buffers), (6, 10))
    module = gstreamer(pipeline)
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    got = list(module.frames("camerasrc"))
    assert [captured.at for captured in got] == [99.5, 100.0]
    assert np.array_equal(got[0].frame, stored[:, :10])
    assert got[0].frame.flags.owndata
    assert [buffer.mapped for buffer in buffers] == [0, 0]
    assert pipeline.states == ["playing", "null"]
    assert gstreamer.launched == [
        "camerasrc ! appsink name=sink max-buffers=1 drop=true sync=false"
    ]


def test_a_pipeline_that_falls_silent_is_said_and_stopped(gstreamer):
    pipeline = Pipeline([], (6, 10))
    pipeline.ended = False
    with pytest.raises(EngineError, match="no frame for 2 s, from: camerasrc"):
        next(gstreamer(pipeline).frames("camerasrc"))
    assert pipeline.states == ["playing", "null"]


def test_a_pipeline_that_can_not_be_made_is_what_was_typed(gstreamer, monkeypatch):
    def refuse(_: str) -> None:
        raise Refused

    module = gstreamer(Pipeline([], (6, 10)))
    monkeypatch.setattr(module.Gst, "parse_launch", refuse)
    with pytest.raises(UsageError, match='no element "camrasrc", in the pipeline: camrasrc'):
        next(module.frames("camrasrc"))


def test_what_an_element_says_is_passed_on(gstreamer):
    pipeline = Pipeline([], (6, 10))
    pipeline.errors = ["Device '/dev/video0' is gone"]
    with pytest.raises(EngineError, match="Device '/dev/video0' is gone, from: camerasrc"):
        next(gstreamer(pipeline).frames("camerasrc"))
    assert pipeline.states == ["playing", "null"]


def test_a_jetsons_frames_are_segmented_as_they_come(gstreamer, folder: Path, monkeypatch, capsys):
    stored = np.full((12, 16), 128, np.uint8)
    module = gstreamer(Pipeline([Buffer(stored.tobytes(), -1)], (8, 16)))
    seconds = iter(range(0, 10_000, 2))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    module.main(str(folder))
    assert "taken=1, dropped=0, delivered=1" in capsys.readouterr().out
    assert gstreamer.launched[0].startswith("nvarguscamerasrc ! video/x-raw(memory:NVMM)")


# ROS 2


class Message(SimpleNamespace):
    """Any message: fields are set when they are needed."""

    OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"

    def __getattr__(self, name: str) -> Message:
        if name.startswith("__"):
            raise AttributeError(name)
        value = Message()
        setattr(self, name, value)
        return value


class Publisher:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.listeners = 1

    def publish(self, message: Message) -> None:
        self.messages.append(message)

    def get_subscription_count(self) -> int:
        return self.listeners


class Node:
    """rclpy.node.Node at 50 s."""

    given: dict[str, Any]

    def __init__(self, name: str) -> None:
        self.values: dict[str, Any] = {}
        self.publishers_made: dict[str, Publisher] = {}
        self.errors: list[str] = []
        self.destroyed = False

    def declare_parameter(self, name: str, default: Any) -> None:
        self.values[name] = Node.given.get(name, default)

    def get_parameter(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(value=self.values[name])

    def create_publisher(self, kind: type, topic: str, depth: int) -> Publisher:
        return self.publishers_made.setdefault(topic, Publisher())

    def create_subscription(self, *_: object) -> None:
        pass

    def create_timer(self, *_: object) -> None:
        pass

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(error=lambda text, **_: self.errors.append(text))

    def get_clock(self) -> SimpleNamespace:
        now = SimpleNamespace(nanoseconds=50_000_000_000, to_msg=lambda: "50 s")
        return SimpleNamespace(now=lambda: now)

    def destroy_node(self) -> None:
        self.destroyed = True


@pytest.fixture
def ros(monkeypatch, folder: Path) -> ModuleType:
    Node.given = {"folder": str(folder)}
    double(monkeypatch, "rclpy")
    double(monkeypatch, "rclpy.node", Node=Node)
    double(monkeypatch, "rclpy.qos", qos_profile_sensor_data=None)
    double(monkeypatch, "sensor_msgs")
    double(monkeypatch, "sensor_msgs.msg", Image=Message)
    double(monkeypatch, "diagnostic_msgs")
    kinds = dict.fromkeys(("DiagnosticArray", "DiagnosticStatus", "KeyValue"), Message)
    double(monkeypatch, "diagnostic_msgs.msg", **kinds)
    return example("ros2_node")


def image(frame: np.ndarray, second: int, encoding: str = "rgb8") -> Message:
    """A message whose rows are four bytes longer than their pixels."""
    height, width, _ = frame.shape
    rows = np.zeros((height, width * 3 + 4), np.uint8)
    rows[:, : width * 3] = frame.reshape(height, -1)
    stamp = SimpleNamespace(sec=second, nanosec=0)
    return Message(
        data=rows.tobytes(), height=height, width=width, step=width * 3 + 4, encoding=encoding,
        header=SimpleNamespace(stamp=stamp, frame_id="front"),
    )  # fmt: skip


def published(node: Any, topic: str, count: int) -> list[Message]:
    end = time.monotonic() + 5
    messages: list[Message] = node.publishers_made[topic].messages
    while len(messages) < count and time.monotonic() < end:
        time.sleep(0.002)
    return messages


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_a_node_publishes_labels_and_overlay_of_an_image(ros, encoding: str):
    Node.given["encoding"] = encoding
    node, frame = ros.Segmentation(), noise(1)[0]
    sent = image(frame, 50, encoding)
    node.take(sent)
    overlay = published(node, "overlay", 1)[0]
    labels = published(node, "labels", 1)[0]
    node.destroy_node()
    assert labels.header is overlay.header is sent.header
    assert (labels.encoding, labels.height, labels.width, labels.step) == ("mono8", *SIZE, SIZE[1])
    shown = np.frombuffer(labels.data, np.uint8).reshape(SIZE)
    in_rgb = frame if encoding == "rgb8" else frame[..., ::-1]
    assert np.array_equal(shown, expected(in_rgb))
    assert (overlay.encoding, overlay.step) == ("rgb8", SIZE[1] * 3)
    table = edgeseg.load(Node.given["folder"], frames="rgb").classes
    drawn = ros.overlay(in_rgb, expected(in_rgb), table)
    assert overlay.data == drawn.tobytes()
    assert node.destroyed


def test_nobody_looks_and_no_overlay_is_drawn(ros):
    node = ros.Segmentation()
    node.publishers_made["overlay"].listeners = 0
    node.take(image(noise(1)[0], 50))
    assert published(node, "labels", 1)
    node.destroy_node()
    assert not node.publishers_made["overlay"].messages


def test_old_images_are_counted_and_not_published(ros):
    node = ros.Segmentation()
    node.take(image(noise(1)[0], 49))  # a second old; the deadline is 0.2 s
    end = time.monotonic() + 5
    while not node.results.counters.late and time.monotonic() < end:
        time.sleep(0.002)
    node.report()
    status = node.publishers_made["/diagnostics"].messages[0].status[0]
    node.destroy_node()
    assert not node.publishers_made["labels"].messages
    assert (status.level, status.message) == (Message.WARN, "results are late")
    assert ("late", "1") in [(value.key, value.value) for value in status.values]


def test_an_image_of_another_encoding_is_refused_with_what_to_type(ros):
    node = ros.Segmentation()
    node.take(image(noise(1)[0], 50, "bgr8"))
    node.destroy_node()
    assert node.errors == [
        "image is bgr8; this node was started for rgb8: -p encoding:=bgr8 (one of rgb8, bgr8)"
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folder": ""}, "the node needs a model folder: --ros-args -p folder:=FOLDER"),
        ({"encoding": "mono8"}, "encoding is mono8; expected one of rgb8, bgr8"),
        ({"folder": "nowhere"}, "nowhere: no such model folder"),
    ],
)
def test_a_node_that_was_started_wrongly_says_what_to_type(ros, given, said):
    Node.given.update(given)
    ended = []
    ros.rclpy.init, ros.rclpy.try_shutdown = lambda: None, lambda: ended.append(1)
    with pytest.raises(SystemExit, match=f"^edgeseg: {said}$"):
        ros.main()
    assert ended


def test_an_error_stands_in_the_diagnostics(ros):
    node = ros.Segmentation()
    node._images.put(edgeseg.Captured(np.zeros((2, 2), np.uint8), 0.0))
    end = time.monotonic() + 5
    while not node.failure and time.monotonic() < end:
        time.sleep(0.002)
    node.report()
    status = node.publishers_made["/diagnostics"].messages[0].status[0]
    node.destroy_node()
    assert status.level == Message.ERROR
    assert status.message.startswith("frame is uint8 of shape (2, 2)")
    assert node.errors[0].startswith("edgeseg has ended: frame is uint8")


# As programs


@pytest.mark.parametrize("name", ["opencv_loop", "gstreamer_camera"])
def test_an_example_says_what_to_type(name: str, opencv, gstreamer, monkeypatch, tmp_path: Path):
    gstreamer(Pipeline([], (6, 10)))
    path = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path])
    with pytest.raises(SystemExit, match=f"python examples/{name}.py FOLDER"):
        runpy.run_path(path, run_name="__main__")
    monkeypatch.setattr(sys, "argv", [path, str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"^edgeseg: .*nowhere: no such model folder$"):
        runpy.run_path(path, run_name="__main__")


# C++


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The C++ example, compiled."""
    openvino = pytest.importorskip("openvino", reason="the C++ example needs OpenVINO's headers")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    at = Path(openvino.__file__).parent
    libraries = sorted((at / "libs").glob("libopenvino.so.*"))
    if not libraries or not (at / "include" / "openvino" / "openvino.hpp").exists():
        pytest.skip("this OpenVINO came without its C++ headers or library")
    made = tmp_path_factory.mktemp("cpp") / "segment"
    source = ROOT / "examples" / "cpp" / "segment.cpp"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-Wall", "-Werror", str(source), "-isystem",
         str(at / "include"), str(libraries[0]), f"-Wl,-rpath,{at / 'libs'}", "-o", str(made)],
        check=True,
    )  # fmt: skip
    return made


def in_cpp(program: Path, folder: Path, frame: np.ndarray) -> tuple[int, str, Path]:
    at = folder.parent
    header = f"P6\n{frame.shape[1]} {frame.shape[0]}\n255\n".encode()
    (at / "frame.ppm").write_bytes(header + frame.tobytes())
    words = (str(program), str(folder), str(at / "frame.ppm"), str(at / "labels.pgm"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, at / "labels.pgm"


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_cpp_says_what_python_says(program: Path, tmp_path: Path, order: str):
    spec = edgeseg.Segmenter.of(edgeseg.FakeEngine(), TABLE, size=SIZE, order=order).input
    onnxruntime_folder(tmp_path / "m", input=spec)
    frame = noise(1)[0]
    code, said, made = in_cpp(program, tmp_path / "m", frame)
    assert (code, said) == (0, "")
    head, size, largest, labels = made.read_bytes().split(b"\n", 3)
    assert (head, size, largest) == (b"P5", b"16 8", b"255")
    python = edgeseg.load(tmp_path / "m", frames="rgb").segment(frame)
    assert labels == python.tobytes()
    assert len(set(labels)) == 3


def test_cpp_refuses_what_it_can_not_do(program: Path, folder: Path, tmp_path: Path):
    wrong = np.zeros((4, 6, 3), np.uint8)
    assert in_cpp(program, folder, wrong)[:2] == (
        2, f"segment: {tmp_path / 'frame.ppm'} is 4x6; the network takes 8x16\n",
    )  # fmt: skip
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    for old, new, said in (
        ('"passed"', '"failed"', "gate: failed; run 'edgeseg export' again"),
        ('"schema": 1', '"schema": 9', "manifest.json is of schema 9; expected 1"),
        ('"kind": "labels"', '"kind": "scores"', "the graph returns scores; export without"),
        ('"schema"', '"scheme"', "manifest.json: 'schema' is missing"),
    ):
        assert old in text
        manifest.write_text(text.replace(old, new))
        code, error, _ = in_cpp(program, folder, noise(1)[0])
        assert code == 2
        assert error.startswith(f"segment: {said}")
