"""The audit log: who did what to whom, and what came of it; lines of JSON, each bound to the one before it.

A *chain* has one writer: a router, or the command line. Its lines are numbered from 1 without a gap. The last thing in
a line is its hash: SHA-256 over the hash of the line before it (64 hex digits) and the line up to that place. So a line
that is changed, taken out, put in or moved shows, and everything after it with it. A chain goes through files; the
first line of each names the chain, the number of the file and the last hash before it.

That something is missing at the end no chain shows by itself. So its *head* (how many lines, and the last hash) is
kept in a second place, and is never ahead of what is on disk.

Titles, contents, metadata, keys and tokens are in no line. Pure; where the files lie says :mod:`node.audit_files`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from node.clock import iso

ZERO = "0" * 64
"""the hash before the first line"""
FILE, EXPIRED, MENDED, FOUND, LEFT_OUT = "audit.file", "audit.expired", "audit.mended", "audit.found", "audit.left_out"
"""deeds of the log itself: a file begins; one went, being old; the end of a line that a kill cut off was removed;
something is missing or wrong; so many lines were left out"""
_SEALED = re.compile(rb'\{"n":[0-9]+,"at":"[^"]+",.*,"hash":"[0-9a-f]{64}"\}', re.DOTALL)
_SEAL_BYTES = len(b',"hash":""}') + len(ZERO)


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"address": "from"}):
    """What a line says beside its number, its time and its hash."""

    deed: str
    """``users.delete``: what was asked for"""
    state: Literal["", "begins"] = ""
    """begins: it is about to be done, and another line (``of`` this one's number) says what came of it"""
    of: int | None = None
    who: dict[str, str] = {}
    """``key``: a service key's id; ``user``: a token's subject; ``os``: who called the command. Empty: nobody said"""
    address: str = ""
    method: str = ""
    route: str = ""
    whom: dict[str, str] = {}
    """``user``, ``channel``, ``message``, ``device``, ``deadLetter``, ``key``: whose or which"""
    status: int | str | None = None
    """of the answer; of a command ``done``, or what kind of error ended it"""
    request: str = ""
    """X-Request-Id, if there was one"""
    what: dict[str, str | int] = {}
    """more about it"""


class Line(msgspec.Struct, frozen=True):
    """What is needed of a line to go on from it."""

    n: int
    at: str
    deed: str
    hash: str
    what: dict[str, str | int] = {}


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """How far a chain is on disk."""

    chain: str
    n: int
    """of the last line: how many there are"""
    hash: str
    file: int
    """0 before there is one"""
    size: int
    """bytes of that file"""
    at: str


class Place(NamedTuple):
    """Behind line ``n``."""

    n: int
    hash: str


BEGINNING = Place(0, ZERO)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def sealed(after: Place, at_us: int, entry: Entry) -> tuple[bytes, Place]:
    """``entry`` as the line that follows ``after``, and the place behind it."""
    n = after.n + 1
    body = b'{"n":%d,"at":"%s",%s' % (n, iso(at_us).encode(), _encode(entry)[1:-1])
    hash = _hash(after.hash, body)
    return b'%s,"hash":"%s"}\n' % (body, hash.encode()), Place(n, hash)


def read(line: bytes) -> Line | None:
    """``line``, without its newline; None if it is none. Nothing is said about whether it follows another."""
    if _SEALED.fullmatch(line) is None:
        return None
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def follows(line: bytes, after: Place) -> Line | None:
    """``line`` if it is the one that follows ``after``, byte by byte."""
    said = read(line)
    return said if said is not None and is_bound(said, line, after) else None


def is_bound(said: Line, line: bytes, after: Place) -> bool:
    """Whether ``line``, of which :func:`read` made ``said``, is the one that follows ``after``."""
    return said.n == after.n + 1 and said.hash == _hash(after.hash, line[:-_SEAL_BYTES])


def whole_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each line of ``content`` begins, and it without its newline; a last one that has none is left out."""
    at = 0
    while (end := content.find(b"\n", at)) >= 0:
        yield at, content[at:end]
        at = end + 1


def file_entry(chain: str, number: int, after: Place) -> Entry:
    """The first line of a file."""
    return Entry(deed=FILE, what={"chain": chain, "file": number, "previous": after.hash})


def is_first_of(line: Line, chain: str, number: int, after: Place) -> bool:
    """Whether ``line`` is what :func:`file_entry` says."""
    return line.deed == FILE and line.what == file_entry(chain, number, after).what


def _hash(previous: str, body: bytes) -> str:
    return sha256(previous.encode() + body).hexdigest()
