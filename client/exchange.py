"""Read status, both ways: what waits goes out in portions, what is new comes in pages.

A mark that the server can't take at all (not: one that lost a conflict) must not hold up the others: the
portion is halved until it stands alone, and it is dropped. A ``since`` that the server can't
make sense of is forgotten, and everything comes anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec

from client.errors import Refused, Trouble
from client.marks import Mark, Waiting
from client.patience import Patience
from client.server import Server
from client.statuses import Statuses
from node.model import PositionChange, ReadStatus, StatusChange, StatusChanges, StatusConflict, StatusMerged

PORTION_MAX = 1_000
PAGE = 10_000
_UNACCEPTABLE = frozenset({400, 409, 413, 422})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Exchanged(msgspec.Struct):
    """Counts, and the marks that didn't come through."""

    sent: int = 0
    heard: int = 0
    """statuses and positions that the server told, our own among them"""
    conflicts: list[StatusConflict] = []
    dropped: list[str] = []
    """messages whose mark the server couldn't take at all"""


class Exchange:
    """Between ``statuses`` and ``server``. ``now_us`` is the device's clock."""

    def __init__(self, server: Server, statuses: Statuses, patience: Patience, now_us: Callable[[], int]) -> None:
        self._server = server
        self._statuses = statuses
        self._patience = patience
        self._now_us = now_us
        self._done = Exchanged()

    def run(self) -> Exchanged:
        """All that waits now goes out, all that is new comes in."""
        self._statuses.meet(self._server.url)
        if not self._push():
            self._pull()
        return self._done

    def _push(self) -> bool:
        """Whether the answers told everything that is new."""
        last = self._statuses.last()
        limit, whole = PORTION_MAX, False
        while portion := self._statuses.waiting(last, limit):
            portion.sort(key=lambda mark: mark.kind, reverse=True)  # as conflicts are counted: messages first
            try:
                answer = self._post(portion)
            except Refused as refusal:
                if refusal.status not in _UNACCEPTABLE:
                    raise
                if refusal.field == "since" and self._statuses.since is not None:
                    self._statuses.forget_since()
                elif len(portion) > 1:
                    limit = len(portion) // 2
                else:
                    self._statuses.drop(portion[0])
                    self._done.dropped.append(portion[0].message_id)
                    limit = PORTION_MAX
                continue
            refused = {conflict.index for conflict in answer.conflicts}
            self._take(answer, portion, refused)
            self._done.sent += len(portion)
            self._done.conflicts += answer.conflicts
            whole = not answer.more
        return whole

    def _post(self, portion: list[Waiting]) -> StatusMerged:
        def body() -> StatusChanges:
            return StatusChanges(
                changes=[_change(mark, self._statuses.name) for mark in portion if mark.kind == "message"],
                positions=[_move(mark) for mark in portion if mark.kind == "channel"],
                since=self._statuses.since,
                clock=_moment(self._now_us()),
            )

        return self._server.ask("POST", "read-status", StatusMerged, self._patience, body=body)

    def _pull(self) -> None:
        more = True
        while more:
            since = self._statuses.since
            params: dict[str, str | int | None] = {"since": since, "limit": PAGE}
            try:
                answer = self._server.ask("GET", "read-status", ReadStatus, self._patience, params=params)
            except Refused as refusal:
                if refusal.field != "since" or since is None:
                    raise
                self._statuses.forget_since()
                continue
            if answer.more and answer.since == since:
                self._patience.wait(Trouble(f"{self._server.url} has more, and says nothing"))
                continue
            self._take(answer)
            more = answer.more

    def _take(self, answer: ReadStatus, sent: list[Waiting] | None = None, refused: Collection[int] = ()) -> None:
        self._statuses.apply(answer, sent or (), refused, self._now_us())
        self._done.heard += len(answer.statuses) + len(answer.positions)


def _change(mark: Waiting, device: str) -> StatusChange:
    return StatusChange(
        message_id=mark.message_id, status=cast(Mark, mark.status), at=_moment(mark.at_us), device=device
    )


def _move(mark: Waiting) -> PositionChange:
    return PositionChange(
        channel_id=mark.key, message_id=mark.message_id, at=_moment(mark.at_us), position=mark.position
    )


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
