"""Lanes: nothing lost, nothing doubled, nobody overtaken in his own mail, nobody starved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shard.lanes import HIGH, LOW, NORMAL, Lanes, gather_s, lane_of

USERS = [f"u{number}" for number in range(6)]
GATHER_S = 3.0
A_ROUND = 13  # takes until every lane was first as often as its weight says


class Item:
    def __init__(self, seq: int, lane: int) -> None:
        self.seq = seq
        self.lane = lane

    def __repr__(self) -> str:
        return f"{self.seq}/{self.lane}"


class LanesAgainstAModel(RuleBasedStateMachine):
    """The model: for each user what waits, and since when. Items mostly come in the order of acceptance;
    those that were put off, or expanded late, come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[Item] = Lanes()
        self.waiting: dict[str, list[tuple[Item, float]]] = {}
        self.now = 0.0
        self.seq = 0

    @initialize(first=st.integers(0, A_ROUND - 1))
    def begin_at_any_turn(self, first: int) -> None:
        for _ in range(first):
            assert self.lanes.take(self.now, GATHER_S) is None

    def _item(self, lane: int, late: int) -> Item:
        self.seq += 1
        return Item((self.seq - late) * 1_000 + self.seq, lane)

    @rule(user=st.sampled_from(USERS), lane=st.sampled_from([HIGH, NORMAL, LOW]), late=st.integers(0, 3))
    def put(self, user: str, lane: int, late: int) -> None:
        item = self._item(lane, late)
        self.lanes.put(user, item, self.now)
        self.waiting.setdefault(user, []).append((item, self.now))

    @rule(users=st.lists(st.sampled_from(USERS), unique=True), lane=st.sampled_from([HIGH, NORMAL, LOW]))
    def put_many(self, users: list[str], lane: int) -> None:
        item = self._item(lane, 0)
        self.lanes.put_many(users, item, self.now)
        for user in users:
            self.waiting.setdefault(user, []).append((item, self.now))

    @rule(by=st.floats(0.0, 2.0))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule(user=st.sampled_from(USERS))
    def a_reader_comes(self, user: str) -> None:
        self._gone(user, self.lanes.take_user(user))

    @rule(gather=st.sampled_from([0.0, 0.5, GATHER_S]))
    def take(self, gather: float) -> None:
        due_in_s = self.lanes.due_in_s(self.now, gather)
        taken = self.lanes.take(self.now, gather)
        assert (taken is None) == (due_in_s is None or due_in_s > 0)
        if taken is not None:
            assert taken[1]
            since = {item.lane: at for item, at in reversed(self.waiting[taken[0]])}
            assert any(lane == HIGH or at + gather <= self.now for lane, at in since.items()), "before its time"
            self._gone(*taken)
            return
        for mail in self.waiting.values():
            for item, since in mail:
                assert item.lane != HIGH
                assert since + gather > self.now, "held longer than it may be"
        if due_in_s is not None:
            soonest = min(since for mail in self.waiting.values() for _item, since in mail)
            assert due_in_s <= soonest + gather - self.now

    @rule(gather=st.sampled_from([0.0, GATHER_S]))
    def take_and_put_back(self, gather: float) -> None:
        taken = self.lanes.take(self.now, gather)
        if taken is not None:
            self._gone(*taken)
            self.lanes.put_back(*taken)
            self.waiting[taken[0]] = [(item, float("-inf")) for item in taken[1]]

    def _gone(self, user: str, items: list[Item]) -> None:
        expected = [item for item, _since in self.waiting.pop(user, [])]
        assert items == sorted(expected, key=lambda item: item.seq)

    @invariant()
    def counts_are_right(self) -> None:
        assert self.lanes.count == sum(map(len, self.waiting.values()))

    def teardown(self) -> None:
        while (taken := self.lanes.take(self.now + GATHER_S, GATHER_S)) is not None:
            self._gone(*taken)
        assert self.waiting == {}
        assert self.lanes.count == 0
        assert self.lanes.due_in_s(self.now, GATHER_S) is None


TestLanes = LanesAgainstAModel.TestCase
TestLanes.settings = settings(max_examples=80, stateful_step_count=40)


def _backlog(users: int, lane: int) -> Lanes[Item]:
    lanes: Lanes[Item] = Lanes()
    for number in range(users):
        lanes.put(f"backlog{number}", Item(number, lane), 0.0)
    return lanes


@pytest.mark.parametrize("turns", range(A_ROUND))
def test_a_high_letter_overtakes_a_backlog(turns: int) -> None:
    lanes = _backlog(1_000, NORMAL)
    for _ in range(turns):
        lanes.take(0.0, 0.0)
    lanes.put("urgent", Item(10**6, HIGH), 1.0)
    takes = [lanes.take(1.0, 0.0) for _ in range(3)]
    assert "urgent" in {taken[0] for taken in takes if taken}


