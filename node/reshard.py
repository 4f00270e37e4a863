"""People change hands while the node runs: who drives it.

A few slots at a time go from one shard to another, each time by one *handover*: the owner is asked to let them go and
packs what is theirs, those who get them write that down, and the rename of ``placement.json`` makes it so. Until then
any of them may call it off, by removing the file with the handover's name, under the lock that the rename is made
under; so a process that is killed, or hangs, at any moment leaves one of the two tables, whole. This one keeps nothing:
killed, and run again, it goes on from what the file says.

More shards are started first, and own nothing until slots are handed to them. Shards that are to go hand over all they
have, the count of what they accepted last of all, and end when no router asks them any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from node import ops, paths, placement
from node.errors import ConfigError, PoboxError
from node.link import ask_once
from node.placement import Placement

T = TypeVar("T")

BATCH = 64
"""slots that change hands together, of 4096"""
_ANSWER_S = 5.0
_HAND_OVER_S = 120.0
_SETTLED_S = 60.0
_POLL_S = 0.02
_TRIES = 12
_AGAIN_S = 0.5
_ROUTERS_LOOK_S = 1.5
_END_S = 20.0
_PATIENCE_S = 5.0


class Stuck(Exception):
    """It can't go on; the node stands as it is, whole. The message says what is in the way."""


class Moved(NamedTuple):
    """What was done; ``longest_s`` is the longest time in which the shards concerned took nothing."""

    slots: int
    people: int
    letters: int
    longest_s: float


