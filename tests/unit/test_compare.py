"""`edgeseg compare`: conditions, matching, refusals, exit codes."""

from __future__ import annotations

import copy
import json

import pytest

from edgeseg.benchmarks.compare import Condition, compare, name_of, parse_conditions, to_text
from edgeseg.cli import main
from edgeseg.errors import UsageError

pytestmark = pytest.mark.unit


def row(**changes):
    made = {
        "model": "net",
        "target": "openvino",
        "precision": "int8",
        "inference_precision": "f32",
        "size": [256, 512],
        "batch": 1,
        "threads": 2,
        "file_mib": 0.5,
        "load_ms": 100.0,
        "latency_ms": {"p50": 10.0, "p90": 12.0, "p99": None, "samples": [10.0]},
        "throughput_fps": 98.0,
        "peak_rss_mib": 200.0,
        "miou": 60.0,
        "per_class": {"road": 90.0, "pole": 30.0, "train": None},
        "pixel_accuracy": 92.0,
        "data": {"kind": "camvid", "split": "val", "frames": 101},
        "rule": "r",
        "fit": "pad",
        "engine": {"name": "openvino", "version": "1"},
        "machine": {"cpu": "C", "fingerprint": "f00d", "power_mode": None},
    }
    return {**copy.deepcopy(made), **changes}


def results(*rows):
    return {"results": list(rows)}


def times(p50, p90=12.0):
    return {"p50": p50, "p90": p90, "p99": None, "samples": [p50]}


@pytest.fixture
def files(tmp_path):
    def write(a, b):
        paths = []
        for name, content in (("A.json", a), ("B.json", b)):
            path = tmp_path / name
            path.write_text(json.dumps(content))
            paths.append(str(path))
        return paths

    return write


def test_conditions_are_parsed():
    assert parse_conditions("miou<-0.5, p50>+10%") == (
        Condition("miou", -1, 0.5, False, "miou<-0.5"),
        Condition("p50", 1, 10.0, True, "p50>+10%"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("miou<0.5", "'miou<0.5' is no condition; expected METRIC<-X"),
        ("", "'' is no condition"),
        ("miou<-0.5,", "'' is no condition"),
        ("p50>+ten%", "'p50>\\+ten%' is no condition"),
        ("p5>+10%", "unknown metric 'p5'. Did you mean 'p50'"),
    ],
)
def test_a_malformed_condition_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_conditions(text)


@pytest.mark.parametrize(
    ("text", "before", "after", "holds"),
    [
        ("miou<-0.5", 60.0, 59.5, False),  # exactly the budget
        ("miou<-0.5", 60.0, 59.49, True),
        ("miou<-0.5", 60.0, 65.0, False),
        ("p50>+10%", 10.0, 11.0, False),
        ("p50>+10%", 10.0, 11.01, True),
        ("p50>+1", 10.0, 11.01, True),
        ("p50>+10%", 10.0, 5.0, False),
        ("throughput_fps<-10%", 100.0, 89.0, True),
    ],
)
def test_a_condition_holds(text, before, after, holds):
    assert parse_conditions(text)[0].holds(before, after) is holds


def test_no_regression_is_exit_0(files, capsys):
    a, b = files(results(row()), results(row(miou=60.2, latency_ms=times(10.5))))
    assert main(["compare", a, b, "--fail-on", "miou<-0.5,p50>+10%,worst_class<-1"]) == 0
    out = capsys.readouterr().out
    assert "net openvino int8 256x512 2 threads" in out
    assert "p50                 10.00 ->      10.50 ms      +0.50     +5.0 %" in out
    assert "miou                60.00 ->      60.20         +0.20" in out


