"""Shedding: nobody below the mark asks again too soon, everybody else at once, and nobody is shut out for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.errors import Conflict, Overloaded, Refused, Shut
from router.shedding import Shedding

PRIORITIES = range(1, 11)
LONGEST_S = 0.5

refusal = st.tuples(st.just("refusal"), st.integers(1, 11), st.floats(0, 2))
letter = st.tuples(st.just("letter"), st.integers(1, 10), st.just(0.0))
step = st.tuples(st.floats(0, 0.3), st.one_of(refusal, letter, letter))


def refused(below: int, for_s: float) -> Refused:
    return Refused(Overloaded(f"only priority {below}", retry_after=3).problem(), Shut(below, for_s))


@given(st.lists(step, max_size=60))
def test_a_letter_is_refused_exactly_while_a_refusal_that_was_for_it_holds(steps: list[tuple[float, object]]) -> None:
    shedding, now = Shedding(), 100.0
    said: dict[int, tuple[float, int]] = {}
    for passed, (kind, number, for_s) in steps:  # type: ignore[misc]
        now += passed
        if kind == "refusal":
            assert shedding.refused(refused(number, for_s), now) == now + min(LONGEST_S, for_s)
            said |= {priority: (now + min(LONGEST_S, for_s), number) for priority in range(1, number) if priority < 11}
            continue
        until, below = said.get(number, (0.0, 0))
        problem = shedding.refusal(number, now)
        assert (problem is not None) == (now < until)
        if problem is not None:
            assert (problem.status, problem.code, problem.retry_after) == (503, "overloaded", 3)
            assert problem.detail == f"only priority {below}", "the latest word counts"


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 100)), min_size=1, max_size=30), st.integers(1, 10))
def test_whatever_was_said_everything_is_asked_again_after_half_a_second(
    said: list[tuple[int, float]], priority: int
) -> None:
    shedding = Shedding()
    for number, (below, for_s) in enumerate(said):
        shedding.refused(refused(below, for_s), number * 0.01)
    assert shedding.refusal(priority, len(said) * 0.01 + LONGEST_S) is None


def test_a_refusal_that_says_nothing_of_others_shuts_out_nobody() -> None:
    shedding = Shedding()
    shedding.refused(Refused(Conflict(field="id").problem()), 1.0)
    assert all(shedding.refusal(priority, 1.0) is None for priority in PRIORITIES)


def test_each_letter_is_reported_once() -> None:
    shedding = Shedding()
    for _ in range(3):
        shedding.count()
    assert (shedding.report(), shedding.report()) == (3, 0)
    shedding.count()
    assert (shedding.report(), shedding.shed) == (1, 4)
