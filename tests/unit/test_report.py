"""The report, its charts, and the README's table: by hand-computed rows."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from edgeseg.benchmarks.charts import (
    STRIP,
    Point,
    Scale,
    front_chart,
    linear_ticks,
    log_ticks,
    overlap,
    place_labels,
    strip_chart,
    text_width,
)
from edgeseg.benchmarks.pictures import choose_frames, take_pictures
from edgeseg.benchmarks.report import to_html, write_report
from edgeseg.benchmarks.rows import (
    count,
    crf_name,
    disturbance,
    front,
    headline,
    milliseconds,
    miou_change,
    number,
    precision_name,
    reference,
    short_names,
    signed,
    speed_up,
)
from edgeseg.benchmarks.tables import PAGE, results_table, with_table
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import UsageError
from edgeseg.labels import ClassTable
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter

pytestmark = pytest.mark.unit

WHEN = "2026-01-31T14:05:06+00:00"
TABLE = ClassTable("two", ("road", "sky & <sea>"), ((255, 0, 0), (0, 0, 255)))


def row(p50=10.0, miou=60.0, **changes):
    samples = [p50] * 90 + [p50 * 1.5] * 10
    made = {
        "model": "net",
        "target": "openvino",
        "precision": "int8",
        "inference_precision": "f32",
        "size": [256, 512],
        "batch": 1,
        "params": 364000,
        "macs": 1020000000,
        "uncounted": {},
        "file_mib": 0.5,
        "load_ms": 100.0,
        "latency_ms": {
            "p50": p50, "p90": p50, "p99": None, "p999": None, "max": p50 * 1.5, "n": 100,
            "samples": samples,
        },
        "stages_ms": {},
        "throughput_fps": 95.2,
        "threads": 2,
        "decode": "in the graph",
        "peak_rss_mib": 200.0,
        "miou": miou,
        "per_class": {"road": 90.0, "sky & <sea>": None},
        "frame_miou": {"a": 70.0, "b": 50.0, "c": 60.0},
        "pixel_accuracy": 92.0,
        "data": {"kind": "camvid", "split": "val", "frames": 101},
        "seen_in_training": False,
        "fit": "pad",
        "rule": "the rule",
        "gate": "passed",
        "engine": {"name": "openvino", "version": "2026.1", "device": "CPU"},
        "machine": {
            "cpu": "Some CPU", "cores": 2, "board": None, "features": ["avx2"], "memory_gib": 8,
            "os": "Debian", "kernel": "6", "python": "3.11", "libraries": {"numpy": "2"},
            "power_mode": None, "load": 0.1, "fingerprint": "f00d",
        },
        "power": None,
    }  # fmt: skip
    return {**made, **changes}


FLOAT = {"precision": "fp32", "file_mib": 1.5}
ROWS = [
    row(30.0, 60.5, **FLOAT),
    row(10.0, 60.3),
    row(40.0, 60.5, target="onnxruntime", **FLOAT),
    row(20.0, 60.1, target="onnxruntime"),
    row(5.0, 55.0, size=[128, 256]),
]


# --- what rows say about each other


def test_front_by_hand():
    #          beaten by 2  on the front  on       slower, no better  on
    points = [(10.0, 50.0), (5.0, 40.0), (9.0, 55.0), (20.0, 55.0), (30.0, 60.0)]
    assert front(points) == [1, 2, 4]
    assert front([(5.0, 40.0)]) == [0]
    assert front([(5.0, 40.0), (5.0, 41.0)]) == [1]
    assert front([(5.0, 40.0), (5.0, 40.0)]) == [0, 1]


def test_the_float_reference_is_that_of_the_same_engine_then_torch():
    assert reference(ROWS[1], ROWS) is ROWS[0]
    assert reference(ROWS[3], ROWS) is ROWS[2]
    assert reference(ROWS[0], ROWS) is None
    assert reference(ROWS[4], ROWS) is None  # no float row of that size
    torch = row(99.0, 60.6, target="torch", **FLOAT)
    assert reference(row(target="tensorrt"), [*ROWS, torch]) is torch
    assert reference(ROWS[1], [*ROWS, torch]) is ROWS[0]
    bf16 = row(precision="fp32", inference_precision="bf16")
    assert reference(bf16, [bf16, *ROWS]) is ROWS[0]
    assert miou_change(ROWS[1], ROWS) == pytest.approx(-0.2)
    assert miou_change(row(miou=None), ROWS) is None


def test_speed_up_is_within_one_engine():
    assert speed_up(ROWS[1], ROWS) == 3.0
    assert speed_up(ROWS[1], [ROWS[1], ROWS[2]]) is None


def test_the_headline_is_right_first_then_fast():
    assert headline(ROWS) is ROWS[1]  # not the 5 ms row, which is 5 points worse
    assert headline([ROWS[0], ROWS[2]]) is ROWS[0]
    fast = row(4.0, None)
    assert headline([fast, row(5.0, None)]) is fast
    few = row()
    few["latency_ms"]["p50"] = None
    assert headline([few]) is None


def test_numbers_as_people_read_them():
    assert [milliseconds(v) for v in (1.234, 9.994, 9.996, 27.33, 148.4, None)] == [
        "1.23", "9.99", "10.0", "27.3", "148", "–",
    ]  # fmt: skip
    assert [count(v) for v in (4_100_000_000, 345_000, 999_600, 12, None)] == [
        "4.10 G", "345 k", "1.00 M", "12", "–",
    ]  # fmt: skip
    values = (0.24, -0.24, -0.04, 0.0, None)
    assert [signed(v) for v in values] == ["+0.2", "−0.2", "0.0", "0.0", "–"]
    assert number(1234.56) == "1,234.6"
    assert precision_name(row(precision="fp16", inference_precision="bf16")) == "FP16 (bf16)"
    assert precision_name(row()) == "INT8"


def test_short_names_hold_what_differs():
    assert short_names(ROWS[:2]) == ["FP32", "INT8"]
    assert short_names(ROWS[3:]) == ["ONNX Runtime 256×512", "OpenVINO 128×256"]
    assert short_names([row()]) == ["OpenVINO INT8"]
    assert short_names([row(threads=1), row()]) == ["1 thread", "2 threads"]


CRF = {"w1": 4.0, "iterations": 10, "by": "native"}


def test_rows_with_the_dense_crf_are_apart():
    floats = row(330.0, 63.0, crf=CRF, **FLOAT)
    smoothed = row(310.0, 62.5, crf=CRF)
    rows = [ROWS[0], ROWS[1], floats, smoothed]
    assert reference(smoothed, rows) is floats
    assert reference(ROWS[1], [floats, ROWS[0]]) is ROWS[0]
    assert headline(rows) is ROWS[1]
    assert headline([floats, smoothed]) is smoothed
    assert short_names([ROWS[1], smoothed]) == ["OpenVINO INT8", "dense CRF"]
    assert crf_name(smoothed) == "dense CRF w1=4 iterations=10"


def test_the_report_says_what_ran_beside_the_engine():
    """Two rows prepare alike, the third has the CRF and what it costs."""
    prepared = {"prepare": "native avx2, 2 threads"}
    rows = [
        row(10.0, **prepared),
        row(11.0, threads=1, **prepared),
        row(300.0, crf=CRF, decode="ignored", stages_ms={"crf": {"p50": 289.4}}, **prepared),
    ]
    page = to_html({"results": rows})
    ran = "Frames of other sizes prepared: native avx2, 2 threads; "
    assert f"Rows 1, 2: {ran}decode: in the graph." in page
    assert f"Row 3: {ran}dense CRF w1=4 iterations=10, 289 ms of the call." in page
    assert "INT8, dense CRF" in page


# --- charts


def test_scales_and_ticks():
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(1, 100, 0, 100, log=True)(10) == pytest.approx(50)
    assert log_ticks(4, 250) == [5, 10, 20, 50, 100, 200]
    assert log_ticks(11, 16) == pytest.approx([11, 12, 13, 14, 15, 16])
    assert linear_ticks(64.2, 69.9) == pytest.approx([65, 66, 67, 68, 69])
    assert linear_ticks(0, 100) == pytest.approx([0, 20, 40, 60, 80, 100])
    for low, high in ((1, 1.2), (0.01, 3), (5, 5.6), (1, 90000)):
        assert 2 <= len(log_ticks(low, high)) <= 9
        assert all(low <= t <= high for t in log_ticks(low, high))


@pytest.mark.parametrize("seed", range(12))
def test_labels_touch_neither_each_other_nor_a_point(seed):
    rng = random.Random(seed)
    spots = [(rng.uniform(60, 1000), rng.uniform(40, 400)) for _ in range(16)]
    spots[1] = (spots[0][0] + 3, spots[0][1])  # two points on top of each other
    labels = [f"ONNX Runtime FP32 {i:02}" for i in range(16)]
    placed = place_labels(spots, labels, (50, 20, 1064, 430))
    assert sum(p is not None for p in placed) >= 15
    boxes = [p.box for p in placed if p]
    for i, box in enumerate(boxes):
        assert box[2] - box[0] == pytest.approx(text_width(labels[0]))
        assert box[0] >= 50 and box[2] <= 1064 and box[1] >= 20 and box[3] <= 430
        assert not any(overlap(box, other) for other in boxes[i + 1 :])
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in spots)


def test_a_label_without_room_is_left_away():
    assert place_labels([(5, 5)], ["far too long"], (0, 0, 20, 20)) == [None]


def test_front_chart_draws_every_point_and_marks_the_front():
    points = [
        Point(10, 60, "a<b", "openvino", "int8", "t"),
        Point(30, 61, "c", "torch", "fp32", "t"),
        Point(40, 59, "d", "unheard of", "fp32", "t"),
    ]
    svg = ElementTree.fromstring(front_chart(points, 800, 400))
    space = {"s": "http://www.w3.org/2000/svg"}
    marks = [g.get("class") for g in svg.findall("s:g", space)]
    assert marks == ["mark int8 on", "mark fp32 on", "mark fp32 off"]
    assert [t.text for t in svg.findall("s:text[@class='label']", space)] == ["a<b", "c", "d"]
    crowded = ElementTree.fromstring(front_chart(points, 800, 400, most=2))
    assert [t.text for t in crowded.findall("s:text[@class='label']", space)] == ["a<b", "c"]
    assert ElementTree.fromstring(front_chart(points[:1], 350, 300)) is not None


def test_a_strip_holds_every_sample_and_the_marks():
    x = Scale(0, 100, 0, STRIP[0])
    svg = strip_chart([10.0, 20.0, 20.0, 99.0], [20.0, None, 99.0], x)
    parts = {p.get("class"): p.get("d") for p in ElementTree.fromstring(svg)}
    assert re.findall(r"M([\d.]+) ", parts["rug"]) == ["100", "200", "990"]
    assert parts["p50"].startswith("M200.0 ")
    assert parts["p99"].startswith("M990.0 ")
    assert "p90" not in parts


# --- the page


class Page(HTMLParser):
    """Text, tags that are open, and every address in the page."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def pictures():
    frame = np.zeros((20, 30, 3), np.uint8)
    truth = np.zeros((20, 30), np.uint8)
    truth[:5] = 255
    int8 = truth.copy()
    int8[10:, :3] = 1
    both = {"title": "Best <b>", "frame": frame, "truth": truth, "miou": 70.0}
    alone = {"title": "Only", "frame": frame, "truth": None, "miou": None}
    return [
        {**both, "float": truth, "int8": int8},
        {**alone, "float": truth, "int8": None},
    ]


