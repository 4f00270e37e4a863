"""What must be in every box, what may be, and what must not. Pure.

Whatever was acknowledged must be there, as it was said. What was sent and never answered may be there
or not. Everything else must not be: what was deleted, what was for somebody else, what nobody sent.
A channel's message is for those who were members all the time from its first sending to its
acknowledgement; for whoever joined or left meanwhile it may go either way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loadtest.kill_boxes import Box

FAULTS_KEPT = 50


@dataclass(eq=False)
class Letter:
    """A message as it is sent: ``users``, or the members of ``channel`` (without users)."""

    id: str | None
    """None for one whose id the node makes"""
    users: Sequence[str] | None
    channel: str | None
    body: bytes
    """the JSON that is sent, also when it is sent again"""
    digest: str
    began: int = 0


@dataclass
class _Membership:
    inside: bool = False
    changed: int = 0
    """when the last change was acknowledged"""
    changing: bool = False


@dataclass
class Faults:
    """What is wrong, counted and the first of it in words."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    words: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.wrong)

    def take(self, others: Faults) -> None:
        """``others`` are wrong too."""
        self.lost += others.lost
        self.doubled += others.doubled
        self.wrong += others.wrong
        for words in others.words:
            self._tell(words)

    def say(self, what: str) -> None:
        self.wrong += 1
        self._tell(what)

    def say_lost(self, what: str) -> None:
        self.lost += 1
        self._tell(what)

    def say_doubled(self, what: str) -> None:
        self.doubled += 1
        self._tell(what)

    def _tell(self, what: str) -> None:
        if len(self.words) < FAULTS_KEPT:
            self.words.append(what)


class Ledger:
    """Of ``users`` and ``channels``; all events are told to it in the order in which they happen."""

    def __init__(self, users: Sequence[str], channels: Sequence[str]) -> None:
        self.users = users
        self.channels = channels
        self.acknowledged = 0
        """messages"""
        self.deliveries = 0
        """messages times targets that must be there"""
        self._now = 0
        self._must: dict[str, dict[str, str]] = defaultdict(dict)
        self._may: dict[str, dict[str, str]] = defaultdict(dict)
        self._nameless: dict[str, set[str]] = defaultdict(set)
        self._gone: dict[str, set[str]] = defaultdict(set)
        self._members: dict[tuple[str, str], _Membership] = defaultdict(_Membership)

    # -- messages ----------------------------------------------------------------------------------

    def sending(self, letter: Letter) -> None:
        """It is about to leave for the first time."""
        self._now += 1
        letter.began = self._now
        for user in letter.users or ():
            if letter.id is None:
                self._nameless[user].add(letter.digest)
            else:
                self._may[user][letter.id] = letter.digest

    def accepted(self, letter: Letter, id: str) -> None:
        """It was answered with 202 under ``id``."""
        self._now += 1
        self.acknowledged += 1
        if letter.users is not None:
            for user in letter.users:
                self._nameless[user].discard(letter.digest)
                self._owe(user, id, letter.digest)
            return
        assert letter.channel is not None
        for user in self.users:
            membership = self._members[letter.channel, user]
            if membership.changing or membership.changed > letter.began:
                self._may[user][id] = letter.digest
            elif membership.inside:
                self._owe(user, id, letter.digest)

    def given_up(self, letter: Letter) -> None:
        """It won't be sent again, and nobody said what became of it."""
        if letter.users is None and letter.id is not None:
            for user in self.users:
                self._may[user][letter.id] = letter.digest

    def _owe(self, user: str, id: str, digest: str) -> None:
        self._may[user].pop(id, None)
        if id not in self._gone[user] and id not in self._must[user]:
            self._must[user][id] = digest
            self.deliveries += 1

    def owed(self, user: str, id: str) -> str | None:
        """The digest of a message that ``user`` must have."""
        return self._must[user].get(id)

    # -- deletions ---------------------------------------------------------------------------------

    def deleting(self, user: str, id: str) -> None:
        """From now on it may be there or not."""
        self._may[user][id] = self._must[user].pop(id)

    def deleted(self, user: str, id: str) -> None:
        """It is gone for good, whatever is sent again."""
        self._may[user].pop(id, None)
        self._gone[user].add(id)

    def not_deleted(self, user: str, id: str, digest: str) -> None:
        """It wasn't there to be deleted. It stays unknown whether it is; a try before may have got it."""
        self._may[user][id] = digest

    # -- members -----------------------------------------------------------------------------------

    def is_changing(self, channel: str, user: str) -> bool:
        return self._members[channel, user].changing

    def is_inside(self, channel: str, user: str) -> bool:
        return self._members[channel, user].inside

    def changing(self, channel: str, user: str) -> None:
        """A join or a leave is under way."""
        self._members[channel, user].changing = True

    def changed(self, channel: str, user: str, *, inside: bool) -> None:
        """The join or leave was acknowledged."""
        self._now += 1
        self._members[channel, user] = _Membership(inside, self._now, False)

    # -- the judgement -----------------------------------------------------------------------------

    def judge(self, boxes: Iterable[Box]) -> Faults:
        """Compare with what is there; nothing may be under way."""
        faults = Faults()
        seen = set()
        for box in boxes:
            seen.add(box.user)
            self._judge(box, faults)
        for user in self.users:
            if user not in seen:
                self._judge(Box(user, {}, []), faults)
        return faults

    def _judge(self, box: Box, faults: Faults) -> None:
        user = box.user
        if box.error is not None:
            faults.say(f"{user}: {box.error}")
            return
        must, may = self._must[user], self._may[user]
        for id in must.keys() - box.messages.keys():
            faults.say_lost(f"{user}: {id} is lost")
        for id, digest in box.messages.items():
            known = must.get(id) or may.get(id)
            if known is not None:
                if known != digest:
                    faults.say(f"{user}: {id} says something else than was sent")
            elif id in self._gone[user]:
                faults.say(f"{user}: {id} was deleted and is there")
            elif digest not in self._nameless[user]:
                faults.say(f"{user}: {id} was not for this box")
        for digest, times in Counter(box.messages.values()).items():
            if times > 1:
                faults.say_doubled(f"{user}: {times} times the message {digest}")
        for channel in self.channels:
            membership = self._members[channel, user]
            if not membership.changing and membership.inside != (channel in box.channels):
                faults.say(f"{user}: is {'not ' if membership.inside else ''}in {channel} by the box")
