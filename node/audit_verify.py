"""Is the audit log what was written? Every line is read again, and each file and head beside it.

Found is any change, cut, insertion or exchange of lines or files that doesn't make lines, head and the lines after it
anew. Whoever may write all of that can: to be safe from them, keep what ``pobox audit head`` prints on another machine,
and hold it against the log (``pobox audit verify --head``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from node import audit, paths, placement
from node.audit import BEGINNING, Head, Line, Place
from node.audit_files import chains, files_of, load_head, path_of, strangers
from node.errors import ConfigError
from node.ids import is_name

_TRIES = 3


class Anchor(msgspec.Struct, frozen=True):
    """What a chain was once: its line ``n`` has this hash."""

    chain: str
    n: int
    hash: str


class Found(msgspec.Struct):
    """What was looked at, what is worth knowing, what is wrong."""

    reach: dict[str, Place] = {}
    """by chain, the last line"""
    files: int = 0
    notes: list[str] = []
    faults: list[str] = []


def verify(data: Path, anchors: Iterable[Anchor] = ()) -> Found:
    """All chains of the node in ``data``, which may be at work on them. Raises :class:`ConfigError` if there can't be
    any there, ``OSError``."""
    if not paths.audit_dir(data).exists() and placement.load(data) is None:
        raise ConfigError(f"{data} holds neither a node nor an audit log")
    anchors = list(anchors)
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):  # it was removed just now, being old
            return _verify(data, anchors)
    return _verify(data, anchors)


def _verify(data: Path, anchors: list[Anchor]) -> Found:
    found = Found()
    known: dict[str, list[Anchor]] = {chain: [] for chain in chains(data)}
    for anchor in anchors:
        known.setdefault(anchor.chain, []).append(anchor)
    for name in strangers(data):
        found.faults.append(f"{name}: is no file of the audit log")
    for chain, anchored in sorted(known.items()):
        check = Check(chain, load_head(data, chain), anchored, found)  # the head first: lines come before it
        for number in files_of(data, chain):
            check.file(number, path_of(data, chain, number).read_bytes())
            found.files += 1
        check.end()
    return found


def heads(data: Path) -> list[Anchor]:
    """How far each chain is on disk just now. Raises :class:`ConfigError` if one doesn't say."""
    found = []
    for chain in chains(data):
        head = load_head(data, chain)
        if head is None:
            raise ConfigError(f"the head of {chain} is missing: pobox audit verify says more")
        found.append(Anchor(chain, head.n, head.hash))
    return found


def said(anchor: Anchor) -> str:
    """A line for :func:`heard`."""
    return f"{anchor.chain} {anchor.n} {anchor.hash}"


def heard(text: str) -> list[Anchor]:
    """What :func:`said` wrote, a line each. Raises :class:`ConfigError`."""
    anchors = []
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = line.split()
        if len(parts) != 3 or not (is_name(parts[0]) and parts[1].isascii() and parts[1].isdecimal()):
            raise ConfigError(f"--head: no line that pobox audit head prints: {line[:100]!r}")
        anchors.append(Anchor(parts[0], int(parts[1]), parts[2]))
    return anchors


