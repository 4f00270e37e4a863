"""The breaker: it opens when it must, lets exactly one probe through, and never stays open or half-open for good."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.breaker import Breaker, State

FAILURES, SILENCE_S, PAUSE_S, PAUSE_MAX_S = 3, 1.5, 0.5, 4.0


def breaker() -> Breaker:
    return Breaker(failures_max=FAILURES, silence_s=SILENCE_S, pause_s=PAUSE_S, pause_max_s=PAUSE_MAX_S)


def state(made: Breaker) -> State:
    return made.state


def opened(now: float = 0.0) -> Breaker:
    made = breaker()
    for _ in range(FAILURES):
        ticket = made.enter(now)
        assert ticket is not None
        made.failed(ticket, now)
    assert state(made) is State.OPEN
    return made


def entered(made: Breaker, now: float) -> int:
    ticket = made.enter(now)
    assert ticket is not None
    return ticket


class Everything(RuleBasedStateMachine):
    """Askers come, get answers late or never or for something of long ago, and the clock goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = breaker()
        self.now = 1_000.0
        self.out: list[tuple[int, float]] = []
        self.in_a_row = 0
        self.probe_at: float | None = None

    @rule(by=st.sampled_from([0.0, 0.1, 0.5, 2.0, 5.0]))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule()
    def somebody_asks(self) -> None:
        before = self.breaker.state
        ticket = self.breaker.enter(self.now)
        if before is not State.CLOSED and ticket is not None:
            assert self.breaker.state is State.HALF_OPEN
            assert self.probe_at is None or self.now - self.probe_at >= SILENCE_S, "a second probe"
            self.probe_at = self.now
        if ticket is not None:
            self.out.append((ticket, self.now))
        if before is State.CLOSED:
            assert ticket is not None

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 100), good=st.booleans())
    def an_answer_comes(self, which: int, good: bool) -> None:
        ticket, _at = self.out.pop(which % len(self.out))
        before, times_opened = self.breaker.state, self.breaker.opened
        (self.breaker.succeeded if good else self.breaker.failed)(ticket, self.now)
        if before is State.HALF_OPEN and self.breaker.state is not State.HALF_OPEN:
            self.probe_at = None
            assert (self.breaker.state is State.CLOSED) == good
        if before is State.OPEN:
            assert self.breaker.state is State.OPEN
            assert self.breaker.opened == times_opened

    @rule()
    def somebody_looks(self) -> None:
        self.breaker.look(self.now, min((at for _ticket, at in self.out), default=None))

    @invariant()
    def half_open_has_one_probe(self) -> None:
        if self.breaker.state is State.CLOSED:
            self.probe_at = None
        assert 1 <= self.breaker.retry_after_s(self.now) <= PAUSE_MAX_S

    def teardown(self) -> None:
        """Whatever has happened: with answers again, it is closed within the longest pause and a lost probe."""
        self.now += SILENCE_S + 0.01
        if self.breaker.enter(self.now) is None:
            self.now += PAUSE_MAX_S
            self.breaker.succeeded(entered(self.breaker, self.now), self.now)
            assert self.breaker.state is State.CLOSED


TestEverything = Everything.TestCase
TestEverything.settings = settings(max_examples=100, stateful_step_count=40)


def test_it_opens_after_failures_in_a_row() -> None:
    made = breaker()
    for good in (False, False, True, False, False):
        ticket = entered(made, 0.0)
        (made.succeeded if good else made.failed)(ticket, 0.0)
    assert state(made) is State.CLOSED
    made.failed(entered(made, 0.0), 0.0)
    assert state(made) is State.OPEN
    assert made.enter(0.0) is None


@given(st.integers(2, 50))
def test_of_many_who_come_after_the_pause_exactly_one_is_let_through(many: int) -> None:
    made = opened()
    tickets = [made.enter(PAUSE_S + number * 1e-3) for number in range(many)]
    assert [ticket is not None for ticket in tickets] == [True] + [False] * (many - 1)


def test_a_good_probe_closes_and_the_pauses_begin_anew() -> None:
    made = opened()
    now = PAUSE_S
    made.failed(entered(made, now), now)
    assert made.enter(now + PAUSE_S) is None, "the pause has doubled"
    now += 2 * PAUSE_S
    made.succeeded(entered(made, now), now)
    assert state(made) is State.CLOSED
    for _ in range(FAILURES):
        made.failed(entered(made, now), now)
    assert made.enter(now + PAUSE_S) is not None


def test_pauses_double_up_to_a_bound() -> None:
    made, now, pauses = opened(), 0.0, []
    for _ in range(6):
        began = now
        while (probe := made.enter(now)) is None:
            now += 0.125
        pauses.append(now - began)
        made.failed(probe, now)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_a_probe_that_gets_lost_does_not_keep_it_half_open() -> None:
    made = opened()
    entered(made, PAUSE_S)
    assert made.enter(PAUSE_S + SILENCE_S - 0.01) is None
    assert made.enter(PAUSE_S + SILENCE_S) is None
    assert state(made) is State.OPEN
    assert made.enter(PAUSE_S + SILENCE_S + 2 * PAUSE_S) is not None


@pytest.mark.parametrize("good", [True, False])
def test_what_was_asked_before_the_trouble_says_nothing_about_the_probe(good: bool) -> None:
    made = breaker()
    old = entered(made, 0.0)
    for _ in range(FAILURES):
        made.failed(entered(made, 0.0), 0.0)
    probe = entered(made, PAUSE_S)
    (made.succeeded if good else made.failed)(old, PAUSE_S)
    assert state(made) is State.HALF_OPEN
    made.succeeded(probe, PAUSE_S)
    assert state(made) is State.CLOSED


def test_one_that_hangs_is_noticed_within_two_seconds_however_much_was_answered_before() -> None:
    """A thousand requests a second; from second 10 on nothing is answered. The link looks every quarter of a second."""
    made, stopped_at, noticed_at = breaker(), 10.0, None
    waiting: list[tuple[int, float]] = []
    for step in range(20_000):
        now = step / 1_000
        if now < stopped_at:
            for ticket, _at in waiting:
                made.succeeded(ticket, now)
            waiting.clear()
        asked = made.enter(now)
        if asked is None:
            noticed_at = now
            break
        waiting.append((asked, now))
        if step % 250 == 0:
            made.look(now, waiting[0][1])
    assert noticed_at is not None
    assert noticed_at - stopped_at < 2.0


def test_a_slow_request_opens_nothing_as_long_as_something_is_answered() -> None:
    made = breaker()
    entered(made, 0.0)
    for tick in range(1, 100):
        now = tick * 0.25
        made.succeeded(entered(made, now), now)  # a ping
        made.look(now, 0.0)
    assert state(made) is State.CLOSED


def test_an_idle_link_is_not_silent() -> None:
    made = breaker()
    made.look(10_000.0, None)
    ticket = entered(made, 20_000.0)
    made.look(20_000.1, 20_000.0)
    made.succeeded(ticket, 20_000.2)
    assert state(made) is State.CLOSED
