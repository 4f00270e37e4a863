"""Pressure: the important comes through, nothing sticks, nothing flaps, the shard is never idle for it."""

from __future__ import annotations

import random
from collections import Counter, deque
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.errors import Refused
from router.shedding import Shedding
from shard.pressure import (
    HOLD_S,
    NOTHING,
    TICK_S,
    WINDOW_S,
    Level,
    Pressure,
    Reading,
    Reason,
    Refusal,
    RefusalRate,
    Room,
    Steps,
)

MARKS = (70.0, 80.0, 90.0, 97.0)
FLOORS = {0.0: 1, 0.79: 1, 0.8: 4, 0.9: 6, 0.95: 8}
FREE = Room(0.0, 0.0, 0.0, 0.0)
FULL = Room(1.0, 0.0, 0.0, 0.0)
HALF = Room(0.5, 0.0, 0.0, 0.0)
PRIORITIES = range(1, 11)
CAPACITY = 200


def reading(memory: float = 20.0, journal: float = 0.0, disk: float = 0.0) -> Reading:
    return Reading(memory, journal, disk)


def taken(pressure: Pressure, room: Room = FREE) -> set[int]:
    return {priority for priority in PRIORITIES if pressure.ask(priority, room) is None}


# -- the steps of a reading --------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=400))
def test_a_level_is_never_below_its_reading_and_each_falls_at_most_once_in_the_hold(values: list[float]) -> None:
    steps = Steps(MARKS, margin=5.0)
    fell_at = [0.0] * (len(MARKS) + 1)
    before = 0
    for number, value in enumerate(values):
        now = 1_000 + number * TICK_S
        step = steps.look(value, now)
        assert step >= sum(value >= mark for mark in MARKS)
        for left in range(step + 1, before + 1):
            assert now - fell_at[left] >= HOLD_S
            fell_at[left] = now
        before = step


@given(st.sampled_from(MARKS), st.lists(st.floats(-2.4, 2.4), min_size=100, max_size=100))
def test_noise_around_a_mark_moves_the_level_once(mark: float, noise: list[float]) -> None:
    steps = Steps(MARKS, margin=5.0)
    levels = [steps.look(mark + by, number * TICK_S) for number, by in enumerate(noise)]
    assert sum(one != other for one, other in pairwise(levels)) <= 1


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 64.9))
def test_a_level_is_gone_as_soon_as_the_hold_is_over(values: list[float], after: float) -> None:
    steps = Steps(MARKS, margin=5.0)
    now = 0.0
    for value in values:
        now += TICK_S
        steps.look(value, now)
    for _ in range(round(HOLD_S / TICK_S)):
        now += TICK_S
        step = steps.look(after, now)
    assert step == 0


# -- the refusal rate --------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 3), st.integers(0, 20), st.integers(0, 20)), max_size=60))
def test_the_rate_is_that_of_the_window(turns: list[tuple[float, int, int]]) -> None:
    window = RefusalRate(10.0)
    now = 0.0
    all_of_it: list[tuple[float, int, int]] = []
    for passed, came, refused in turns:
        now += passed
        refused = min(came, refused)
        for number in range(came):
            window.count(number < refused)
        all_of_it.append((now, came, refused))
        recent = [(c, r) for at, c, r in all_of_it if at > now - 10.0]
        total = sum(c for c, _r in recent)
        assert window.turn(now) == pytest.approx(sum(r for _c, r in recent) / total if total else 0.0)
    assert window.turn(now + 10.001) == 0.0


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "floor"), FLOORS.items())
@pytest.mark.parametrize("which", range(4))
def test_the_room_is_kept_for_the_important(share: float, floor: int, which: int) -> None:
    room = Room(*(share if number == which else 0.0 for number in range(4)))
    assert taken(Pressure(), room) == set(range(floor, 11))


@pytest.mark.parametrize("which", range(3))
def test_nothing_goes_into_a_full_room(which: int) -> None:
    assert taken(Pressure(), Room(*(float(number == which) for number in range(4)))) == set()


def test_a_long_wait_refuses_nobody_who_overtakes_it() -> None:
    assert taken(Pressure(), Room(0.5, 0.5, 0.5, 100.0)) == {8, 9, 10}


@pytest.mark.parametrize(("memory", "floor"), [(69.9, 1), (75, 1), (85, 1), (90, 8), (96.9, 8), (97, NOTHING)])
def test_memory_alone_refuses_only_when_it_is_critical(memory: float, floor: int) -> None:
    pressure = Pressure()
    pressure.look(reading(memory), 1.0)
    assert taken(pressure) == set(range(floor, 11))


@pytest.mark.parametrize(
    ("memory", "refused", "floor"), [(85, 29, 1), (85, 31, 6), (75, 49, 1), (75, 51, 4), (60, 99, 1)]
)
def test_short_memory_and_a_high_refusal_rate_shed_the_low_priorities(memory: float, refused: int, floor: int) -> None:
    pressure = Pressure()
    for number in range(100):
        pressure.ask(10, FULL if number < refused else FREE)
    pressure.look(reading(memory), 1.0)
    assert pressure.rate == refused / 100
    assert taken(pressure, HALF) == set(range(floor, 11))
    assert taken(pressure, FREE) == set(PRIORITIES), "idle for nothing"


