"""Tests that run side by side listen on ports of their own: local AWS takes three from the one that it is given."""

import re
from itertools import pairwise
from pathlib import Path

TESTS = Path(__file__).parents[1]
GIVEN = re.compile(r"(?:\bstart\(|\bPORT\b[\w, ]*= |\bport=)(4[678]\d\d)\b")


def test_no_two_modules_have_a_port_in_common() -> None:
    given = sorted(
        (int(port), file.relative_to(TESTS).as_posix())
        for file in TESTS.rglob("*.py")
        for port in set(GIVEN.findall(file.read_text()))
    )
    assert len(given) > 10

    assert [(one, other) for one, other in pairwise(given) if other[0] - one[0] < 3] == []
