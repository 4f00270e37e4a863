"""What could not be stored and is tried again: the letters that wait for a box in trouble, and when its turn is.

They stay in the journal. Memory holds a few of them: beyond a part of the window messages are parked, on disk alone
(:mod:`shard.parked`), so that whoever can't be served takes no room from those who can.

Whatever comes for that user meanwhile waits behind them: a join must not be written after the leave that followed it. A
message is given up after its last try, or when its sender wants it no more, and is then a dead letter; a join, a leave
or a removal is tried for ever: it is what the member list and the person's own wish say, and no sender is there to be
told.

A user is in one of three states: in no trouble (not here), waiting for the time of the next try (a timer runs), or
being tried (no timer, or somebody holds the box).
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

import structlog

from node.clock import now_us
from node.errors import Unavailable
from shard.backlog import Backlog, Letter, expired
from shard.dead_letters import Death
from shard.given_up import GivenUp
from shard.journal import MESSAGE
from shard.lanes import HIGH
from shard.parked import Dying, Parked, Parking
from shard.retry import Policy, Tries, pause_s
from shard.schedule import Retry
from shard.trouble import BUSY, DAMAGED, EXPIRED, FOR_EVERYBODY, NO_ROOM, VOLUME
from shard.window import OVERHEAD_BYTES

log = structlog.get_logger()

_HELD_S = 0.05
_COMING_S = 1.0
_EARLY_S = 0.005  # a timer may be that much before its time
_FOR_EVERYBODY_MAX_S = 30.0  # a disk is well, or has room, again for everybody at once
_SHARE = 8  # of the window, one part may be held in memory; from there on messages are parked until half of it is left
_HELD_MAX = 50_000
_FULL_PAUSE_S = 5.0
_PARK_MAX = 2_000  # at one go


class Waiting:
    """The letters of one user, in the order of acceptance."""

    __slots__ = ("attempts", "first_us", "letters", "next_at", "reason", "timer", "tries", "written")

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.attempts = 0
        """tries in a row that failed, for whatever reason"""
        self.tries = Tries()
        """those that failed for the box's sake"""
        self.reason = ""
        self.first_us = 0
        self.next_at = 0.0
        """when the next try is due, by the loop's clock"""
        self.timer: asyncio.TimerHandle | None = None
        self.written = False
        """it is in the schedule on disk"""


