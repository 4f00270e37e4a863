"""Whether to ask somebody who may not answer. Pure: the clock is an argument.

Closed: everybody may ask. It opens after so many failures in a row, or when nothing at all has been
heard for so long though something was asked. Open: nobody may, for a pause that doubles each time up
to a bound. Half-open, after the pause: exactly one may ask, the probe, and its end decides. A probe of
which nothing is heard counts as failed, so an asker that goes away leaves nothing stuck.

Who asks gets a ticket and gives it back with the outcome. An outcome from before the last change of
state is ignored: what was asked before the trouble says nothing about now. An answer that refuses is
an answer: it counts as a success. One that says nothing about who was asked decides nothing.

Use, in a shard one for each volume of mailboxes (:mod:`shard.volumes`): ``enter`` before a box is touched, then
``succeeded``, ``failed`` or ``undecided``.

In a router one for each shard (:mod:`node.link`), which opens on silence only: ``look`` every quarter of a second with
the time of the oldest request that still waits. Nothing counts as ``failed`` there. A request whose time was up says
little, since some take long in good health: five of them would close the shard to everybody. A connection that broke
needs no breaker: it is gone for all at once, and made anew. But whoever hangs answers no ping. One is sent whenever
nothing was heard for half a second, and its answer ends the silence. Only pings ``enter``; requests go out while the
state is closed.
"""

from __future__ import annotations

import math
from enum import StrEnum

SILENCE_S = 1.5
_ROUNDING_S = 1e-6


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """``failures_max`` in a row, or ``silence_s`` without a word, open it for ``pause_s`` to ``pause_max_s``.

    Times are seconds of one clock that never goes back.
    """

    def __init__(
        self, *, failures_max: int = 5, silence_s: float = SILENCE_S, pause_s: float = 0.5, pause_max_s: float = 4.0
    ) -> None:
        self._failures_max = failures_max
        self._silence_s = silence_s
        self._pause_min_s = pause_s
        self._pause_max_s = pause_max_s
        self._pause_s = pause_s
        self._failures = 0
        self._heard_at = -math.inf
        self._since = 0.0
        self._ticket = 0
        self.state = State.CLOSED
        self.opened = 0
        """how often it went from closed to open"""

    def enter(self, now: float) -> int | None:
        """A ticket if it may be asked now, None if not."""
        self.look(now, None)
        if self.state is State.CLOSED:
            return self._ticket
        if self.state is State.OPEN and now >= self._since + self._pause_s:
            self._become(State.HALF_OPEN, now)
            return self._ticket
        return None

    def succeeded(self, ticket: int, now: float) -> None:
        """There was an answer."""
        if ticket != self._ticket or self.state is State.OPEN:
            return
        self._failures = 0
        self._heard_at = now
        if self.state is State.HALF_OPEN:
            self._pause_s = self._pause_min_s
            self._become(State.CLOSED, now)

    def failed(self, ticket: int, now: float) -> None:
        """There was no answer, or an error."""
        if ticket != self._ticket or self.state is State.OPEN:
            return
        if self.state is State.HALF_OPEN:
            self._probe_failed(now)
            return
        self._failures += 1
        if self._failures >= self._failures_max:
            self._open(now)

    def undecided(self, ticket: int, now: float) -> None:
        """It ended in a way that says nothing: a probe has to be sent once more, after the same pause."""
        if ticket == self._ticket and self.state is State.HALF_OPEN:
            self._become(State.OPEN, now)

    def look(self, now: float, waiting_since: float | None) -> None:
        """Notice silence. ``waiting_since``: when the oldest unanswered request was sent, None if there is none."""
        if self.state is State.HALF_OPEN:
            if now - self._since >= self._silence_s:
                self._probe_failed(now)
        elif (
            self.state is State.CLOSED
            and waiting_since is not None
            and now - max(waiting_since, self._heard_at, self._since) >= self._silence_s
        ):
            self._open(now)

    def retry_after_s(self, now: float) -> int:
        """Whole seconds until it is worth trying again, at least 1."""
        return max(1, math.ceil(self._since + self._pause_s - now - _ROUNDING_S)) if self.state is State.OPEN else 1

    def _probe_failed(self, now: float) -> None:
        self._pause_s = min(self._pause_max_s, self._pause_s * 2)
        self._become(State.OPEN, now)

    def _open(self, now: float) -> None:
        self.opened += 1
        self._become(State.OPEN, now)

    def _become(self, state: State, now: float) -> None:
        self.state, self._since = state, now
        self._failures = 0
        self._ticket += 1
