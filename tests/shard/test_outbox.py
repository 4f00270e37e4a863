"""The outbox, against what it promises: nothing is lost but what it says, one at a time to each, urgent first."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shard.notice import Notice
from shard.outbox import Job, Outbox


def notice(priority: int, number: int = 0) -> Notice:
    return Notice(f"n{number}", "news", "title", "text", priority, "", None, 0.0)


def keys(outbox: Outbox[str], now: float = 0.0) -> list[str]:
    taken = []
    while (job := outbox.take(now)) is not None:
        taken.append(job.key)
    return taken


def test_what_is_urgent_goes_first_and_makes_room_for_itself() -> None:
    outbox = Outbox[str](3)
    for key, priority in (("low", 1), ("normal", 5), ("high", 9)):
        outbox.put(key, notice(priority))
    outbox.put("no room", notice(1))
    assert outbox.dropped == 1
    outbox.put("also high", notice(8))
    assert outbox.dropped == 2
    outbox.put("normal", notice(10))  # whoever waits already moves up
    assert keys(outbox) == ["high", "also high", "normal"]


def test_what_comes_meanwhile_goes_along_and_the_most_important_is_shown() -> None:
    outbox = Outbox[str](3)
    outbox.put("ada", notice(5, 1))
    first = outbox.take(0.0)
    assert first is not None
    for number, priority in ((2, 4), (3, 9), (4, 6)):
        outbox.put("ada", notice(priority, number))
    assert outbox.take(0.0) is None
    outbox.again(first, 0.0, 10.0)
    assert outbox.take(9.9) is None
    again = outbox.take(10.0)
    assert again is not None
    assert (again.notice.count, again.notice.id, again.attempt) == (4, "n3", 2)


def test_a_rest_is_cut_short_only_by_what_is_urgent() -> None:
    outbox = Outbox[str](3)
    outbox.put("ada", notice(5))
    job = outbox.take(0.0)
    assert job is not None
    outbox.done(job, 0.0, 2.0)
    outbox.put("ada", notice(7))
    assert outbox.take(1.0) is None
    assert outbox.due_in_s(1.0) == 1.0
    outbox.put("ada", notice(8))
    assert keys(outbox, 1.0) == ["ada"]


step = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abcde"), st.integers(1, 10)),
    st.tuples(st.just("put"), st.sampled_from("abcde"), st.integers(1, 10)),
    st.tuples(st.just("take"), st.just(""), st.just(0)),
    st.tuples(st.sampled_from(["done", "again", "forget"]), st.just(""), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.just(""), st.integers(0, 5)),
)


@given(st.lists(step, max_size=60), st.integers(1, 5))
def test_every_message_is_told_once_or_counted_as_dropped(steps: list[Any], most: int) -> None:
    outbox, now, number = Outbox[str](most), 0.0, 0
    under_way: dict[str, Job[str]] = {}
    ends: Counter[str] = Counter()

    def take() -> None:
        job = outbox.take(now)
        if job is None:
            due = outbox.due_in_s(now)
            assert due is None or due > 0
        else:
            assert job.key not in under_way
            under_way[job.key] = job

    for what, key, value in steps:
        if what == "put":
            number += 1
            outbox.put(key, notice(value, number))
        elif what == "take":
            take()
        elif what == "wait":
            now += value
        elif under_way:
            job = under_way.pop(min(under_way))
            if what == "done":
                outbox.done(job, now, value)
                ends["told"] += job.notice.count
            elif what == "again":
                outbox.again(job, now, value)
            else:
                before = outbox._entries[job.key].notice
                outbox.forget(job.key)
                ends["nobody"] += job.notice.count + (before.count if before else 0)
        assert len(outbox) <= most
    while len(outbox):
        for job in under_way.values():
            outbox.done(job, now, 0)
            ends["told"] += job.notice.count
        under_way.clear()
        now += 10
        take()
    assert sum(ends.values()) + outbox.dropped == number
    assert outbox.idle