class PutOff:
    """``parked`` holds what memory does not. ``is_held`` says whether somebody has a user's box; ``again`` takes
    letters whose turn has come; there may be none but those that are parked."""

    def __init__(
        self,
        policy: Policy,
        backlog: Backlog,
        parked: Parked,
        *,
        is_held: Callable[[str], bool],
        again: Callable[[str, list[Letter]], None],
    ) -> None:
        self._policy = policy
        self._backlog = backlog
        self.parked = parked
        self._is_held = is_held
        self._again = again
        self._users: dict[str, Waiting] = {}
        self._held_back: dict[str, str] = {}  # user → what is being done to the box
        self._changed: set[str] = set()
        self._ended: set[str] = set()
        self._in_memory: dict[str, None] = {}  # users with letters in memory, in the order of their coming
        self._held = self._bytes = 0
        self._letters_max = min(backlog.window.letters_max // _SHARE, _HELD_MAX)
        self._bytes_max = backlog.window.bytes_max // _SHARE
        self._is_parking = False
        self._park_at = 0.0
        self.dying: dict[str, Dying] = {}
        """of what is parked, what has to be given up, for the journal"""
        self.failed_tries: Counter[str] = Counter()
        """each letter counted, by what was in the way"""
        self.given_up = GivenUp(backlog)

    def load(self, retries: Iterable[Retry]) -> None:
        """Go on with what the schedule holds. The letters come from the journal, and wait when they do."""
        for retry in retries:
            waiting = self._users[retry.user] = Waiting()
            waiting.attempts, waiting.reason = retry.attempts, retry.reason
            waiting.first_us, waiting.tries, waiting.written = retry.first_us, Tries(retry.runs), True
            left_s = min(self._policy.cap_s, max(0.0, (retry.next_us - now_us()) / 1e6))
            waiting.next_at = self._time() + left_s
            self._set_timer(retry.user, waiting)
        for user in self.parked.users():
            self.go_on(user)

    def _put(self, user: str, waiting: Waiting, letters: list[Letter]) -> None:
        """``letters`` wait in memory."""
        if not letters:
            return
        waiting.letters += letters
        self._in_memory[user] = None
        self._count(1, letters)

    def _out(self, user: str, waiting: Waiting) -> list[Letter]:
        """What waits in memory, for somebody else to see to."""
        letters, waiting.letters = waiting.letters, []
        if letters:
            del self._in_memory[user]
            self._count(-1, letters)
        return letters

    def _count(self, sign: int, letters: list[Letter]) -> None:
        """``letters`` come (1) or go (-1). What can't be parked takes no room from others in the window either."""
        messages = [letter for letter in letters if letter.kind == MESSAGE]
        self._held += sign * len(messages)
        self._bytes += sign * (sum([letter.size for letter in messages]) + len(messages) * OVERHEAD_BYTES)
        self._backlog.put_off += sign * len(letters)
        if len(messages) < len(letters):
            self._backlog.window.held[HIGH] -= sign * (len(letters) - len(messages))
            self._backlog.room.set()

    # -- what the postmen ask ----------------------------------------------------------------------

    def has(self, user: str) -> bool:
        """Whether letters wait here for ``user``."""
        return user in self._in_memory or self.is_parked(user)

    def is_parked(self, user: str) -> bool:
        """Whether some of them are parked."""
        return self.parked.pile(user) is not None

    def users(self) -> set[str]:
        """Whose boxes are in trouble, or whose mail is held back."""
        return {*self._users, *self._held_back}

    def waiting_for(self, user: str) -> list[Letter]:
        """The letters that wait here, which stay."""
        waiting = self._users.get(user)
        return [] if waiting is None else list(waiting.letters)

    def retry_of(self, user: str) -> Retry | None:
        """When the box of ``user`` is tried again, and what of it is known; None if it is in no trouble."""
        waiting = self._users.get(user)
        if waiting is None or not waiting.attempts:
            return None
        return self._retry(user, waiting)

    def move_out(self, user: str) -> None:
        """``user`` is another shard's: what waits here was handed over."""
        self._held_back.pop(user, None)
        self.dying.pop(user, None)
        waiting = self._users.pop(user, None)
        if waiting is not None:
            for letter in self._out(user, waiting):
                self._backlog.gave_up(letter)
            waiting.written = False  # what is on disk goes with the rest
            self._end(user, waiting)

    def join(self, user: str, letters: list[Letter]) -> bool:
        """Let ``letters`` wait with those that do; False if the box is not to be waited for."""
        if user in self._held_back:
            self._put(user, self._users.setdefault(user, Waiting()), letters)
            return True
        waiting = self._users.get(user)
        if waiting is None or waiting.timer is None:
            return False
        self._put(user, waiting, letters)
        sooner = self._deadline(letters)
        if sooner is not None and sooner < waiting.timer.when():
            waiting.timer.cancel()
            waiting.timer = asyncio.get_running_loop().call_at(sooner, self._due, user)
        return True

    def take(self, user: str) -> list[Letter]:
        """What waits for ``user`` in memory: somebody is about to try."""
        waiting = self._users.get(user)
        return [] if waiting is None else self._out(user, waiting)

    def stored(self, user: str) -> None:
        """The box of ``user`` could be written: whoever joined meanwhile may go at once."""
        waiting = self._users.pop(user, None)
        if waiting is None:
            return
        letters = self._out(user, waiting)
        self._end(user, waiting)
        if letters and not self.join(user, letters):
            self._again(user, letters)

    def go_on(self, user: str) -> None:
        """Something is parked for ``user`` and nobody may be at it: it is due, if no time is set."""
        waiting = self._users.setdefault(user, Waiting())
        if waiting.timer is None and user not in self._held_back:
            waiting.timer = asyncio.get_running_loop().call_later(_HELD_S, self._due, user)

    def hold_back(self, user: str, why: str) -> None:
        """Everything for ``user`` waits until :meth:`let_in`, whatever the time; ``why``: for who asks meanwhile."""
        self._held_back[user] = why
        waiting = self._users.get(user)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None

    def is_held_back(self, user: str) -> bool:
        return user in self._held_back

    def check(self, user: str) -> None:
        """Refuse what is asked about the box of somebody who is held back."""
        why = self._held_back.get(user)
        if why is not None:
            raise Unavailable(why)

    def let_in(self, user: str) -> list[Letter]:
        """What was held back, or put off; the trouble is over."""
        self._held_back.pop(user, None)
        waiting = self._users.pop(user, None)
        if waiting is None:
            return []
        letters = self._out(user, waiting)
        self._end(user, waiting)
        return letters

    def failed(self, user: str, letters: list[Letter], why: str, error: Exception, *, for_reader: bool) -> None:
        """``letters`` for ``user``, or what is parked for him, could not be stored; ``why`` is a word of
        ``shard.trouble``. Pauses grow, and letters use up their tries, by tries that were due: not by readers, however
        often they look in, nor by the last try of a letter whose time is over."""
        pile = self.parked.pile(user)
        assert letters or pile
        waiting = self._users.setdefault(user, Waiting())
        now = now_us()
        was_due = not waiting.attempts or (not for_reader and self._time() >= waiting.next_at - _EARLY_S)
        if was_due:
            waiting.attempts += 1
            waiting.reason = why
            waiting.first_us = waiting.first_us or now
            if why not in FOR_EVERYBODY:
                oldest, newest = (letters[0].seq, letters[-1].seq) if letters else (sys.maxsize, 0)
                if pile is not None:
                    oldest, newest = min(oldest, pile.oldest), max(newest, pile.newest)
                waiting.tries.failed(oldest, newest)
            pause = pause_s(self._policy, waiting.attempts, random.random())
            waiting.next_at = self._time() + (min(pause, _FOR_EVERYBODY_MAX_S) if why in FOR_EVERYBODY else pause)
        if (
            was_due
            and waiting.attempts == (self._policy.quick + 1 if why == BUSY else 1)
            and why not in (DAMAGED, VOLUME)
        ):
            log.warning("delivery put off", user=user, letters=len(letters), error=str(error) or repr(error))
        self.failed_tries[why] += len(letters)
        # The oldest has had the most tries: where it has some left, only those with a time of their own are looked at.
        worn = 0 if why in FOR_EVERYBODY else waiting.tries.worn(self._policy.tries_max)
        left = [
            letter
            for letter in letters
            if not ((letter.seq <= worn or letter.deadline_us) and self._dies(letter, user, waiting, why, now))
        ]
        if pile is not None and (worn >= pile.oldest or 0 < pile.deadline_us <= now):
            tries = Tries(waiting.tries.runs)
            self.dying[user] = Dying(user, pile.got, worn, why, tries, waiting.first_us, now)
            pile.deadline_us = 0  # until it is known what is left
        self._put(user, waiting, sorted(left + self._out(user, waiting), key=_seq))
        if not waiting.letters and pile is None:
            del self._users[user]
            self._end(user, waiting)
            return
        if waiting.attempts > self._policy.quick:
            self._changed.add(user)
        self._set_timer(user, waiting)

    def _dies(self, letter: Letter, user: str, waiting: Waiting, why: str, now: int) -> bool:
        """Give ``letter`` up if this was its last try."""
        if letter.kind != MESSAGE:
            return False
        is_expired = expired(letter)
        if not is_expired and why in FOR_EVERYBODY:
            return False
        tries = waiting.tries.of(letter.seq)
        if not is_expired and tries < self._policy.tries_max:
            return False
        reason = EXPIRED if is_expired else why
        self.given_up.dies(Death(letter.seq, user, letter.id, reason, tries, waiting.first_us, now, letter.size))
        self._backlog.gave_up(letter)
        return True

    @property
    def failures(self) -> int:
        """Tries that failed, and letters times targets that were given up for it."""
        return self.failed_tries.total() + self.given_up.lost

    def withdraw_deaths(self, user: str) -> None:
        """What was given up for ``user``, who is there no more, and is not noted yet is no dead letter."""
        self.given_up.withdraw_deaths(user)
        self.dying.pop(user, None)

    # -- timers ------------------------------------------------------------------------------------

    def _set_timer(self, user: str, waiting: Waiting) -> None:
        """One a user. A letter whose time ends sooner has its last try then."""
        if waiting.timer is not None:
            waiting.timer.cancel()
        if user in self._held_back:
            waiting.timer = None
            return
        deadline = self._deadline(waiting.letters, user)
        at = waiting.next_at if deadline is None else min(waiting.next_at, deadline)
        waiting.timer = asyncio.get_running_loop().call_at(at, self._due, user)

    def _deadline(self, letters: list[Letter], user: str = "") -> float | None:
        """When the first of ``letters``, or of what is parked for ``user``, is wanted no more, by the loop's clock;
        None for never."""
        deadlines = [letter.deadline_us for letter in letters if letter.deadline_us]
        if (pile := self.parked.pile(user)) is not None and pile.deadline_us:
            deadlines.append(pile.deadline_us)
        return self._time() + max(0.0, (min(deadlines) - now_us()) / 1e6 + 0.001) if deadlines else None

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    def _due(self, user: str) -> None:
        """Back into the lanes; but not while somebody is in line for the box: he may bring later letters, and takes
        these along if he does; and if he only reads, he must know that they are late."""
        waiting = self._users[user]
        if self._is_held(user):
            waiting.timer = asyncio.get_running_loop().call_later(_HELD_S, self._due, user)
            return
        waiting.timer = None
        letters = self._out(user, waiting)
        if letters or self.is_parked(user):
            self._again(user, letters)
        elif self._backlog.waiting:  # after a start: his letters may be on their way here
            waiting.timer = asyncio.get_running_loop().call_later(_COMING_S, self._due, user)
        else:  # of what the schedule knew nothing is left
            del self._users[user]
            self._end(user, waiting)

    def _end(self, user: str, waiting: Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        self._changed.discard(user)
        if (dying := self.dying.pop(user, None)) and (pile := self.parked.pile(user)):
            pile.deadline_us = dying.now_us  # to be looked at again, then
        if waiting.written:
            self._ended.add(user)

    # -- what the journal notes --------------------------------------------------------------------

    def take_parkings(self) -> list[Parking]:
        """What is to be parked now: for trouble that lasts, only, and of boxes that nobody holds, since whoever holds
        one is about to store all that waits for it. A disk that is full takes nothing."""
        parkings: list[Parking] = []
        users = list(self._in_memory) if self.is_too_much() else []
        for user in users:
            if len(parkings) >= _PARK_MAX or not self.is_too_much():
                break
            waiting = self._users[user]
            lasts = waiting.attempts > self._policy.quick or user in self._held_back
            if not lasts or waiting.reason == NO_ROOM or self._is_held(user):
                continue
            messages = list(islice((letter for letter in waiting.letters if letter.kind == MESSAGE), _PARK_MAX))
            if not messages:
                continue
            going = set(messages)
            waiting.letters = [letter for letter in waiting.letters if letter not in going]
            self._count(-1, messages)
            if not waiting.letters:
                del self._in_memory[user]
            parkings += self.parked.begin(user, messages)
        return parkings

    def is_too_much(self) -> bool:
        """Whether more is in memory than should be; once it is, until half of that is left."""
        if self._time() < self._park_at:
            return False
        share = 2 if self._is_parking else 1
        self._is_parking = self._held > self._letters_max // share or self._bytes > self._bytes_max // share
        return self._is_parking

    def parked_for_good(self, parkings: list[Parking], size: int) -> None:
        """They are parked, on disk; ``size``: see :meth:`shard.parked.Parked.park`."""
        self._backlog.count_parked(0, size)
        for parking in parkings:
            self._backlog.parked(parking.letter)

    def not_parked(self, parkings: list[Parking]) -> None:
        """The disk is full: they wait in memory."""
        self.parked.give_back(parkings)
        self._park_at = self._time() + _FULL_PAUSE_S
        for parking in parkings:
            waiting = self._users.setdefault(parking.user, Waiting())
            self._put(parking.user, waiting, [parking.letter])
            self.go_on(parking.user)
        for user in {parking.user for parking in parkings}:
            self._users[user].letters.sort(key=_seq)

    def take_dying(self) -> list[Dying]:
        """Of what is parked, what dies now: of boxes that nobody holds, since whoever holds one may be storing it."""
        ready = [user for user in self.dying if not self._is_held(user)]
        return [self.dying.pop(user) for user in ready]

    def not_dead(self, dying: list[Dying]) -> None:
        """The disk is full: they die later."""
        for one in dying:
            self.dying.setdefault(one.user, one)

    def died(self, dying: Dying, deaths: list[Death], deadline_us: int | None) -> None:
        """``deaths`` are noted, and what is left: see :meth:`shard.parked.Parked.died`."""
        user = dying.user
        self.given_up.by_reason.update(death.reason for death in deaths)
        self._backlog.count_parked(-len(deaths), 0)
        self.parked.died(dying, len(deaths), deadline_us=deadline_us)
        waiting = self._users.get(user)
        if self.is_parked(user):
            if deadline_us is None:
                self.dying.setdefault(user, dying)
            elif waiting is not None and waiting.timer is not None:
                self._set_timer(user, waiting)
        elif waiting is not None and not waiting.letters and waiting.timer is not None:
            del self._users[user]
            self._end(user, waiting)

    def take_changes(self) -> tuple[list[Retry], list[str]]:
        """Who is tried again when, and who no more, since this was asked last."""
        changed, self._changed = self._changed, set()
        ended, self._ended = self._ended, set()
        retries = []
        for user in changed:
            waiting = self._users[user]
            waiting.written = True
            retries.append(self._retry(user, waiting))
        return retries, [user for user in ended if user not in changed]

    def _retry(self, user: str, waiting: Waiting) -> Retry:
        next_us = now_us() + int((waiting.next_at - self._time()) * 1e6)
        return Retry(user, waiting.attempts, waiting.reason, waiting.first_us, next_us, list(waiting.tries.runs))

    def not_written(self, retries: list[Retry], ended: list[str]) -> None:
        """The disk is full: next time, then."""
        self._changed |= {retry.user for retry in retries if retry.user in self._users}
        for user in ended:
            if user in self._users:
                self._users[user].written = True
            else:
                self._ended.add(user)

    @property
    def is_changed(self) -> bool:
        return bool(self._changed or self._ended)

    def __len__(self) -> int:
        """Users whose boxes are in trouble."""
        return len(self._users)

    def close(self) -> None:
        """No timer fires any more."""
        for waiting in self._users.values():
            if waiting.timer is not None:
                waiting.timer.cancel()


def _seq(letter: Letter) -> int:
    return letter.seq
