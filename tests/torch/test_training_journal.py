"""What a run says: log, curves, progress."""

import io
import sys

import pytest

from edgeseg.training.curves import draw_curves
from edgeseg.training.journal import Journal, Progress, Row, read_log, write_log

pytestmark = pytest.mark.torch

ROWS = [
    Row(2, 1.5, 0.75, 0.01, 2.0, 8.0),
    Row(4, 3.0, 0.5, 0.005, 1.0, 8.5, 40.125),
    Row(6, 4.5, 0.25, 0.001, 0.5, 9.0),
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_reads_back(tmp_path):
    write_log(tmp_path / "log.csv", ROWS)
    assert read_log(tmp_path / "log.csv") == ROWS
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "step,seconds,loss,lr,grad_norm,frames_per_second,miou"
    assert lines[2] == "4,3.0,0.5,0.005,1,8.5,40.125"


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path, cut):
    path = tmp_path / "log.csv"
    write_log(path, ROWS)
    path.write_text(path.read_text()[: -1 - cut])
    assert read_log(path) == ROWS[:2]


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    write_log(tmp_path / "log.csv", ROWS)
    journal = Journal(tmp_path, 4)
    journal.add(Row(6, 5.0, 0.125, 0.001, 0.5, 9.0), {"ce": 0.125})
    journal.close()
    rows = read_log(tmp_path / "log.csv")
    assert [row.step for row in rows] == [2, 4, 6]
    assert rows[2].loss == 0.125


def test_curves_with_and_without_miou(tmp_path):
    for rows in (ROWS, ROWS[:1]):
        draw_curves(tmp_path / "curves.png", rows, "a run")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_progress_shows_rate_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    now = iter([10.0, 10.1, 10.3])
    progress = Progress(100, clock=lambda: next(now))
    progress.show(40, 1.25, 8.0, 0.5)
    progress.show(41, 1.25, 8.0, 0.5)
    progress.show(42, 1.5, 8.0, 2.0)
    progress.end()
    shown = terminal.getvalue().replace("\033[K", "").split("\r")[1:]
    assert shown == [
        "step 40/100  loss 1.2500  8.0 frames/s  left 0:00:30",
        "step 42/100  loss 1.5000  8.0 frames/s  left 0:01:56\n",
    ]


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    progress = Progress(100)
    progress.show(40, 1.25, 8.0, 0.5)
    progress.say("reading frames")
    progress.end()
    assert capsys.readouterr().err == ""