@pytest.fixture(scope="module")
def html():
    results = {"results": ROWS, "command": "edgeseg bench A & B", "created": WHEN}
    return to_html(results, pictures(), TABLE)


def test_the_page_is_well_formed_and_loads_nothing(html):
    page = Page(html)
    assert page.addresses
    assert all(a.startswith("data:image/jpeg;base64,") for a in page.addresses)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", html)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", html)
    assert 'name="viewport"' in html
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 720px"):
        assert query in html


def test_every_svg_is_xml(html):
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) >= 2 + len(ROWS)
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_the_headline(html):
    text = " ".join(Page(html).text)
    assert "10.0 ms  a frame, mIoU  60.3   (−0.2 against float)" in text
    assert "net at 256×512, INT8 on OpenVINO, 2 threads: the median of 100 whole calls" in text
    assert "3.0×" in text


def test_every_row_is_in_the_table_and_has_a_strip(html):
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1]
    assert body.count("<tr") == len(ROWS)
    assert body.count('class="lead-row"') == 1
    for r in ROWS:
        assert f"<b>{milliseconds(r['latency_ms']['p50'])}</b>" in body
        assert f">{r['miou']:.2f}<" in body
    assert body.count("−0.20</td>") == 1
    assert body.count("−0.40</td>") == 1
    assert html.count('class="plot"') == len(ROWS)
    assert "too few samples for it" in html