def test_a_regression_is_exit_1_and_names_rows_and_values(files, capsys):
    worse = row(miou=59.0, latency_ms=times(12.0), per_class={"road": 91.0, "pole": 25.0})
    a, b = files(results(row()), results(worse))
    assert main(["compare", a, b, "--fail-on", "miou<-0.5,p50>+10%,worst_class<-1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "net openvino int8 256x512 2 threads: miou went from 60.00 to 59.00" in error
    assert "p50 went from 10.00 to 12.00 ms, which is past 'p50>+10%'" in error
    assert "worst_class (pole) went from 30.00 to 25.00, which is past 'worst_class<-1'" in error


def test_worse_without_a_condition_is_only_told(files, capsys):
    a, b = files(results(row()), results(row(miou=20.0)))
    assert main(["compare", a, b]) == 0
    assert "-40.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"machine": {"cpu": "D", "fingerprint": "beef", "power_mode": None}},
            r"machine differs: C \(f00d\) in A, D \(beef\) in B",
        ),
        (
            {"machine": {"cpu": "C", "fingerprint": "f00d", "power_mode": "0 MAXN"}},
            "power mode differs: None in A, 0 MAXN in B",
        ),
        (
            {"engine": {"name": "openvino", "version": "2"}},
            "engine differs: openvino 1 in A, openvino 2 in B",
        ),
        (
            {"pace": {"fps": 30.0, "missed_percent": 0.0}},
            "pace differs: one call after the other in A, 30 frames a second in B",
        ),
        (
            {"timing": {"throttled": ["gpu-throttle-alert held it back"]}},
            "the machine throttled in B .gpu-throttle-alert held it back.; its latency can't be",
        ),
        (
            {"soak": {"throttled": ["oc3: 2 times"]}},
            "the machine throttled in B .in the long run oc3: 2 times.; its latency",
        ),
        ({"fit": "stretch"}, "fit differs: pad in A, stretch in B; mIoU can't be compared"),
        (
            {"data": {"kind": "camvid", "split": "val", "frames": 20}},
            "data differs: .*101.* in A, .*20.* in B",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        compare(results(row()), results(row(**change)))


def test_energy_and_missed_deadlines_are_metrics():
    pace = {"fps": 30.0, "missed_percent": 1.0}
    a = row(power={"energy_mj_per_frame": 100.0}, pace=pace)
    b = row(power={"energy_mj_per_frame": 120.0}, pace={**pace, "missed_percent": 1.5})
    conditions = parse_conditions("energy_mj>+10%,missed_percent>+1")
    (said,) = compare(results(a), results(b), conditions).failures
    assert "energy_mj went from 100.00 to 120.00 mJ, which is past 'energy_mj>+10%'" in said


def test_accuracy_is_compared_across_machines_when_only_that_is_asked():
    other = row(machine={"cpu": "D", "fingerprint": "beef", "power_mode": None}, miou=59.0)
    found = compare(results(row()), results(other), parse_conditions("miou<-0.5"))
    assert len(found.failures) == 1
    assert "miou went from 60.00 to 59.00" in found.failures[0]
    text = to_text(found)
    assert "p50" not in text
    assert "left out: machine differs" in text


def test_a_missing_row_fails_only_under_conditions(files, capsys):
    a, b = files(results(row(), row(threads=1)), results(row(), row(size=[512, 1024])))
    assert main(["compare", a, b]) == 0
    out = capsys.readouterr().out
    assert "only in A: net openvino int8 256x512 1 thread\n" in out
    assert "only in B: net openvino int8 512x1024 2 threads\n" in out
    assert main(["compare", a, b, "--fail-on", "p50>+10%"]) == 1
    assert "256x512 1 thread: missing in B" in capsys.readouterr().err


def test_a_metric_that_was_not_measured_is_no_pass():
    found = compare(results(row()), results(row()), parse_conditions("p99>+10%"))
    assert found.failures == (
        "net openvino int8 256x512 2 threads: p99 was not measured in A, so 'p99>+10%' "
        "can't be judged",
    )


def test_every_part_of_the_identity_separates_rows():
    for change in (
        {"model": "m"}, {"target": "t"}, {"precision": "fp32"}, {"inference_precision": "bf16"},
        {"size": [1, 2]}, {"batch": 4}, {"threads": 1}, {"crf": {"w1": 4.0, "by": "native"}},
    ):  # fmt: skip
        found = compare(results(row(), row(**change)), results(row()))
        assert len(found.only_a) == 1, change
    by = {"crf": {"w1": 4.0, "by": "numpy"}}
    (matched,) = compare(results(row(**by)), results(row(**change))).matched
    assert name_of(matched) == "net openvino int8 256x512 2 threads dense CRF w1=4"
    with pytest.raises(UsageError, match="is twice in A; rows must differ"):
        compare(results(row(), row()), results(row()))
    with pytest.raises(UsageError, match="no row in common"):
        compare(results(row()), results(row(threads=1)))


def test_json_on_standard_output_and_in_a_file(files, capsys, tmp_path):
    a, b = files(results(row()), results(row(miou=59.0)))
    assert main(["compare", a, b, "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rows"][0]["size"] == [256, 512]
    assert content["rows"][0]["differences"]["miou"] == {
        "a": 60.0, "b": 59.0, "change": -1.0, "detail": "",
    }  # fmt: skip
    out = tmp_path / "out.json"
    assert main(["compare", a, b, "--fail-on", "miou<-0.5", "--json", str(out)]) == 1
    assert len(json.loads(out.read_text())["failures"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no list 'results'"),
        ('{"results": []}', "holds no list 'results'"),
        ('{"results": [3]}', r"results\[0\] has no 'model'"),
        ('{"results": [{"model": "m"}]}', r"results\[0\] has no 'target'"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, capsys, text, message):
    path = tmp_path / "A.json"
    path.write_text(text)
    assert main(["compare", str(path), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"edgeseg: {path}: ")
    assert captured.err.count("\n") == 1
    import re

    assert re.search(message, captured.err)


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "no.json"), str(tmp_path / "no.json")]) == 2
    assert "no.json: no such file; 'edgeseg bench' writes results.json" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"edgeseg: {tmp_path}: is a folder; give the results.json in it\n"


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["compare", "--help"])
    assert leaving.value.code == 0
    assert "--fail-on 'miou<-0.5,p50>+10%'" in capsys.readouterr().out