def test_a_high_letter_overtakes_a_backlog_of_100000_that_may_still_gather() -> None:
    lanes = _backlog(100_000, LOW)
    lanes.put("urgent", Item(10**6, HIGH), 1.0)
    taken = lanes.take(1.0, GATHER_S)
    assert taken is not None
    assert taken[0] == "urgent"
    assert lanes.count == 100_000


def test_a_high_letter_takes_the_users_other_mail_with_it_in_order() -> None:
    lanes: Lanes[Item] = Lanes()
    for seq, lane in enumerate([LOW, NORMAL, HIGH, LOW]):
        lanes.put("ada", Item(seq, lane), 0.0)
    taken = lanes.take(0.0, GATHER_S)
    assert taken is not None
    assert [item.seq for item in taken[1]] == [0, 1, 2, 3]
    assert lanes.take(100.0, 0.0) is None


@pytest.mark.parametrize("by_reader", [True, False])
def test_who_has_got_his_mail_goes_to_the_end_of_the_line(by_reader: bool) -> None:
    """Or he would come up again at once, with one letter, while others wait."""
    lanes: Lanes[Item] = Lanes()
    for number, user in enumerate(("ada", "bo", "cy")):
        lanes.put(user, Item(number, NORMAL), 0.0)
    if by_reader:
        lanes.take_user("ada")
    else:
        lanes.put("ada", Item(3, HIGH), 1.0)
        assert (lanes.take(1.0, GATHER_S) or ("", []))[0] == "ada"
    lanes.put("ada", Item(4, NORMAL), 2.0)
    assert lanes.waits_s(10.0)[NORMAL] == 10.0
    assert [(lanes.take(10.0, 0.0) or ("", []))[0] for _ in range(3)] == ["bo", "cy", "ada"]
    assert lanes.take(10.0, 0.0) is None


def test_mail_that_was_put_off_comes_back_to_its_place() -> None:
    lanes: Lanes[Item] = Lanes()
    for seq in (2, 3, 1):
        lanes.put("ada", Item(seq, HIGH), 0.0)
    assert [item.seq for item in lanes.take_user("ada")] == [1, 2, 3]


@given(ahead=st.integers(0, 20), turns=st.integers(0, A_ROUND))
def test_low_mail_never_starves(ahead: int, turns: int) -> None:
    """However much high and normal mail keeps coming: one low user a round."""
    lanes = _backlog(ahead, LOW)
    lanes.put("patient", Item(10**6, LOW), 0.0)
    for number in range(turns + (ahead + 1) * A_ROUND):
        lanes.put(f"high{number}", Item(number, HIGH), 0.0)
        lanes.put(f"normal{number}", Item(number, NORMAL), 0.0)
        taken = lanes.take(0.0, 0.0)
        assert taken is not None
        if taken[0] == "patient":
            return
    raise AssertionError("starved")


def test_normal_mail_gets_its_share_beside_endless_high_mail() -> None:
    lanes = _backlog(1_000, NORMAL)
    takes = 0
    for number in range(10 * A_ROUND):
        lanes.put(f"high{number}", Item(number, HIGH), 0.0)
        taken = lanes.take(0.0, 0.0)
        assert taken is not None
        takes += taken[0].startswith("backlog")
    assert takes >= 4 * 10


@given(rate=st.floats(0, 1e7), more=st.floats(0, 1e7), most_s=st.floats(0, 60))
def test_waiting_for_company_grows_with_the_load_and_is_bounded(rate: float, more: float, most_s: float) -> None:
    assert 0 <= gather_s(rate, most_s) <= gather_s(rate + more, most_s) <= most_s


def test_nothing_waits_for_company_on_an_idle_node_and_the_most_under_full_load() -> None:
    assert gather_s(1_000, 3.0) == 0
    assert gather_s(6_000, 3.0) == 3.0


def test_nobody_waits_for_company_where_others_would_be_refused_for_it() -> None:
    assert gather_s(6_000, 3.0, fill=0.25) == 3.0
    assert 0 < gather_s(6_000, 3.0, fill=0.4) < 3.0
    assert gather_s(6_000, 3.0, fill=0.5) == gather_s(6_000, 3.0, fill=1.2) == 0


def test_priorities_have_their_lanes() -> None:
    assert [lane_of(priority) for priority in range(1, 11)] == [LOW] * 3 + [NORMAL] * 4 + [HIGH] * 3
