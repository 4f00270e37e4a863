"""Every disk that a power cut could have left behind.

**The model.** A file is its content, apart from its names; a directory is a table of names. Each
has a durable state and a list of effects that are not durable yet:

- *Writes* count in sectors and *truncates* come in no order with them: see ``sectors``. ext4 and xfs
  are kinder than that.
- *Names* (create, delete, rename, mkdir) reach the disk in order within a directory and in no order
  between directories; a rename between two directories is one step in both.
- The *length* of a file follows from the writes and truncates that were kept; what was never
  written below it reads as zeros.

What makes effects durable:

- A flush of a *file*: its writes and truncates from before the flush began. Also its name and the
  directories above it, each with what came before in the same directory, as ext4, xfs and btrfs do
  it for a new file (POSIX alone would want a flush of the directory). A deletion isn't covered.
- A flush of a *directory*: its names, and those above it in the same way.
- A *barrier* that succeeded: every effect from before it began.

A disk is built from the durable state and a part of the rest: ``none``, ``all``, ``random`` or
``torn`` (everything up to some moment, then ``random``). In ``random`` each sector is kept or lost
by itself; how likely it is to be kept is drawn for one stretch of each file and for the rest of it,
so that whole sectors, frames and transactions get lost in front of others as well as bits of them.

A cut is a number of events: cut ``n`` happens after event ``n-1`` and before event ``n``.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from .recorder import (
    Ack,
    BarrierBegin,
    BarrierEnd,
    Create,
    Delete,
    MakeDirectory,
    Offer,
    Purge,
    Recording,
    Rename,
    Sync,
    Truncate,
    Write,
)
from .sectors import File

Mode = Literal["none", "all", "random", "torn"]
MODES: tuple[Mode, ...] = get_args(Mode)

_UNTOUCHED_NS = 1_000_000_000_000_000_000  # mtime of a file that nobody wrote since it was built
_END = 1 << 62


@dataclass(eq=False, slots=True)
class _Directory:
    names: dict[str, File | _Directory] = field(default_factory=dict)
    """as the processes see it"""
    durable: dict[str, File | _Directory] = field(default_factory=dict)


_Node = File | _Directory


@dataclass(eq=False, slots=True)
class _Naming:
    """One step in the names of one directory, or of two at once."""

    seq: int
    changes: tuple[tuple[_Directory, str, _Node | None], ...]
    named: _Node | None

    @property
    def directories(self) -> set[_Directory]:
        return {directory for directory, _name, _node in self.changes}

    def apply(self, tables: dict[_Directory, dict[str, _Node]]) -> None:
        for directory, name, node in self.changes:
            if node is None:
                tables[directory].pop(name, None)
            else:
                tables[directory][name] = node


class Place(NamedTuple):
    """Where a fact would be found: a row of a table of a person's box."""

    user: str
    table: str
    id: str


