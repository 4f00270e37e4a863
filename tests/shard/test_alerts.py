"""Alerts: each begins once, ends once, and neither sticks nor flaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard.alerts import FAILURES, LANES, LOCKS, RULES, Alerts, Change, FailureRate, News, Rule

RULE = Rule("r", 0.8, 0.7, 2.0, 10.0, "Too much")
TICK_S = 0.5


def run(readings: list[float], rule: Rule = RULE) -> tuple[Alerts, list[tuple[float, Change]]]:
    """Twice a second one reading; when which change came."""
    alerts, changes = Alerts([rule]), []
    for tick, value in enumerate(readings):
        now = tick * TICK_S
        changes += [(now, change) for change in alerts.look({rule.name: value}, now, int(now * 1e6))]
    return alerts, changes


def test_an_alert_begins_after_its_time_above_and_ends_after_its_time_below() -> None:
    alerts, changes = run([0.9] * 10 + [0.75] * 40 + [0.6] * 30)
    assert [(at, change.began) for at, change in changes] == [(2.0, True), (35.0, False)]
    assert changes[0][1].alert.since_us == 2_000_000
    assert alerts.active == []


def test_a_short_peak_is_none() -> None:
    assert run([0.9] * 3 + [0.8] + [0.9] * 3)[1] == []


def test_one_without_patience_begins_at_once() -> None:
    _alerts, changes = run([0.0, 1.2], next(rule for rule in RULES if rule.name == LOCKS))
    assert [(at, change.began) for at, change in changes] == [(0.5, True)]


def test_an_active_alert_tells_the_reading_of_now() -> None:
    alerts, _changes = run([0.9] * 10 + [0.95])
    assert [(alert.value, alert.threshold) for alert in alerts.active] == [(0.95, 0.8)]
    assert alerts.by_name() == {"r": 1.0}


@given(st.lists(st.floats(0, 1), max_size=300))
def test_whatever_the_readings_changes_alternate_and_are_rare(readings: list[float]) -> None:
    alerts, changes = run(readings)
    assert [change.began for _at, change in changes] == [number % 2 == 0 for number in range(len(changes))]
    ends = [at for at, change in changes if not change.began]
    begins = [at for at, change in changes if change.began]
    assert all(end - begin >= RULE.hold_s for begin, end in zip(begins, ends, strict=False))
    assert bool(alerts.active) == (len(changes) % 2 == 1)


@given(st.lists(st.floats(0, 1), max_size=100))
def test_when_all_is_well_for_long_enough_nothing_is_left(readings: list[float]) -> None:
    alerts, _changes = run(readings + [0.0] * 22)
    assert alerts.active == []


def test_thresholds_are_those_that_are_promised() -> None:
    assert {rule.name: rule.threshold for rule in RULES} == {
        LANES: 0.8,
        "memory": 0.9,
        FAILURES: 0.05,
        LOCKS: 1.0,
        "dead_letters": 0,
        "damaged": 0,
        "disk_low": 0.8,
        "disk_full": 0.99,
        "backup_old": 129_600,
        "offsite_old": 129_600,
    }
    assert all(rule.ends_at < rule.threshold or not rule.threshold for rule in RULES)


def test_the_failure_rate_is_of_the_last_minute() -> None:
    rate = FailureRate()
    assert rate.look(0, 0, 0.0) == 0.0
    assert rate.look(90, 10, 1.0) == 0.1
    for second in range(2, 63):
        last = rate.look(90 + second, 10, float(second))
    assert last == 0.0


def test_a_few_tries_say_nothing() -> None:
    rate = FailureRate()
    rate.look(0, 0, 0.0)
    assert rate.look(0, 19, 1.0) == 0.0
    assert rate.look(0, 20, 1.5) == 1.0


def test_news_are_what_came_in_the_last_hour() -> None:
    news = News()
    assert [news.look(total, now) for now, total in ((0.0, 2), (5.0, 3), (20.0, 3), (40.0, 4))] == [2, 3, 3, 4]
    assert news.look(4, 3_599.0) == 4
    assert news.look(4, 3_645.0) == 0
