"""Every promise of the manuals is kept, or is one of the deliberate differences in docs/coming_from.md."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from count import PAGE, page
from promises import load_all, show

MANUALS = ("SimREC", "detectron2", "LiBai", "mmdetection")  # the rest are behaviours of code, not promises of a page
CASES = load_all()


@pytest.mark.parametrize("promise", CASES, ids=[f"{number}-{case.manual}" for number, case in enumerate(CASES)])
def test_a_promise_of_a_manual(promise):
    show(promise)


def test_the_deliberate_differences_are_those_of_the_page():
    text = PAGE.read_text(encoding="utf-8").split("## Deliberate differences")[1].split("\n## ")[0]
    told = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)[1:]
    assert sorted(set(told) - {"---"}) == sorted({case.differs for case in CASES if case.manual != "mmengine"} - {""})


def test_at_most_20_of_170_promises_and_6_of_46_behaviours_differ():
    all_of, different = Counter(), Counter()
    for case in CASES:
        all_of[case.manual] += 1
        different[case.manual] += bool(case.differs)
    assert sum(all_of[name] for name in MANUALS) >= 170 and sum(different[name] for name in MANUALS) <= 20
    assert (all_of["mmengine"], different["mmengine"]) == (46, 6)
    assert (all_of["detectron2's tests"], different["detectron2's tests"]) == (17, 1)
    assert (all_of["LiBai's tests"], different["LiBai's tests"]) == (14, 1)


def test_the_table_of_names_is_the_one_in_the_code():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/manuals/count.py --write"
