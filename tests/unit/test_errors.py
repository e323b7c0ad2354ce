"""Errors that are the user's become one line and an exit code."""

from __future__ import annotations

import pytest

from edgeseg.errors import GateError, UsageError, exit_code

pytestmark = pytest.mark.unit


def test_an_error_becomes_a_line_and_its_code(capsys):
    def refuse(error: Exception) -> None:
        raise error

    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: refuse(UsageError("no such\n  thing"))) == 2
    assert exit_code(lambda: refuse(GateError("worse"))) == 1
    assert capsys.readouterr() == ("", "edgeseg: no such thing\nedgeseg: worse\n")
    with pytest.raises(ValueError, match="our bug"):
        exit_code(lambda: refuse(ValueError("our bug")))