class Check:
    """One chain, its files in order; what is wrong goes to ``found``."""

    def __init__(self, chain: str, head: Head | None, anchors: Iterable[Anchor], found: Found) -> None:
        self._chain = chain
        self._head = head
        self._found = found
        self._anchors = list(anchors)
        self._hashes: dict[int, str] = {}
        """of lines that are looked for"""
        self._wanted = {anchor.n for anchor in self._anchors}
        self._first = 0
        self._number = 0
        self._start: Place | None = None
        self._place: Place | None = None
        self._ends_at: tuple[int, int] | None = None
        self._behind = 0
        self._expired: dict[int, Place] = {}

    def file(self, number: int, content: bytes) -> None:
        """The next one there is."""
        if not self._first:
            self._first = number
        elif number != self._number + 1:
            self._fault(number, f"the file before it is number {self._number}: some are missing")
        self._number = number
        lines = list(audit.whole_lines(content))
        end = 0
        for index, (at, line) in enumerate(lines, 1):
            end = at + len(line) + 1
            fault = self._line(number, index, end, line)
            if fault is None:
                continue
            if self._is_behind_head(number, at):
                self._cut_off(number, len(content) - at)
                return
            self._fault(number, f"line {index} {fault}")
        if not lines or end < len(content):
            if not self._is_behind_head(number, end):
                self._fault(number, "its end is no whole line")
            else:
                self._cut_off(number, len(content) - end)

    def _line(self, number: int, index: int, end: int, line: bytes) -> str | None:
        """What is wrong with it."""
        said = audit.read(line)
        if said is None:
            return "is no line of the audit log"
        if self._place is None:
            if index != 1 or said.deed != audit.FILE:
                return "is not how a file begins"
            self._start = self._place = Place(said.n - 1, str(said.what.get("previous", "")))
        before, self._place = self._place, Place(said.n, said.hash)
        if not audit.is_bound(said, line, before):
            if self._is_behind_head(number, end - 1):
                self._place = before
            return f"doesn't follow line {before.n}: something was changed, moved, put in or taken out"
        if (said.deed == audit.FILE) != (index == 1) or (
            index == 1 and not audit.is_first_of(said, self._chain, number, before)
        ):
            return "is the beginning of another file"
        self._note_line(number, index, end, said)
        return None

    def _note_line(self, number: int, index: int, end: int, said: Line) -> None:
        head = self._head
        if said.n in self._wanted:
            self._hashes[said.n] = said.hash
        if head is not None and said.n == head.n:
            self._ends_at = (number, end)
            if said.hash != head.hash:
                self._fault(number, f"line {index} is not the one that the head names")
        if head is not None and said.n > head.n:
            self._behind += 1
        if said.deed == audit.EXPIRED:
            what = said.what
            file, n, last = what.get("file"), what.get("n"), what.get("last")
            if isinstance(file, int) and isinstance(n, int) and isinstance(last, str):
                self._expired[file] = Place(n, last)
        elif said.deed == audit.FOUND:
            self._fault(number, f"line {index}: a start found: {_listed(said)}")
        elif said.deed == audit.MENDED:
            self._found.notes.append(f"{self._name(number)}: line {index}: a start cut off {_listed(said)}")

    def end(self) -> None:
        """There are no more."""
        head, start, place = self._head, self._start, self._place
        if place is not None:
            self._found.reach[self._chain] = place
        if head is None:
            self._found.faults.append(f"{self._chain}: the head is missing")
        elif head.n and self._ends_at is None:
            last = place.n if place is not None else 0
            self._found.faults.append(f"{self._chain}: the head names line {head.n}, and the last one here is {last}")
        elif head.chain != self._chain or (self._ends_at or (0, 0)) != (head.file, head.size):
            self._found.faults.append(f"{self._chain}: the head is one of something else")
        if self._behind:
            self._found.notes.append(f"{self._chain}: {self._behind} lines came after the head was written")
        if start is not None and (self._first, start) != (1, BEGINNING) and self._expired.get(self._first - 1) != start:
            self._found.faults.append(f"{self._chain}: what was before {self._name(self._first)} is missing")
        for anchor in self._anchors:
            self._hold_against(anchor, start)

    def _hold_against(self, anchor: Anchor, start: Place | None) -> None:
        hash = self._hashes.get(anchor.n)
        if hash is None and start is not None and anchor.n <= start.n and self._expired:
            if anchor.n < start.n:
                self._found.notes.append(f"{self._chain}: line {anchor.n} of --head is older than what is kept")
                return
            hash = start.hash
        if anchor.n and hash != anchor.hash:
            what = "is missing" if hash is None else "is another one"
            self._found.faults.append(f"{self._chain}: line {anchor.n} of --head {what}")

    def _is_behind_head(self, number: int, at: int) -> bool:
        return self._head is not None and (number, at) >= (self._head.file, self._head.size)

    def _cut_off(self, number: int, size: int) -> None:
        self._found.notes.append(
            f"{self._name(number)}: {size} bytes after the head are no whole line: being written just now, or cut off "
            "by a kill; the next start mends that"
        )

    def _fault(self, number: int, what: str) -> None:
        self._found.faults.append(f"{self._name(number)}: {what}")

    def _name(self, number: int) -> str:
        return f"{self._chain}-{number:06}.jsonl"


def _listed(said: Line) -> str:
    return ", ".join(f"{key}: {value}" for key, value in said.what.items())
