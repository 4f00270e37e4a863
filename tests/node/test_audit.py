"""What a line of the audit log is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import audit
from node.audit import BEGINNING, Entry, Place
from tests.audited import NOON_US

ENTRIES = st.builds(
    Entry,
    deed=st.text(max_size=20),
    who=st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=2),
    whom=st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=2),
    status=st.none() | st.integers(100, 599) | st.text(max_size=5),
    what=st.dictionaries(st.text(max_size=4), st.integers(-5, 5) | st.text(max_size=8), max_size=2),
)


@pytest.mark.slow
@given(st.lists(ENTRIES, min_size=1, max_size=20))
def test_lines_follow_each_other_and_are_json(entries: list[Entry]) -> None:
    place = BEGINNING
    for number, one in enumerate(entries, 1):
        line, then = audit.sealed(place, NOON_US + number, one)
        assert line.count(b"\n") == 1
        read = audit.follows(line[:-1], place)
        assert read is not None
        assert (read.n, read.deed, Place(read.n, read.hash)) == (number, one.deed, then)
        known = msgspec.json.decode(line)
        assert known["n"] == number
        assert known.get("whom", {}) == one.whom
        place = then