def test_pictures_say_where_int8_differs(html):
    assert html.count("<img") == 1 + 5 + 2  # the cover, one of both networks, one of one
    assert "INT8 differs from float: 5.0 % of pixels" in html  # 30 of 600
    assert "Best &lt;b&gt;" in html
    assert "sky &amp; &lt;sea&gt;" in html


def test_machine_command_and_rule_are_told(html):
    text = " ".join(Page(html).text)
    for expected in (
        "Some CPU", "numpy 2", "OpenVINO 2026.1 (CPU)", "edgeseg bench A & B", "the rule", "f00d",
        "camvid val, 101 frames, fit: pad", "no: the weights never saw these frames",
        "2026-01-31 14:05 · Some CPU",
    ):  # fmt: skip
        assert expected in text


def test_frames_that_were_trained_on_are_marked():
    html = to_html({"results": [row(seen_in_training=True, uncounted={"GridSample": 1})]})
    text = " ".join(Page(html).text)
    assert "† The weights were trained on these frames" in text
    assert "yes, marked † in the table: net" in text
    assert "MACs leave out what can't be counted: GridSample." in text
    unknown = to_html({"results": [row(seen_in_training=None)]})
    assert "not known: the weights do not say" in unknown


def test_what_failed_is_told():
    failed = [{"folder": "net-<b>", "error": "gate failed: lost 3 & more"}]
    html = to_html({"results": [row()], "failed": failed, "commands": ["edgeseg a", "edgeseg b"]})
    assert "<dt>net-&lt;b&gt;</dt><dd>gate failed: lost 3 &amp; more</dd>" in html
    assert "<pre>edgeseg a\nedgeseg b</pre>" in html
    assert "Not measured" not in to_html({"results": [row()], "failed": []})


