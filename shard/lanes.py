"""Which user's mail goes next. Pure: time and load are arguments.

Three lanes by priority: high (8-10), normal (4-7), low (1-3). A lane is a queue of *users*, not of
letters: whoever comes up gets all that waits for him, whatever its lane, in the order in which it
was accepted. Who has got his mail, by another lane or by a read, goes to the end of the line with what comes next: so
each transaction carries as much as it can. Lanes take turns by weight (8 : 4 : 1), so a high letter overtakes any
backlog and low mail never starves. Under load a letter may wait a little so that one transaction carries more; high
mail never does.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

HIGH, NORMAL, LOW = 0, 1, 2
LANES = ("high", "normal", "low")
TURNS = (HIGH, HIGH, NORMAL, HIGH, HIGH, NORMAL, LOW, HIGH, HIGH, NORMAL, HIGH, HIGH, NORMAL)

_IDLE_RATE = 1_000.0
_FULL_RATE = 6_000.0
_FREE_FILL, _FULL_FILL = 0.25, 0.5
_seq = attrgetter("seq")


class Queued(Protocol):
    seq: int
    lane: int


Item = TypeVar("Item", bound=Queued)


def lane_of(priority: int) -> int:
    """The lane for a priority of 1 to 10."""
    return HIGH if priority >= 8 else NORMAL if priority >= 4 else LOW


def gather_s(rate: float, most_s: float, fill: float = 0.0) -> float:
    """How long normal and low mail may wait for company, in seconds, at ``rate`` deliveries a second.

    Nothing up to 1,000 a second: a letter is then stored as soon as the loop gets to it. From there
    it grows evenly to ``most_s`` at 6,000 a second, where a transaction for one letter costs more
    than the node has.

    ``fill`` is how full the room for waiting mail is, 0 to 1. From a quarter on letters wait less long, from half
    on not at all: what waits for nothing but company must not fill the room, or others are refused for it.
    """
    busy = min(1.0, max(0.0, (rate - _IDLE_RATE) / (_FULL_RATE - _IDLE_RATE)))
    room = min(1.0, max(0.0, (_FULL_FILL - fill) / (_FULL_FILL - _FREE_FILL)))
    return most_s * busy * room


class Lanes(Generic[Item]):
    """All mail that is held in memory and not yet in its box."""

    def __init__(self) -> None:
        self._mail: tuple[dict[str, list[Item]], ...] = ({}, {}, {})
        self._since: tuple[dict[str, float], ...] = ({}, {}, {})  # of those who have mail: an entry from before is void
        self._queue: tuple[deque[tuple[float, str]], ...] = (deque(), deque(), deque())
        self._turn = 0
        self.count = 0
        """letters waiting, each target counted"""

    def put(self, user: str, item: Item, now: float) -> None:
        self.put_many([user], item, now)

    def put_many(self, users: list[str], item: Item, now: float) -> None:
        """The same letter for many users; the hot path of a fan-out."""
        mail, since, queue = self._mail[item.lane], self._since[item.lane], self._queue[item.lane]
        get, append = mail.get, queue.append
        for user in users:
            waiting = get(user)
            if waiting is None:
                mail[user] = [item]
                since[user] = now
                append((now, user))
            else:
                waiting.append(item)
        self.count += len(users)

    def knock(self, user: str, now: float) -> None:
        """``user`` comes up in his turn, though nothing that waits for him may be held in memory."""
        if not self.has(user):
            self._mail[NORMAL][user] = []
            self._since[NORMAL][user] = now
            self._queue[NORMAL].append((now, user))

    def take(self, now: float, gather: float) -> tuple[str, list[Item]] | None:
        """The next user and everything that waits for him, None if nobody is due yet."""
        first = TURNS[self._turn]
        self._turn = (self._turn + 1) % len(TURNS)
        for lane in (first, HIGH, NORMAL, LOW):
            head = self._head(lane)
            if head is not None and head[0] + (0.0 if lane == HIGH else gather) <= now:
                self._queue[lane].popleft()
                return head[1], self.take_user(head[1])
        return None

    def _head(self, lane: int) -> tuple[float, str] | None:
        """Who is first in the lane, and since when he waits."""
        queue, since = self._queue[lane], self._since[lane]
        while queue:
            head = queue[0]
            if since.get(head[1]) == head[0]:
                return head
            queue.popleft()  # it went with a read, or by another lane
        return None

    def put_back(self, user: str, items: list[Item]) -> None:
        """What :meth:`take` gave a moment ago: it is due again, before everybody else."""
        for item in items:
            mail = self._mail[item.lane]
            if user in mail:
                mail[user].append(item)
            else:
                mail[user] = [item]
                self._since[item.lane][user] = float("-inf")
                self._queue[item.lane].appendleft((float("-inf"), user))
        self.count += len(items)

    def take_user(self, user: str) -> list[Item]:
        """Everything that waits for ``user``, in the order of acceptance; empty if nothing does."""
        piles = []
        for mail, since in zip(self._mail, self._since, strict=True):
            if (pile := mail.pop(user, None)) is not None:
                del since[user]
                piles.append(pile)
        if not piles:
            return []
        items = piles[0] if len(piles) == 1 else [item for pile in piles for item in pile]
        if len(items) > 1:  # also one pile: what was put off, or expanded late, lies behind what is newer
            items.sort(key=_seq)
        self.count -= len(items)
        return items

    def users(self) -> set[str]:
        """For whom something waits."""
        return {user for mail in self._mail for user in mail}

    def of(self, user: str) -> list[Item]:
        """What waits for ``user``, and goes on waiting."""
        return [item for mail in self._mail for item in mail.get(user, ())]

    def has(self, user: str) -> bool:
        """Whether something waits for ``user``."""
        return any(user in mail for mail in self._mail)

    def lengths(self) -> list[int]:
        """How many users wait in each lane; who has mail in two of them waits in both."""
        return [len(mail) for mail in self._mail]

    def waits_s(self, now: float) -> list[float]:
        """How long the first in each lane has waited; 0 where nobody does."""
        heads = [self._head(lane) for lane in (HIGH, NORMAL, LOW)]
        return [0.0 if head is None or head[0] == float("-inf") else now - head[0] for head in heads]

    def due_in_s(self, now: float, gather: float) -> float | None:
        """Seconds until somebody is due (0 or less: now), None if nothing waits."""
        soonest: float | None = None
        for lane in (HIGH, NORMAL, LOW):
            head = self._head(lane)
            if head is not None:
                due = head[0] + (0.0 if lane == HIGH else gather) - now
                soonest = due if soonest is None else min(soonest, due)
        return soonest
