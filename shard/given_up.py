"""What is given up, until the journal has noted it: letters that are dead for somebody, and targets that are no more.

The row of such a letter goes in no earlier transaction (:mod:`shard.ledger`); until then it is only known here.
"""

from __future__ import annotations

from collections import Counter

from node.clock import now_us
from shard.backlog import Backlog, Letter
from shard.dead_letters import Death
from shard.journal import MESSAGE
from shard.trouble import FULL, REASONS

Withdrawn = tuple[int, str, str]
"""letter's number, user, message id"""


class GivenUp:
    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.deaths: list[Death] = []
        self.withdrawn: list[Withdrawn] = []
        self.by_reason: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        """letters times targets that died, since the start"""

    @property
    def lost(self) -> int:
        """Letters times targets that died, not counting what a full box left out."""
        return self.by_reason.total() - self.by_reason[FULL]

    def dies(self, death: Death) -> None:
        """One that nobody has noted yet."""
        self.by_reason[death.reason] += 1
        self.deaths.append(death)

    def left_out(self, user: str, letters: list[Letter]) -> None:
        """The box of ``user`` is full, and takes none of ``letters``."""
        now = now_us()
        for letter in letters:
            self.dies(Death(letter.seq, user, letter.id, FULL, 1, now, now, letter.size))

    def withdraw(self, letter: Letter, user: str) -> None:
        """``user``, who is a target of ``letter``, is there no more."""
        if letter.kind == MESSAGE:
            self.withdrawn.append((letter.seq, user, letter.id))
        self._backlog.gave_up(letter)

    def withdraw_deaths(self, user: str) -> None:
        """What died for ``user``, who is there no more, and is not noted yet is no dead letter."""
        self.withdrawn += [(death.seq, user, death.message_id) for death in self.deaths if death.user == user]
        self.deaths = [death for death in self.deaths if death.user != user]

    def of_message(self, message_id: str) -> tuple[int, int]:
        """For how many a message is dead, and how many are its targets no more, that is not noted."""
        dead = sum(death.message_id == message_id for death in self.deaths)
        return dead, sum(id == message_id for _seq, _user, id in self.withdrawn)

    # -- what the journal notes --------------------------------------------------------------------

    def take_deaths(self, count_max: int, bytes_max: int) -> list[Death]:
        """The next; the one whose body reaches ``bytes_max`` is the last."""
        count = size = 0
        for death in self.deaths[:count_max]:
            count, size = count + 1, size + death.size
            if size >= bytes_max:
                break
        taken, self.deaths = self.deaths[:count], self.deaths[count:]
        return taken

    def take_withdrawn(self) -> list[Withdrawn]:
        taken, self.withdrawn = self.withdrawn, []
        return taken

    def not_noted(self, deaths: list[Death], withdrawn: list[Withdrawn]) -> None:
        """The disk is full: next time, then."""
        self.deaths[:0] = deaths
        self.withdrawn += withdrawn
