from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.errors import BadField
from node.ids import PATTERN, check_name, check_names, new_id

good = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}", fullmatch=True)
near = st.text("aZ9._@:-/\n\r\0 é\ud800", max_size=5) | st.text(max_size=5)


def _is_name(value: str) -> bool:
    try:
        return check_name(value, "users") == value
    except BadField:
        return False


@given(st.lists(good | near, max_size=6))
@example(["a\nb"])
@example(["a\n"])
@example(["\na"])
@example(["a", ""])
@example([""])
@example(["a\n", "b"])
@example(["\n"])
@example(["..", "a"])
def test_many_names_are_checked_as_each_one_is(values: list[str]) -> None:
    bad = [index for index, value in enumerate(values) if not _is_name(value)]
    if not bad:
        check_names(values, "users")
        return
    with pytest.raises(BadField) as refused:
        check_names(values, "users")
    assert refused.value.field == f"users[{bad[0]}]"


@given(near)
def test_the_documented_pattern_is_the_one_that_is_checked(value: str) -> None:
    assert bool(re.search(PATTERN, value)) == _is_name(value)


@given(good)
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    assert _is_name(name)
    assert "/" not in name
    assert "\0" not in name
    assert name not in (".", "..")


@pytest.mark.parametrize("value", ["", ".", "..", "../a", "a/b", "a\0", "a ", " a", "-a", "a" * 129, "é"])
def test_what_could_leave_its_directory_is_no_name(value: str) -> None:
    assert not _is_name(value)


def test_the_longest_name_passes() -> None:
    assert _is_name("a" * 128)


def test_ids_made_here_are_names_and_ordered_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    check_names(ids, "id")
    assert sorted(ids) == ids
    assert len(set(ids)) == 1000
