"""The disks that mailboxes lie on, each with a breaker: when one gives errors, only a probe knocks there.

Most nodes have one; where slots are mounts or links to another disk, there are as many as there are devices. A volume
is in doubt once a box on it gave an I/O error; it opens when that many different boxes have, and nothing went well in
between: one bad box is no bad disk. While it is open what comes for its boxes waits in the journal, and who reads hears
at once when to come again. A disk that hangs and gives no error isn't seen here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from time import monotonic

import structlog

from node import paths
from node.breaker import Breaker, State
from node.errors import CallerError
from node.slots import slot_of
from shard.mailbox import CORRUPT
from shard.trouble import VolumeDown, is_of_the_disk

log = structlog.get_logger()

_FAILURES_MAX = 5
_PAUSE_S = 1.0
_PAUSE_MAX_S = 30.0
_READ = (CallerError, *CORRUPT)
"""what only somebody says who has read the box, or that there is none"""
_PROBE_S = 30.0  # a probe that takes longer has failed


class Volume:
    """The device ``number``."""

    __slots__ = ("breaker", "failing", "name")

    def __init__(self, number: int) -> None:
        self.name = f"{os.major(number)}:{os.minor(number)}"
        self.breaker = Breaker(
            failures_max=_FAILURES_MAX, silence_s=_PROBE_S, pause_s=_PAUSE_S, pause_max_s=_PAUSE_MAX_S
        )
        self.failing: set[str] = set()
        """users whose boxes gave errors since something went well"""


class Volumes:
    """Those of the mailboxes under ``data``."""

    def __init__(self, data: Path) -> None:
        self._root = paths.boxes_dir(data)
        self._volumes: dict[int, Volume] = {}
        self._of_slot: dict[int, Volume] = {}
        self._common = self._volume(self._root.stat().st_dev)
        self.are_in_doubt = False
        """whether any of them is not as it should be"""

    def _volume(self, number: int) -> Volume:
        volume = self._volumes.get(number)
        if volume is None:
            volume = self._volumes[number] = Volume(number)
        return volume

    def knows(self, user: str) -> bool:
        """Whether it is known where ``user``'s box lies, or would."""
        return slot_of(user) in self._of_slot

    def learn(self, user: str) -> None:
        """Find that out: in a thread, since it asks the disk."""
        slot = slot_of(user)
        with contextlib.suppress(OSError):  # it isn't there yet, or can't be looked at
            self._of_slot[slot] = self._volume((self._root / str(slot)).stat().st_dev)

    def _of(self, user: str) -> Volume:
        return self._of_slot.get(slot_of(user), self._common)

    def is_down(self, user: str) -> bool:
        """Whether ``user``'s box must not be touched in passing."""
        return self.are_in_doubt and self._of(user).breaker.state is not State.CLOSED

    def enter(self, user: str) -> int:
        """A ticket for whoever is about to do something in ``user``'s box; raises :class:`VolumeDown`."""
        if not self.are_in_doubt:
            return self._of(user).breaker.enter(monotonic()) or 0
        breaker, now = self._of(user).breaker, monotonic()
        ticket = breaker.enter(now)
        if ticket is None:
            raise VolumeDown("The mailbox can't be read just now", retry_after=breaker.retry_after_s(now))
        return ticket

    def ended(self, user: str, ticket: int | None, error: BaseException | None) -> None:
        """It went well, or ended with ``error``, which may say nothing of the disk; ``ticket`` is None for what was
        done in passing."""
        if is_of_the_disk(error):
            self._failed(user, ticket)
        elif not self.are_in_doubt:
            return
        elif error is None or isinstance(error, _READ):
            self._succeeded(user, ticket)
        elif ticket is not None:  # a probe that found out nothing: another one has to
            self._of(user).breaker.undecided(ticket, monotonic())

    def _failed(self, user: str, ticket: int | None) -> None:
        volume = self._of(user)
        breaker = volume.breaker
        ticket = self._now(breaker) if ticket is None else ticket
        if ticket is None or (breaker.state is State.CLOSED and user in volume.failing):
            return
        volume.failing.add(user)
        was = breaker.state
        breaker.failed(ticket, monotonic())
        self.are_in_doubt = True
        if was is State.CLOSED and breaker.state is State.OPEN:
            log.error("a volume of mailboxes gives errors; it is left alone for a while", volume=volume.name)

    def _succeeded(self, user: str, ticket: int | None) -> None:
        volume = self._of(user)
        breaker = volume.breaker
        ticket = self._now(breaker) if ticket is None else ticket
        if ticket is None:
            return
        was = breaker.state
        breaker.succeeded(ticket, monotonic())
        if breaker.state is State.CLOSED:
            volume.failing.clear()
            if was is not State.CLOSED:
                log.info("a volume of mailboxes is well again", volume=volume.name)
        self.are_in_doubt = any(one.failing for one in self._volumes.values())

    def _now(self, breaker: Breaker) -> int | None:
        return breaker.enter(monotonic()) if breaker.state is State.CLOSED else None

    def states(self) -> dict[str, State]:
        """By the numbers of the device (major:minor, as in /proc/self/mountinfo)."""
        return {volume.name: volume.breaker.state for volume in self._volumes.values()}
