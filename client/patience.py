"""How long trouble is sat out: so many seconds since it began, anew after each progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from client.errors import Trouble, Unavailable

_DELAY_MIN_S = 0.1
_DELAY_MAX_S = 5.0


class Patience:
    """For one sync. ``limit_s`` 0 gives up at the first trouble."""

    def __init__(
        self,
        limit_s: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit_s
        self._sleep = sleep
        self._now = now
        self._began: float | None = None
        self._attempts = 0

    def wait(self, trouble: Trouble) -> None:
        """Sleep until the next attempt; raises :class:`Unavailable` when that would be too late."""
        now = self._now()
        self._began = now if self._began is None else self._began
        self._attempts += 1
        delay_s = min(_DELAY_MAX_S, _DELAY_MIN_S * 2.0 ** min(self._attempts - 1, 10))
        if trouble.after_s is not None:
            delay_s = max(delay_s, trouble.after_s)
        if now + delay_s > self._began + self._limit_s:
            raise Unavailable(str(trouble), trouble.after_s)
        self._sleep(delay_s)

    def progress(self) -> None:
        """Something was achieved: trouble from now on is new trouble."""
        self._began = None
        self._attempts = 0
