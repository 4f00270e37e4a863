"""The table of who owns whom, and the way from one number of shards to another: pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import placement
from node.errors import ConfigError
from node.placement import Placement
from node.slots import SLOTS, slot_of, table_for

_SHARDS = st.integers(1, 6)
_NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=6), unique=True, max_size=6)


@pytest.mark.slow
@given(_SHARDS, _SHARDS, _NAMES, st.data())
def test_slots_go_where_they_are_computed_to_be_and_people_who_were_moved_stay(
    old: int, new: int, names: list[str], data: st.DataObject
) -> None:
    placed = Placement(version=1, shards=old)
    for name in names:
        placed = placement.with_user(placed, name, data.draw(st.integers(0, old - 1)))
    if new > old:
        placed = placement.with_shards(placed, new)
        assert placement.owners(placed).items() >= dict(enumerate(table_for(old))).items()
    numbers = [placed.table.number]
    where = {name: placed.table.shard_of(name) for name in names}
    while todo := placement.wanted(placed, new):
        to = next(iter(todo.values()))
        some = [slot for slot, owner in todo.items() if owner == to][:700]
        placed = placement.with_slots(placed, some, to)
        table = placed.table
        assert {table.owner(slot) for slot in some} == {to}
        assert placement.decode(placement.encode(placed)) == placed
        numbers.append(placed.table.number)
    while placed.shards > new:
        placed = placement.with_shards(placed, placed.shards - 1)
        numbers.append(placed.table.number)
    assert numbers == sorted(set(numbers))
    table = placed.table
    assert [table.owner(slot) for slot in range(SLOTS)] == list(table_for(new))
    assert {slot for slot in placed.slots if slot < SLOTS} == set()
    for name in names:
        assert table.shard_of(name) == (where[name] if where[name] < new else table_for(new)[slot_of(name)])
        assert table.home(name) == table_for(new)[slot_of(name)]
        assert slot_of(name) in table.directories(table.shard_of(name))
    owned = [table.owned(shard) for shard in range(new)]
    assert sorted(slot for one in owned for slot in one) == sorted({*range(SLOTS), *placed.users.values()})


def test_a_placement_that_names_a_shard_that_there_is_not_is_refused(tmp_path: Path) -> None:
    for wrong in ('{"version":1,"shards":2,"slots":{"7":2}}', '{"version":1,"shards":2,"users":{"ada":4096}}'):
        (tmp_path / "placement.json").write_text(wrong)
        with pytest.raises(ConfigError):
            placement.load(tmp_path)


def test_settling_calls_off_what_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    placement.save(tmp_path, Placement(version=1, shards=2))
    with placement.changing(tmp_path):
        placement.begin(tmp_path, "h")
    assert placement.under_way(tmp_path) == "h"
    assert placement.settle(tmp_path) == Placement(version=1, shards=2)
    assert placement.under_way(tmp_path) == ""


def test_what_is_settled_is_durable_whoever_renamed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    placement.replace(tmp_path / "placement.json", placement.encode(Placement(version=1, shards=2)), durably=False)
    synced: list[Path] = []
    monkeypatch.setattr(placement, "sync_directory", synced.append)
    placement.settle(tmp_path)
    assert synced == [tmp_path]
