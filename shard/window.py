"""How much of what waits is held in memory. Pure.

Each lane has a window, bounded by letters times targets and by bytes. A message that comes when its lane's
window is full, or when others of its lane wait behind the window already, is not held: it stays in the
journal's tail (:mod:`shard.tail`) until the window is half empty. So within a lane nobody is overtaken, and a
lane that is far behind takes nothing from the others. Memberships and removals are always held: their order
counts, and whoever asked for one waited for it.

A letter to a channel weighs its bytes until it is expanded; its members, a pile of their own, are bounded by
the expander.
"""

from __future__ import annotations

from shard.lanes import LANES

OVERHEAD_BYTES = 600
"""what a letter takes in memory beside its body"""


class Window:
    """At most ``letters_max`` letters times targets and ``bytes_max`` bytes a lane; the letter that reaches one of
    them is held as a whole."""

    def __init__(self, letters_max: int = 500_000, bytes_max: int = 128 * 1024**2) -> None:
        self.letters_max = letters_max
        self.bytes_max = bytes_max
        self.held = [0] * (2 * len(LANES))
        """letters times targets in the lanes or put off, by pile: the lanes, and the same for letters to channels"""
        self.bytes = [0] * len(LANES)
        """of the letters that are held, by lane"""
        self.tail = [0] * len(LANES)
        """letters that wait behind the window, by lane"""
        self.behind = 0
        """the sum of these"""
        self.tail_targets = [0] * len(LANES)
        """the same, letters times targets"""

    def group(self, *, behind_others: bool = True) -> Group:
        """The room for letters that come together. At a start, whatever isn't in the tail is older than what is."""
        letters, bytes_ = [], []
        for held, size, tail in zip(self.held, self.bytes, self.tail, strict=False):
            shut = tail > 0 and behind_others
            letters.append(0 if shut else self.letters_max - held)
            bytes_.append(self.bytes_max - size)
        return Group(letters, bytes_)

    def has_room(self, lane: int) -> bool:
        return self.held[lane] < self.letters_max and self.bytes[lane] < self.bytes_max

    def is_half_empty(self, lane: int) -> bool:
        return self.held[lane] <= self.letters_max // 2 and self.bytes[lane] <= self.bytes_max // 2

    @property
    def waiting(self) -> list[int]:
        """Letters times targets held or behind the window, by lane; of a letter to a channel that is held, the members
        who were put into the lane."""
        lanes = range(len(LANES))
        return [self.held[lane] + self.held[lane + len(LANES)] + self.tail_targets[lane] for lane in lanes]

    @property
    def fill(self) -> float:
        """How full the fullest window is; 1 for full."""
        lanes = range(len(LANES))
        return max(max(self.held[lane] / self.letters_max, self.bytes[lane] / self.bytes_max) for lane in lanes)


class Group:
    """What is left of each lane's window for letters that are being written down."""

    def __init__(self, letters: list[int], bytes_: list[int]) -> None:
        self._letters = letters
        self._bytes = bytes_

    def holds(self, lane: int, targets: int, size: int) -> bool:
        """Whether the next letter of ``lane`` is held; once one is not, none after it is."""
        if self._letters[lane] <= 0 or self._bytes[lane] <= 0:
            return False
        self._letters[lane] -= targets
        self._bytes[lane] -= size + OVERHEAD_BYTES
        return True
