"""What the board did, in the report: throttling, power, deadlines and the long run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from test_report import ROWS, WHEN, row

from edgeseg.benchmarks.report import to_html
from edgeseg.benchmarks.rows import headline, unclean
from edgeseg.benchmarks.tables import results_table

pytestmark = pytest.mark.unit

THROTTLED = {"throttled": ["gpu-throttle-alert held it back in 3 of 9 readings (state 1)"]}


def test_a_throttled_row_never_leads_while_there_is_another():
    fast = row(5.0, 60.4, timing=THROTTLED)
    assert headline([*ROWS, fast]) is ROWS[1]
    assert headline([fast]) is fast
    assert unclean(ROWS) is None
    assert unclean([fast]) == (
        "Not clean: the machine slowed itself down while it was timed (gpu-throttle-alert held it "
        "back in 3 of 9 readings (state 1)). Cool it or choose a lower power mode, and measure "
        "again."
    )
    said = unclean([*ROWS, fast])
    assert said is not None
    assert "while 1 of 6 rows were timed" in said


def test_a_throttled_row_is_marked_everywhere():
    page = to_html({"results": [row(timing=THROTTLED)], "created": WHEN})
    assert page.count("Not clean: the machine slowed itself down") == 3  # top, table, method
    assert '<span class="down" title="the machine throttled">!</span>' in page
    assert "Not clean:" in results_table({"results": [row(timing=THROTTLED)]})
    clean = to_html({"results": [row(timing={"throttled": []})], "created": WHEN})
    assert "<dt>throttling</dt><dd>none while a row was timed</dd>" in clean
    assert "Not clean" not in clean
    assert "<dt>throttling</dt><dd>not told by this machine</dd>" in to_html({"results": ROWS})


PACE = {
    "fps": 30.0, "deadline_ms": 33.0, "frames": 1000, "late": 7, "lost": 2, "missed": 9,
    "missed_percent": 0.9, "response_ms": {"p50": 12.0, "p99": 30.0, "max": 41.0},
    "jitter_ms": {"p50": 0.5, "p99": 4.0, "max": 9.0},
}  # fmt: skip
POWER = {
    "total_w": {"mean": 8.25, "min": 7.0, "max": 10.5}, "total_is": ["VDD_IN"],
    "rails_w": {"VDD_IN": {"mean": 8.25}, "VDD_SOC": {"mean": 1.5}},
    "energy_j": 82.5, "energy_mj_per_frame": 82.5,
}  # fmt: skip
CONDITIONS = {
    "readings": 50, "temperatures_c": {"tj": {"mean": 50.0, "max": 61.25}},
    "clocks_mhz": {
        "gpu": {"min": 306.0, "max": 1020.0, "mean": 900.0, "locked": False},
        "emc": {"min": 3199.0, "max": 3199.0, "mean": 3199.0},
    },
    "emc_percent": {"min": 12.0, "max": 61.0, "mean": 37.6}, "unread": ["what is root's"],
    "fan_percent": {"mean": 40.0},
}  # fmt: skip


def soaked(**changes):
    windows = [
        {"t_s": i + 1.0, "n": 10, "median_ms": 10.0 + i, "max_ms": 20.0 + i, "host_mib": 100.0}
        for i in range(5)
    ]
    grown = {"first_mib": 100.0, "last_mib": 109.5, "mib": 9.5, "mib_per_hour": 19.0}
    return {
        "seconds": 1800.0, "calls": 50, "max_ms": 24.0, "first_ms": 10.0, "last_ms": 14.0,
        "drift_percent": 40.0, "host_growth": grown, "device_growth": None, "steady": False,
        "found": ["latency rose by 40.0 %, from 10.00 to 14.00 ms"], "throttled": None,
        "pace": None, "power": None, "windows": windows, **changes,
    }  # fmt: skip


def test_what_the_board_did_stands_in_the_report():
    told = row(pace=PACE, power=POWER, conditions=CONDITIONS, timing={"throttled": []})
    page = " ".join(to_html({"results": [told], "created": WHEN}).split())
    for words in (
        "9 of 1,000 frames missed it (7 late, 2 lost): 33 ms at 30 frames a second",
        "p50 12.0 ms from a frame&#x27;s arrival to its labels, p99 30.0, at most 41.0",
        "p50 0.50 ms off the camera&#x27;s period, p99 4.00, at most 9.00",
        "82.5 mJ a frame",
        "<b>82.5 mJ</b><span>energy of a frame, whole module</span>",
        "8.25 W on average, at most 10.50 (VDD_IN)",
        "VDD_IN 8.25 W, VDD_SOC 1.50 W",
        "tj 61.2 °C",
        "gpu 306 to 1020 MHz, not locked, emc 3199 MHz",
        "<dt>memory busy</dt><dd>38 % of its clocks on average, at most 61 %</dd>",
        "<dt>not read</dt><dd>what is root&#x27;s</dd>",
        "<dt>fan</dt><dd>40 %</dd>",
        "<dt>throttling</dt><dd>none</dd>",
        "Energy is the whole module's",
    ):
        assert words in page, words
    assert 'id="board"' not in to_html({"results": ROWS})


def test_rails_whose_sum_is_not_known_are_said_to_be():
    power = {**POWER, "total_w": None, "total_is": [], "energy_mj_per_frame": None}
    page = to_html({"results": [row(power=power)]})
    assert "the sum of this board&#x27;s rails is not known" in page


def test_the_long_run_stands_in_the_report():
    page = to_html({"results": [row(soak=soaked(pace=PACE, power=POWER))], "created": WHEN})
    for words in (
        "<dt>verdict</dt><dd>latency rose by 40.0 %, from 10.00 to 14.00 ms</dd>",
        "10.0 to 14.0 ms (+40.0 %), slowest 24.0 of 50 calls in 1,800 s",
        "100.0 to 109.5 MiB (+9.5, +19.0 MiB an hour)",
        "9 of 1,000 frames missed it",
    ):
        assert words in page, words
    chart = page[page.index('id="soak"') :]
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", chart)[0])
    # median and slowest; host memory, and no device's; for wide screens and for narrow ones
    assert chart.count("<polyline") == 6
    throttled = soaked(throttled=["oc3: 2 times"], steady=True, found=[])
    page = to_html({"results": [row(soak=throttled)], "created": WHEN})
    assert "steady. Not clean: oc3: 2 times" in page
    assert "in the long run oc3: 2 times" in page
    assert 'id="soak"' not in to_html({"results": ROWS})
