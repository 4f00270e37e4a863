"""Time as pobox writes it: microseconds since 1970 inside, ISO 8601 in UTC outside."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_US = timedelta(microseconds=1)


def now_us() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000


def iso(us: int) -> str:
    """``2026-11-24T08:44:00.000000Z``: always 27 characters, so that text sorts as time does."""
    return (_NAIVE_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds") + "Z"


def us_of(moment: datetime) -> int:
    """Microseconds of an aware ``datetime``."""
    return (moment - _EPOCH) // _US
