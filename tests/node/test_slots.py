from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.slots import SLOTS, slot_of, table_for

shards = st.integers(1, 24)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}", fullmatch=True)


@given(shards)
@settings(max_examples=24)
def test_every_slot_is_owned_by_a_shard_that_exists(n: int) -> None:
    table = table_for(n)
    assert len(table) == SLOTS
    assert set(table) == set(range(n))


def test_the_table_is_the_same_in_every_process_and_release() -> None:
    """Mailboxes are found by these numbers: a change of them is a change of the data's layout."""
    assert [slot_of(name) for name in ("ada", "u1", "a@b.c")] == [47, 3569, 2212]
    assert table_for(3)[:12] == (1, 0, 0, 0, 2, 0, 2, 0, 0, 1, 0, 2)


@given(shards)
@settings(max_examples=24)
def test_with_one_shard_more_slots_move_to_it_alone_and_near_the_ideal_share(n: int) -> None:
    before, after = table_for(n), table_for(n + 1)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {n}
    ideal = SLOTS / (n + 1)
    assert abs(len(moved) - ideal) < 6 * ideal**0.5


@given(shards)
@settings(max_examples=24)
def test_no_shard_owns_much_more_than_its_share(n: int) -> None:
    ideal = SLOTS / n
    assert all(abs(owned - ideal) < 6 * ideal**0.5 for owned in Counter(table_for(n)).values())


@given(names)
def test_a_name_always_has_the_same_slot(name: str) -> None:
    slot = slot_of(name)
    slot_of.cache_clear()
    assert 0 <= slot < SLOTS
    assert slot_of(name) == slot


def test_a_node_without_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        table_for(0)