class Replayer:
    """Walks the cuts of ``recording`` forward and builds disks in the directory ``into``.

    ``into`` belongs to the replayer; whoever replays a disk may change all of it. Only what differs
    from the disk before is written again. ``promised`` is what was promised before the recording
    began.
    """

    def __init__(
        self, recording: Recording, into: Path, promised: Mapping[Place, frozenset[bool]] | None = None
    ) -> None:
        self.cut = 0
        self.promised: dict[Place, frozenset[bool]] = dict(promised or {})
        """what may be found at each place at the moment of the cut; nothing at any other place"""
        self._promises = 0
        self._seen: set[int] = set()
        self._events = recording.events
        self._into = into
        self._built: dict[str, bytes] = {}
        self._root = _Directory()
        self._namings: list[_Naming] = []
        self._unsynced: dict[File, None] = {}
        self._parents: dict[_Node, _Directory] = {}
        for path in recording.base_directories:
            self._link(path, _Directory())
        for path, content in recording.base.items():
            self._link(path, File(content))
        self._make_durable(self._namings)
        into.mkdir(parents=True, exist_ok=True)

    # -- the walk ----------------------------------------------------------------------------------

    def advance(self, cut: int) -> None:
        """Go to ``cut``, which is not before the present one."""
        if cut < self.cut:
            raise ValueError("a replayer walks forward only")
        while self.cut < cut:
            self._take(self.cut)
            self.cut += 1

    def _take(self, seq: int) -> None:
        event = self._events[seq]
        match event:
            case Write(path=path) | Truncate(path=path):
                file = self._file(path)
                file.pending.append((seq, event))
                self._unsynced[file] = None
            case Create(path=path):
                self._link(path, File(), seq)
            case MakeDirectory(path=path):
                self._link(path, _Directory(), seq)
            case Delete(path=path):
                self._name(seq, (path, None))
            case Rename(old=old, new=new):
                self._name(seq, (old, None), (new, self._find(old)))
            case Sync(path=path, began=began):
                self._sync(self._find(path), began)
            case BarrierEnd(began=began):
                for file in list(self._unsynced):
                    self._harden(file, began)
                self._make_durable([naming for naming in self._namings if naming.seq < began])
            case Offer(facts=facts):
                for *place, holds in facts:
                    before = self.promised.get(Place(*place), frozenset({False}))
                    self._promise(Place(*place), before | {holds})
            case Ack(facts=facts):
                for *place, holds in facts:
                    self._promise(Place(*place), frozenset({holds}))
            case BarrierBegin() | Purge():
                pass

    def _promise(self, place: Place, states: frozenset[bool]) -> None:
        if self.promised.get(place) != states:
            self.promised[place] = states
            self._promises += 1

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for part in Path(path).parts:
            assert isinstance(node, _Directory)
            node = node.names[part]
        return node

    def _file(self, path: str) -> File:
        node = self._find(path)
        assert isinstance(node, File)
        return node

    def _link(self, path: str, node: _Node, seq: int = -1) -> None:
        self._name(seq, (path, node))

    def _name(self, seq: int, *changes: tuple[str, _Node | None]) -> None:
        resolved, named = [], None
        for path, node in changes:
            directory = self._find(os.path.dirname(path))
            assert isinstance(directory, _Directory)
            resolved.append((directory, os.path.basename(path), node))
            if node is not None:
                named = node
                self._parents[node] = directory
        naming = _Naming(seq, tuple(resolved), named)
        naming.apply({directory: directory.names for directory in naming.directories})
        self._namings.append(naming)

    # -- what becomes durable ----------------------------------------------------------------------

    def _sync(self, node: _Node, began: int) -> None:
        if isinstance(node, File):
            self._harden(node, began)
        wanted: set[_Node] = {node}
        parent = self._parents.get(node)
        while parent is not None:
            wanted.add(parent)
            parent = self._parents.get(parent)
        directories = {node} if isinstance(node, _Directory) else set[_Directory]()
        durable = []
        for naming in reversed(self._namings):
            if naming.seq < began and (naming.named in wanted or naming.directories & directories):
                durable.append(naming)
                directories |= naming.directories
        self._make_durable(durable[::-1])

    def _harden(self, file: File, began: int) -> None:
        file.harden(began)
        if not file.pending:
            self._unsynced.pop(file, None)

    def _make_durable(self, namings: list[_Naming]) -> None:
        """Downward closed: with a naming, all that came before it in its directories."""
        for naming in namings:
            naming.apply({directory: directory.durable for directory in naming.directories})
        done = set(map(id, namings))
        self._namings = [naming for naming in self._namings if id(naming) not in done]

    # -- building a disk ---------------------------------------------------------------------------

    def rebuild(self, mode: Mode, rng: random.Random) -> bool:
        """Make ``into`` a disk that a power cut at this moment could leave.

        False, and nothing is made, if there was the very same disk under the same promises before.
        """
        horizon = {"none": 0, "all": _END, "random": 0, "torn": self._moment(rng)}[mode]
        by_chance = mode in ("random", "torn")
        names = self._names(horizon, rng if by_chance else None)
        files: dict[str, bytes] = {}
        directories: list[str] = []
        todo: list[tuple[str, _Directory]] = [("", self._root)]
        while todo:
            prefix, directory = todo.pop()
            for name, node in sorted(names.get(directory, directory.durable).items()):
                if isinstance(node, _Directory):
                    directories.append(prefix + name)
                    todo.append((f"{prefix}{name}/", node))
                else:
                    files[prefix + name] = node.image(horizon, rng if by_chance else None)
        fingerprint = hash((self._promises, frozenset(directories), frozenset(files.items())))
        if fingerprint in self._seen:
            return False
        self._seen.add(fingerprint)
        self._build(directories, files)
        return True

    def _moment(self, rng: random.Random) -> int:
        """The number of one of the effects that are not durable, for ``torn``."""
        open_seqs = [naming.seq for naming in self._namings]
        open_seqs += [seq for file in self._unsynced for seq, _effect in file.pending]
        return rng.choice(open_seqs) if open_seqs else 0

    def _names(self, horizon: int, rng: random.Random | None) -> dict[_Directory, dict[str, _Node]]:
        """The tables of those directories in which something isn't durable."""
        tables = {d: dict(d.durable) for naming in self._namings for d in naming.directories}
        last: dict[_Directory, int] = {}
        if rng is not None:
            for directory in tables:
                seqs = [naming.seq for naming in self._namings if directory in naming.directories]
                last[directory] = rng.choice([-1, *seqs])
        stopped: set[_Directory] = set()
        for naming in self._namings:
            directories = naming.directories
            if naming.seq < horizon or (
                not directories & stopped and all(naming.seq <= last.get(d, -1) for d in directories)
            ):
                naming.apply(tables)
            else:
                stopped |= directories
        return tables

    def _build(self, directories: Iterable[str], files: dict[str, bytes]) -> None:
        wanted = set(directories)
        for path, _names, found in os.walk(self._into, topdown=False):
            relative = os.path.relpath(path, self._into)
            prefix = "" if relative == "." else f"{relative}/"
            for name in found:
                if prefix + name not in files:
                    os.unlink(os.path.join(path, name))
            if relative != "." and relative not in wanted:
                shutil.rmtree(path)
        for directory in sorted(wanted):
            (self._into / directory).mkdir(exist_ok=True)
        for name, content in files.items():
            path = os.path.join(self._into, name)
            if not (_is_untouched(path) and self._built.get(name) == content):
                with open(path, "wb") as file:
                    file.write(content)
                os.utime(path, ns=(_UNTOUCHED_NS, _UNTOUCHED_NS))
        self._built = files


def disks(
    recording: Recording,
    into: Path,
    *,
    seed: int,
    modes: Iterable[Mode] = MODES,
    cuts: Iterable[int] | None = None,
    promised: Mapping[Place, frozenset[bool]] | None = None,
) -> Iterator[tuple[Replayer, Mode]]:
    """Each mode of each cut (all of them, if not told which), built in ``into``; none of them twice.

    Chance depends on seed, cut and mode alone: one disk can be had again by itself.
    """
    replayer = Replayer(recording, into, promised)
    for cut in range(len(recording.events) + 1) if cuts is None else sorted(cuts):
        replayer.advance(cut)
        for mode in modes:
            if replayer.rebuild(mode, random.Random(f"{seed}/{cut}/{mode}")):
                yield replayer, mode


def _is_untouched(path: str) -> bool:
    try:
        return os.stat(path).st_mtime_ns == _UNTOUCHED_NS
    except FileNotFoundError:
        return False
