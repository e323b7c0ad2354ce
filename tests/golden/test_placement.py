"""What is quantised in each family is what the committed lists say."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.pipeline.placement_lists import FAMILIES, placement_list

pytestmark = pytest.mark.golden

LISTS = Path(__file__).resolve().parents[2] / "calibration" / "placements"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_placement_is_the_committed_one(family):
    """Where a change is meant, write them anew by `python -m edgeseg.pipeline.placement_lists`."""
    assert placement_list(family) == (LISTS / f"{family}.txt").read_text(encoding="utf-8")


def test_no_list_is_left_over():
    assert {path.stem for path in LISTS.iterdir()} == set(FAMILIES)