def test_pictures_of_a_float_headline_are_not_called_int8():
    html = to_html({"results": [row(**FLOAT)]}, [{**pictures()[0], "float": None}], TABLE)
    assert "<figcaption>FP32</figcaption>" in html
    assert "labels by the FP32 network" in html
    assert "INT8" not in html
    assert "Red marks" not in html


def test_a_busy_machine_is_told():
    quiet, busy = row(timing={"others_cores": 0.2}), row(30.0, timing={"others_cores": 1.26})
    assert disturbance([quiet, row()]) is None
    sentence = "Other programs kept up to 1.3 of 2 cores busy while 1 of 2 rows were timed"
    assert str(disturbance([quiet, busy])).startswith(sentence)
    assert sentence in to_html({"results": [quiet, busy]})
    assert sentence in results_table({"results": [quiet, busy]})
    assert "Other programs kept 1.3 of 2 cores busy meanwhile" in to_html({"results": [busy]})
    assert "meanwhile" not in to_html({"results": [quiet, busy]})  # the headline is the quiet one
    assert "no other program took more than a tenth" in to_html({"results": [quiet]})


def test_a_poor_result_still_makes_a_page():
    bare = row(miou=None, per_class=None, data=None, rule=None, fit=None, gate=None, macs=None,
               params=None, peak_rss_mib=None, seen_in_training=None)  # fmt: skip
    few = json.loads(json.dumps(bare))
    few["latency_ms"] = {
        "p50": None,
        "p90": None,
        "p99": None,
        "max": 3.0,
        "n": 1,
        "samples": [3.0],
    }
    for rows in ([bare], [few], [bare, few, row(batch=4)]):
        Page(to_html({"results": rows}))
    assert "Too few samples for a median" in to_html({"results": [few]})


def test_report_refuses():
    with pytest.raises(UsageError, match="a result without rows makes no report"):
        to_html({"results": []})
    with pytest.raises(UsageError, match="pictures need a class table"):
        to_html({"results": ROWS}, pictures())


