"""When the daily backup is due: one rule, for whoever starts it (a timer of systemd, or ``pobox serve``). Pure.

``at`` is ``[backup] at``, a time of the day in UTC; times are microseconds since 1970.
"""

from __future__ import annotations

from node.clock import DAY_US


def last_us(at: str, now_us: int) -> int:
    """The last time that it was ``at``, now included."""
    hours, minutes = map(int, at.split(":"))
    today_us = now_us - now_us % DAY_US + (hours * 60 + minutes) * 60_000_000
    return today_us if today_us <= now_us else today_us - DAY_US


def next_us(at: str, now_us: int) -> int:
    """The next time, later than now."""
    return last_us(at, now_us) + DAY_US


def is_due(at: str, made_us: int, now_us: int) -> bool:
    """Whether a backup is to be made, the last of which was made at ``made_us`` (0 for never)."""
    return made_us < last_us(at, now_us)
