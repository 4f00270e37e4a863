"""What counts as trouble. Pure: time and readings are arguments.

An alert begins when its reading has been above the threshold for ``pending_s``, and ends when it has been at or below
``ends_at``, which is lower, for ``hold_s``. So a reading that swings around the threshold is one alert, and one that
falls for good is forgotten after ``hold_s``. Every change is reported once.

Use: one :class:`Alerts` a shard, :meth:`Alerts.look` twice a second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from node.ops import Alert

LANES, MEMORY, FAILURES, LOCKS = "lanes_full", "memory", "failures", "lock_wait"
DEAD, DAMAGED = "dead_letters", "damaged"
DISK_LOW, DISK_FULL = "disk_low", "disk_full"
BACKUP, OFFSITE = "backup_old", "offsite_old"
_HOUR_S = 3_600.0
_FAILURES_S = 60.0
_NEWS_S = 3_600.0
_NEWS_STEP_S = 10.0
_TRIES_MIN = 20


class Rule(NamedTuple):
    name: str
    threshold: float
    ends_at: float
    pending_s: float
    hold_s: float
    summary: str


RULES = (
    Rule(LANES, 0.80, 0.70, 2.0, 10.0, "The lanes are nearly full: mail comes faster than it is stored"),
    Rule(MEMORY, 0.90, 0.85, 2.0, 10.0, "Memory is nearly used up"),
    Rule(FAILURES, 0.05, 0.025, 0.0, 10.0, "Deliveries fail"),
    Rule(DEAD, 0.0, 0.0, 0.0, 10.0, "Letters were given up; they are kept as dead letters"),
    Rule(DAMAGED, 0.0, 0.0, 0.0, 10.0, "A mailbox was damaged and set aside"),
    Rule(DISK_LOW, 0.80, 0.75, 2.0, 10.0, "The disk is nearly full: low priorities are refused"),
    Rule(DISK_FULL, 0.99, 0.95, 0.0, 10.0, "The disk is full: everything is refused"),
    # A start makes up for what was missed while nothing ran: it has an hour for it.
    Rule(BACKUP, 36 * _HOUR_S, 30 * _HOUR_S, _HOUR_S, 10.0, "The last whole backup is older than a day and a half"),
    Rule(OFFSITE, 36 * _HOUR_S, 30 * _HOUR_S, _HOUR_S, 10.0, "What is off-site is older than a day and a half"),
    Rule(LOCKS, 1.0, 0.5, 0.0, 10.0, "A mailbox is held for long"),
)


class Change(NamedTuple):
    """``alert`` has begun, or ended."""

    alert: Alert
    began: bool


class _State:
    """Of one rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.alert: Alert | None = None
        self._above_since: float | None = None
        self._below_since: float | None = None

    def look(self, value: float, now: float, now_us: int) -> Change | None:
        rule, alert = self.rule, self.alert
        if alert is None:
            self._above_since = _since(self._above_since, value > rule.threshold, now)
            if self._above_since is None or now - self._above_since < rule.pending_s:
                return None
            self.alert = Alert(rule.name, now_us, value, rule.threshold, rule.summary)
            self._below_since = None
            return Change(self.alert, True)
        alert.value = value
        self._below_since = _since(self._below_since, value <= rule.ends_at, now)
        if self._below_since is None or now - self._below_since < rule.hold_s:
            return None
        self.alert, self._above_since = None, None
        return Change(alert, False)


class Alerts:
    """The state of ``rules``."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self._states = [_State(rule) for rule in rules]

    def look(self, readings: Mapping[str, float], now: float, now_us: int) -> list[Change]:
        """Take a reading for every rule, by its name, at monotonic time ``now``; what has changed by it."""
        changes = [state.look(readings[state.rule.name], now, now_us) for state in self._states]
        return [change for change in changes if change is not None]

    @property
    def active(self) -> list[Alert]:
        """What is wrong now."""
        return [state.alert for state in self._states if state.alert is not None]

    def by_name(self) -> dict[str, float]:
        """1 for each alert that is active, 0 for the others."""
        return {state.rule.name: float(state.alert is not None) for state in self._states}


class FailureRate:
    """The share of tries of the last minute that failed; 0 while there were too few to say."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, int, int]] = deque()

    def look(self, stored: int, failed: int, now: float) -> float:
        """Take the totals since the start of what was stored and of what failed."""
        while self._past and self._past[0][0] < now - _FAILURES_S:
            self._past.popleft()
        self._past.append((now, stored, failed))
        _then, stored_before, failed_before = self._past[0]
        failures = failed - failed_before
        tries = stored - stored_before + failures
        return failures / tries if tries >= _TRIES_MIN else 0.0


class News:
    """How much a total has grown in the last hour."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, int]] = deque([(-math.inf, 0)])

    def look(self, total: int, now: float) -> float:
        """Take the total since the start."""
        while len(self._past) > 1 and self._past[1][0] <= now - _NEWS_S:
            self._past.popleft()
        growth = total - self._past[0][1]
        if now >= self._past[-1][0] + _NEWS_STEP_S:
            self._past.append((now, total))
        return growth


def _since(before: float | None, is_so: bool, now: float) -> float | None:
    if not is_so:
        return None
    return now if before is None else before
