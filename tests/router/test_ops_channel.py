"""The ops channel: what is told, when, and never more than once a minute of the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from node import ids
from node.ops import Alert
from router.alerts import SILENT, Found
from router.ops_channel import News, Told, message


def found(name: str = "memory", shard: int = 0, since: int = 1) -> Found:
    return Found(shard, Alert(name, since, 0.93, 0.9, "Memory is nearly used up"))


def test_beginning_and_end_are_told_once_each_and_a_minute_apart() -> None:
    told = Told()
    (news,) = told.due([found()], 0)
    assert news == News(found(), True)
    told.done(news, 0)
    assert told.due([found()], 1) == []
    assert told.due([], 59) == []
    (news,) = told.due([], 60)
    assert news == News(found(), False)
    told.done(news, 60)
    assert told.due([], 200) == []


def test_what_wasnt_delivered_is_due_until_it_is_even_when_it_is_over() -> None:
    told = Told()
    assert told.due([found()], 0) == told.due([found()], 1) == told.due([], 2) == [News(found(), True)]
    told.done(News(found(), True), 2)
    assert told.due([], 3) == []
    assert told.due([], 62) == [News(found(), False)]


def test_each_alert_of_each_shard_counts_for_itself() -> None:
    told = Told()
    for news in told.due([found(), found(shard=1), found("failures")], 0):
        told.done(news, 0)
    assert told.due([found(), found(shard=1)], 61) == [News(found("failures"), False)]


def test_of_a_silent_shard_nothing_is_said_to_have_ended() -> None:
    told = Told()
    told.done(News(found(), True), 0)
    assert told.due([found(SILENT)], 100) == [News(found(SILENT), True)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=200))
def test_however_it_swings_there_is_one_a_minute_at_most(ticks: list[tuple[bool, int]]) -> None:
    told, posted, now = Told(), [], 0.0
    for number, (is_on, step) in enumerate(ticks):
        now += step
        for news in told.due([found(since=number)] if is_on else [], now):
            told.done(news, now)
            posted.append(now)
    assert all(later - earlier >= 60 for earlier, later in pairwise(posted))


def test_its_message_has_an_id_of_its_own_and_the_reading() -> None:
    began, ended = (message(News(found(), state), "ops") for state in (True, False))
    assert ids.check_name(began.id or "", "id") != ids.check_name(ended.id or "", "id")
    assert began.title == "Alert memory of shard 0 has begun"
    assert began.content.endswith("Reading 0.93, threshold 0.9, since 1970-01-01T00:00:00.000001Z.")
    assert (began.channel_id, began.users, began.priority) == ("ops", None, 9)