def test_the_report_is_written_whole(tmp_path):
    path = tmp_path / "report.html"
    write_report({"results": ROWS}, path)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert list(tmp_path.iterdir()) == [path]


# --- which frames


def test_frames_are_chosen_by_their_miou():
    float_row = row(frame_miou={"a": 71.0, "b": 50.5, "c": 69.0})
    assert choose_frames(row(), float_row) == {
        "a": "Best frame",
        "b": "Worst frame",
        "c": "Most lost to float (9.0 mIoU)",
    }
    assert choose_frames(row(), None) == {"a": "Best frame", "b": "Worst frame"}
    float_row["frame_miou"] = {"b": 60.0}
    assert choose_frames(row(), float_row)["b"] == "Worst frame, most lost to float (10.0 mIoU)"
    with pytest.raises(UsageError, match="no mIoU by frame; measure it with --data"):
        choose_frames(row(frame_miou=None), None)


def test_pictures_are_taken_of_the_named_frames():
    images = {n: np.full((4, 6, 3), i, np.uint8) for i, n in enumerate("abc")}
    truth = np.ones((4, 6), np.uint8)
    data = Dataset(
        "camvid:x", "val", TABLE, tuple("abc"), lambda i: Sample("abc"[i], images["abc"[i]], truth)
    )
    ones = FakeEngine(answer=lambda x: np.ones(x.shape[:3], np.uint8))
    int8 = Segmenter.of(ones, TABLE, size=(4, 6))
    taken = take_pictures(data, {"c": "Best"}, {"c": 9.0}, None, int8)
    assert [p["title"] for p in taken] == ["Best: c"]
    assert taken[0]["frame"] is images["c"]
    assert taken[0]["float"] is None
    assert (taken[0]["int8"] == 1).all()
    assert taken[0]["miou"] == 9.0
    with pytest.raises(UsageError, match="camvid:x has no frame 'd' in split 'val'"):
        take_pictures(data, {"d": "Best"}, {}, None, None)


# --- the README's table


def test_results_table_by_hand():
    lines = results_table({"results": [ROWS[1], ROWS[0]]}).splitlines()
    assert lines[0].startswith("| model | size | engine | precision | MACs | params | p50 ms |")
    assert lines[1].count("---:") == 9
    assert lines[2] == (
        "| net | 256×512 | OpenVINO | INT8 | 1.02 G | 364 k | 10.0 | 10.0 | – | 95.2 | 60.30 "
        "| −0.20 | 0.50 |"
    )
    assert lines[3] == (
        "| net | 256×512 | OpenVINO | FP32 | 1.02 G | 364 k | 30.0 | 30.0 | – | 95.2 | 60.50 "
        "| – | 1.50 |"
    )
    assert "Some CPU (2 cores visible, threads: 2); OpenVINO 2026.1." in lines[5]
    assert lines[6] == "mIoU on camvid val, 101 frames, fit pad: the rule."


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# x\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    results = tmp_path / "r.json"
    results.write_text(json.dumps({"results": ROWS}))
    return path, results


def test_the_table_is_written_between_the_markers(readme, capsys):
    path, results = readme
    assert PAGE.main([str(path), str(results), "--check"]) == 1
    assert (
        "README.md is not what the results say; run 'python -m edgeseg.benchmarks.tables "
        in capsys.readouterr().err
    )
    assert "old" in path.read_text()
    assert PAGE.main([str(path), str(results)]) == 0
    text = path.read_text()
    assert text.startswith("# x\n<!-- results:begin -->\n| model |")
    assert text.endswith("<!-- results:end -->\nafter\n")
    assert "old" not in text
    assert PAGE.main([str(path), str(results), "--check"]) == 0
    path.write_text(text.replace("60.30", "69.30"))
    assert PAGE.main([str(path), str(results), "--check"]) == 1


def test_markers_and_files_must_be_there(readme, capsys):
    path, results = readme
    with pytest.raises(UsageError, match=r"x\.md: expected the lines '<!-- results:begin -->' and"):
        with_table("no markers", "t", "x.md")
    assert PAGE.main([str(path.with_name("no.md")), str(results)]) == 2
    assert "no.md: no such file" in capsys.readouterr().err