@pytest.mark.parametrize("which", [Reason.JOURNAL, Reason.DISK])
def test_a_full_journal_and_a_full_disk_refuse_all(which: Reason) -> None:
    pressure = Pressure()
    pressure.look(reading(**{which.value: 0.92}), 1.0)
    assert taken(pressure) == set(range(6, 11))
    pressure.look(reading(**{which.value: 1.01}), 2.0)
    refusal = pressure.ask(10, FREE)
    assert refusal is not None
    assert (refusal.reason, refusal.floor) == (which, NOTHING)
    assert refusal.error().status == (507 if which is Reason.DISK else 503)


@given(
    memory=st.floats(0, 100), journal=st.floats(0, 1.2), disk=st.floats(0, 1.2),
    room=st.builds(Room, *[st.floats(0, 1.2)] * 4), refused=st.integers(0, 100),
)  # fmt: skip
def test_the_more_important_is_never_refused_for_the_less(
    memory: float, journal: float, disk: float, room: Room, refused: int
) -> None:
    pressure = Pressure()
    for number in range(100):
        pressure.ask(10, FULL if number < refused else FREE)
    pressure.look(reading(memory, journal, disk), 1.0)
    refusals = [pressure.ask(priority, room) for priority in PRIORITIES]
    floors = [refusal is None for refusal in refusals]
    assert floors == sorted(floors)
    for priority, refusal in zip(PRIORITIES, refusals, strict=True):
        if refusal is None:
            continue
        assert refusal.floor > priority, "it must say what would be taken"
        assert 1 <= refusal.retry_after_s <= 30
        assert refusal.error().retry_after == refusal.retry_after_s
        assert priority < 8 or memory >= 97 or max(*room[:3], journal, disk) >= 1
        assert all(pressure.ask(below, room) for below in range(1, min(11, refusal.floor))), "it speaks for all below"


@given(share=st.floats(0.8, 2.0), drain_s=st.floats(0, 1_000))
def test_a_refusal_holds_no_longer_than_it_takes_to_free_a_small_part_of_the_room(share: float, drain_s: float) -> None:
    refusal = Pressure().ask(1, Room(share, 0.0, 0.0, 0.0), drain_s)
    assert refusal is not None
    assert 0 <= refusal.shut_s <= min(0.25, 0.1 * drain_s)
    shut = refusal.error().shut
    assert shut is not None
    assert (shut.below, shut.for_s) == (refusal.floor, refusal.shut_s)


@pytest.mark.parametrize(("room", "rate"), [(FULL, 0.8), (Room(0.71, 0.0, 0.0, 0.0), 0.8), (HALF, 0.0), (FREE, 0.0)])
def test_what_routers_refused_counts_as_refused_only_while_the_room_is_nearly_full(room: Room, rate: float) -> None:
    pressure = Pressure()
    pressure.ask(10, FREE)
    pressure.shed(4, room)
    pressure.look(reading(), 1.0)
    assert pressure.rate == rate


def test_shedding_does_not_feed_on_itself() -> None:
    """Memory stays short for reasons of its own; of what still comes, nine in ten are below the floor."""
    pressure = Pressure()
    for _ in range(1_000):
        pressure.ask(10, FULL)
    pressure.look(reading(85.0), 0.0)
    now, refused_at = 0.0, 0.0
    while now < 60:
        for number in range(10):
            if pressure.ask(9 if number == 0 else 2, HALF) is not None:
                refused_at = now
        now += TICK_S
        pressure.look(reading(85.0), now)
    assert 0.0 < refused_at <= WINDOW_S
    assert pressure.level is Level.HIGH


# -- a shard under load ----------------------------------------------------------------------------------


