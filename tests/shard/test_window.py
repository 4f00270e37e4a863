"""The window: who is held, who waits behind it, and that one lane takes nothing from another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard.lanes import HIGH, LOW, NORMAL
from shard.window import OVERHEAD_BYTES, Window

lanes = st.sampled_from([HIGH, NORMAL, LOW])


@given(
    st.lists(st.tuples(lanes, st.integers(1, 50), st.integers(0, 2_000)), max_size=60),
    st.integers(1, 100),
    st.integers(1, 20_000),
)
def test_once_one_of_a_lane_is_not_held_none_after_it_is(
    letters: list[tuple[int, int, int]], letters_max: int, bytes_max: int
) -> None:
    group = Window(letters_max, bytes_max).group()
    for lane in (HIGH, NORMAL, LOW):
        of_lane = [(targets, size) for at, targets, size in letters if at == lane]
        held = [group.holds(lane, targets, size) for targets, size in of_lane]
        assert held == sorted(held, reverse=True)
        kept = of_lane[: sum(held)]
        assert held[:1] != [False], "an empty window holds any letter"
        assert sum(targets for targets, _size in kept[:-1]) < letters_max
        assert sum(size + OVERHEAD_BYTES for _targets, size in kept[:-1]) < bytes_max


def test_what_comes_waits_behind_the_others_of_its_lane_whatever_room_there_is() -> None:
    window = Window(10, 10_000)
    window.tail[NORMAL] = 1
    group = window.group()
    assert not group.holds(NORMAL, 1, 1)
    assert group.holds(HIGH, 1, 1)
    assert group.holds(LOW, 1, 1)
    assert window.group(behind_others=False).holds(NORMAL, 1, 1)


def test_it_is_filled_when_it_is_half_empty() -> None:
    window = Window(10, 10_000)
    window.held[LOW] = 6
    assert not window.is_half_empty(LOW)
    assert window.has_room(LOW)
    window.held[LOW] = 5
    assert window.is_half_empty(LOW)
    window.bytes[LOW] = 10_000
    assert not window.is_half_empty(LOW)
    assert not window.has_room(LOW)
    assert window.fill == 1