class Reshard:
    """On the running node in ``data``. ``said`` is told what is done."""

    def __init__(self, data: Path, said: Callable[[str], None], *, batch: int = BATCH) -> None:
        self._data = data
        self._said = said
        self._batch_max = self._batch = batch
        self._moved = Moved(0, 0, 0, 0.0)

    async def to(self, shards: int) -> Moved:
        """Until there are ``shards`` shards, each with the slots that are computed for it. Raises :class:`Stuck`."""
        with alone(self._data):
            placed = await self._settled(self._begin())
            if shards > placed.shards:
                placed = await self._grow(placed, shards)
            while todo := placement.wanted(placed, shards):
                placed = await self._some(placed, todo)
            while placed.shards > shards:
                new = placement.with_shards(placed, placed.shards - 1)
                new = msgspec.structs.replace(new, starting=placed.processes)
                placed = await self._surely(placed, placed.shards - 1, lambda new=new: new)  # type: ignore[misc]
            await self._let_end(placed)
        return self._moved

    async def user(self, user: str, shard: int) -> Moved:
        """``user`` alone belongs to ``shard`` then. Raises :class:`Stuck`."""
        with alone(self._data):
            placed = await self._settled(self._begin())
            if shard >= placed.shards:
                raise Stuck(f"there is no shard {shard}: they are 0 to {placed.shards - 1}")
            owner = placed.table.shard_of(user)
            if owner != shard:
                await self._surely(placed, owner, lambda: placement.with_user(placed, user, shard))
            elif user in placed.users:
                self._said(f"{user} is at shard {shard} already, and stays there")
            else:
                self._said(f"{user} is at shard {shard} already, with all of that slot: nothing is done")
        return self._moved

    # -- slots -----------------------------------------------------------------------------------------

    async def _some(self, placed: Placement, todo: dict[int, int]) -> Placement:
        """The next of ``todo`` that go from one shard to one other."""
        table = placed.table
        pairs = {(table.owner(slot), to) for slot, to in todo.items()}
        source, to = min(pairs)
        slots = [slot for slot, owner in todo.items() if (table.owner(slot), owner) == (source, to)]

        def next_one() -> Placement:
            return placement.with_slots(placed, slots[: self._batch], to)

        new = await self._surely(placed, source, next_one)
        table = new.table
        went = sum(table.owner(slot) == to for slot in slots)
        self._moved = self._moved._replace(slots=self._moved.slots + went)
        self._said(f"{self._moved.slots} slots have moved, {len(todo) - went} are left")
        return new

    async def _surely(self, placed: Placement, source: int, next_one: Callable[[], Placement]) -> Placement:
        """One handover, tried again when something was in the way; with fewer slots, if it has so many."""
        reason = ""
        for _ in range(_TRIES):
            new = next_one()
            try:
                await self._hand_over(placed, source, new)
            except (PoboxError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                self._batch = max(1, self._batch // 2)
                await asyncio.sleep(_AGAIN_S)
                await self._settled(placed)
            else:
                self._batch = min(self._batch_max, 2 * self._batch)
                return await self._settled(placement.load(self._data) or new)
        raise Stuck(f"shard {source} can't let go: {reason}")

    async def _hand_over(self, placed: Placement, source: int, new: Placement) -> None:
        await self._no_backup(placed)
        name = uuid.uuid4().hex
        new = msgspec.structs.replace(new, handover=name)
        with placement.changing(self._data):
            if placement.load(self._data) != placed:
                raise Stuck("placement.json was changed by somebody else meanwhile")
            placement.begin(self._data, name)
        shards: list[int] = []
        try:
            asked = ops.HandOver(0, name, placement.encode(new))
            done = await self._ask(source, asked, ops.HandedOver, _HAND_OVER_S)
            began, shards = time.monotonic(), done.shards
            for shard in shards:
                await self._ask(shard, ops.TakeOver(0, name), type(None))
            placement.prepare(self._data, new)  # now: whoever holds the lock and hangs holds up the shards, too
            with placement.changing(self._data):
                if placement.under_way(self._data) != name:
                    raise TimeoutError("it was called off")
                placement.put(self._data)
                placement.call_off(self._data)
            placement.sync_directory(self._data)
        finally:
            with placement.changing(self._data):
                if placement.under_way(self._data) == name:
                    placement.call_off(self._data)
            for shard in shards:
                paths.parcel_path(self._data, name, shard).unlink(missing_ok=True)
        frozen_s = done.frozen_us / 1e6 + time.monotonic() - began
        _slots, people, letters, longest_s = self._moved
        self._moved = self._moved._replace(
            people=people + done.people, letters=letters + done.letters, longest_s=max(longest_s, frozen_s)
        )

    async def _no_backup(self, placed: Placement) -> None:
        """A backup is of one table: it is waited for."""
        told = 0.0
        for shard in range(placed.shards):
            while (await self._ask(shard, ops.AskBackup(0), ops.BackupState)).running:
                if time.monotonic() - told > _PATIENCE_S:
                    told = time.monotonic()
                    self._said(f"waiting until shard {shard} has made its backup")
                await asyncio.sleep(_AGAIN_S)

    # -- shards ----------------------------------------------------------------------------------------

    async def _grow(self, placed: Placement, shards: int) -> Placement:
        """Begin new shards, which own nothing yet."""
        for index in range(placed.processes, shards):
            self._clear(placed, index)
        placed = self._change(placed, msgspec.structs.replace(placed, starting=max(shards, placed.processes)))
        await self._await_new(range(placed.shards, shards))
        return await self._settled(self._change(placed, placement.with_shards(placed, shards)))

    def _clear(self, placed: Placement, index: int) -> None:
        """What a shard of that number had left when it ended."""
        fd = os.open(paths.shard_lock(self._data, index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal = paths.shard_db(self._data, placed.version, index)
            for path in (journal, journal.with_name(f"{journal.name}-wal"), journal.with_name(f"{journal.name}-shm")):
                path.unlink(missing_ok=True)
            placement.sync_directory(journal.parent)
        except BlockingIOError:
            raise Stuck(f"there is a process of shard {index} already, which the node doesn't know: end it") from None
        finally:
            os.close(fd)

    async def _await_new(self, shards: range) -> None:
        began = told = time.monotonic()
        for shard in shards:
            while not await self._state(shard):
                await asyncio.sleep(_POLL_S)
                if time.monotonic() - told > _PATIENCE_S:
                    told = time.monotonic()
                    self._said(f"waiting for shard {shard} to be started (systemctl start pobox-shard@{shard})")
                if time.monotonic() - began > _HAND_OVER_S:
                    raise Stuck(f"shard {shard} doesn't answer")

    async def _let_end(self, placed: Placement) -> None:
        """Shards that are no more have nothing to do: they end when the routers have heard of it."""
        if placed.processes == placed.shards:
            return
        ends = range(placed.shards, placed.processes)
        await asyncio.sleep(_ROUTERS_LOOK_S)
        self._change(placed, msgspec.structs.replace(placed, starting=0))
        until = time.monotonic() + _END_S
        for index in ends:
            while True:
                try:
                    self._clear(placed, index)
                    break
                except Stuck:
                    if time.monotonic() > until:
                        self._said(f"shard {index} has nothing any more: end it (systemctl stop pobox-shard@{index})")
                        break
                await asyncio.sleep(_POLL_S)

    # -- the file --------------------------------------------------------------------------------------

    def _begin(self) -> Placement:
        try:
            found = placement.settle(self._data)
        except (ConfigError, OSError) as error:
            raise Stuck(str(error)) from error
        for left in paths.run_dir(self._data).glob("parcel-*"):
            left.unlink(missing_ok=True)
        return found

    def _change(self, placed: Placement, new: Placement) -> Placement:
        """A change by which nobody moves."""
        with placement.changing(self._data):
            if placement.load(self._data) != placed:
                raise Stuck("placement.json was changed by somebody else meanwhile")
            placement.save(self._data, new)
        return new

    async def _settled(self, placed: Placement) -> Placement:
        """``placed``, when every shard goes by it, and none is in the middle of a handover."""
        until = time.monotonic() + _SETTLED_S
        for shard in range(placed.shards):
            while True:
                state = await self._state(shard)
                if state is not None and state.table == placed.table.number and not state.moving:
                    break
                if time.monotonic() > until:
                    raise Stuck(f"shard {shard} doesn't answer, or not by this table")
                await asyncio.sleep(_POLL_S)
        return placed

    # -- asking ----------------------------------------------------------------------------------------

    async def _state(self, shard: int) -> ops.State | None:
        try:
            return await self._ask(shard, ops.Ping(0), ops.State)
        except (PoboxError, OSError, TimeoutError):
            return None

    async def _ask(self, shard: int, request: ops.AnyRequest, answer: type[T], timeout_s: float = _ANSWER_S) -> T:
        return await ask_once(paths.socket_path(self._data, shard), request, answer, timeout_s=timeout_s)


@contextlib.contextmanager
def alone(data: Path) -> Iterator[None]:
    """Nobody else moves people meanwhile. Raises :class:`Stuck` if somebody does."""
    try:
        fd = os.open(paths.run_dir(data) / "reshard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Stuck(f"no node runs on {data}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stuck("people are being moved already") from None
        yield
    finally:
        os.close(fd)