class Shard:
    """One queue, emptied at ``capacity`` letters a second; memory is ``base`` percent and ``each_full`` more when
    the queue is full. Letters come by ``routers``, straight if there are none."""

    STEP_S = 0.05

    def __init__(
        self, *, capacity: int, queue_s: float, base: float, each_full: float, low: int, seed: int, routers: int
    ) -> None:
        self.pressure = Pressure()
        self.routers = [Shedding() for _ in range(routers)]
        self._capacity = capacity
        self._most = capacity * queue_s
        self._memory = base, each_full
        self._low = low
        self._random = random.Random(seed)
        self._queue: deque[float] = deque()
        self._owed = self._spare = 0.0
        self._look_at = 0.0
        self._state: object = None
        self.now = 0.0
        self.stored = self.asked = 0
        self.changes = -1
        self.refused: Counter[int] = Counter()

    def run(self, seconds: float, load: float) -> None:
        """``load`` times the capacity comes; a tenth of it with priority 8 to 10, ``low`` tenths below 4."""
        for _ in range(round(seconds / self.STEP_S)):
            self.now += self.STEP_S
            if self.now >= self._look_at:
                self._look_at += TICK_S
                base, each_full = self._memory
                memory = base + each_full * len(self._queue) / self._most + self._random.uniform(-2, 2)
                self.pressure.look(reading(memory), self.now)
                state = self.pressure.level, self.pressure.floor
                self.changes += state != self._state
                self._state = state
            self._owed += load * self._capacity * self.STEP_S
            while self._owed >= 1:
                self._owed -= 1
                self._come()
            self._spare += self._capacity * self.STEP_S
            while self._spare >= 1 and self._queue:
                self._spare -= 1
                self._queue.popleft()
                self.stored += 1
            self._spare = min(1.0, self._spare)

    def _come(self) -> None:
        tenth = self._random.randrange(10)
        choose = self._random.randint
        priority = choose(8, 10) if tenth == 0 else choose(1, 3) if tenth <= self._low else choose(4, 7)
        router = self._random.choice(self.routers) if self.routers else None
        if router is not None and router.refusal(priority, self.now) is not None:
            router.count()
            self.refused[priority] += 1
            return
        if router is not None and (letters := router.report()):
            self.pressure.shed(letters, self._room())
        self.asked += 1
        refusal = self.pressure.ask(priority, self._room(), len(self._queue) / self._capacity)
        if refusal is None:
            self._queue.append(self.now)
            return
        self.refused[priority] += 1
        if router is not None:
            error = refusal.error()
            router.refused(Refused(error.problem(), error.shut), self.now)

    def _room(self) -> Room:
        share = len(self._queue) / self._most
        return Room(share, share / 2, share / 3, share / 4)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def over_s(self) -> float:
        """How long the queue needs to be under 70%, with nine tenths of the capacity for it."""
        return max(0.0, len(self._queue) - 0.7 * self._most) / (0.9 * self._capacity)


SHARDS = st.fixed_dictionaries(
    {
        "queue_s": st.floats(2, 60),
        "base": st.sampled_from([20.0, 60.0, 70.0, 75.0, 82.0]),
        "low": st.integers(0, 9),
        "seed": st.integers(0, 9),
        "routers": st.integers(0, 3),
    }
)


@pytest.mark.slow
@settings(max_examples=15)
@given(SHARDS)
@example({"queue_s": 2.0, "base": 82.0, "low": 4, "seed": 0, "routers": 0})
def test_at_five_times_the_load_the_shard_works_on_and_takes_all_that_is_important(drawn: dict[str, float]) -> None:
    shard = _shard(drawn, each_full=87.0 - drawn["base"])
    shard.run(30, 5.0)
    assert shard.stored >= 0.8 * 30 * CAPACITY
    assert not {8, 9, 10} & set(shard.refused)


@pytest.mark.slow
@settings(max_examples=15)
@given(SHARDS, st.floats(1.1, 5))
@example({"queue_s": 2.0, "base": 82.0, "low": 4, "seed": 0, "routers": 0}, 2.0)
def test_under_steady_overload_the_levels_do_not_flap(drawn: dict[str, float], load: float) -> None:
    shard = _shard(drawn, each_full=min(30.0, 92.0 - drawn["base"]))
    shard.run(120, load)
    assert shard.changes <= 2 * 20, "more than twenty a minute"


@pytest.mark.slow
@settings(max_examples=15)
@given(SHARDS, st.sampled_from([2.0, 5.0]))
def test_when_the_load_is_gone_everything_is_taken_again(drawn: dict[str, float], load: float) -> None:
    """Memory goes up to 115% with the queue, and down to where nothing or only the rate refuses."""
    shard = _shard(drawn, each_full=30.0)
    shard.run(60, load)
    shard.run(shard.over_s + 0.3 * drawn["queue_s"] + HOLD_S + WINDOW_S + 2 * TICK_S, 0.1)
    shard.refused.clear()
    shard.run(30, 0.1)
    assert not shard.refused
    assert shard.pressure.rate == 0.0


@pytest.mark.slow
@settings(max_examples=15)
@given(SHARDS)
def test_routers_keep_most_of_what_is_refused_away_from_the_shard(drawn: dict[str, float]) -> None:
    """It stores as much as before, and is asked little more than what it takes."""
    straight, kept = (_shard(drawn | {"routers": routers}, each_full=0.0) for routers in (0, 2))
    for shard in (straight, kept):
        shard.run(drawn["queue_s"] + 10, 5.0)
    assert kept.stored >= 0.98 * straight.stored
    assert sum(kept.refused.values()) > 0
    came_refused = kept.asked - (kept.stored + kept.waiting)
    assert came_refused <= 0.25 * sum(kept.refused.values())


def _shard(drawn: dict[str, float], *, each_full: float) -> Shard:
    return Shard(
        capacity=CAPACITY,
        queue_s=drawn["queue_s"],
        base=drawn["base"],
        each_full=each_full,
        low=int(drawn["low"]),
        seed=int(drawn["seed"]),
        routers=int(drawn["routers"]),
    )


def test_a_disk_that_is_nearly_full_is_507_for_those_whom_it_refuses() -> None:
    error = Refusal(Reason.DISK, 6, 1).error()
    assert error.status == 507
    assert "priority 6 and above" in error.detail
