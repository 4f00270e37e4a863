"""What differs between two versions of a file, by page. Pure; router and client hold the two ends.

A device sends the XXH64 (seed 0, big endian) of each 4,096-byte page of its file, one after the other; the
answer is a list of pages: four bytes of page number (big endian, from 0), then the page. Written over a
copy of the device's file, cut or extended to the new size, they make the new file. That it is so is
proved by its sha256 and by nothing else: a hash that collides costs a download, not correctness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import BufferedReader, FileIO

import xxhash

PAGE = 4096
HASH = 8
RECORD = 4 + PAGE

Bytes = bytes | bytearray | memoryview


class DeltaError(Exception):
    """What came is no delta."""


def hashes(content: Bytes) -> bytes:
    """The hash of each page of ``content``, whose length is a multiple of ``PAGE``."""
    view = memoryview(content)
    digest = xxhash.xxh64_digest
    return b"".join([digest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)])


def checksum(file: BufferedReader | FileIO) -> str:
    """Of all of ``file``, as versions have it: ``sha256:`` and 64 hex digits."""
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def differing(new: bytes, old: bytes) -> list[int]:
    """The numbers of the pages whose hash in ``new`` is not the one in ``old``, those beyond its end too."""
    count = min(len(new), len(old)) // HASH
    pairs = zip(memoryview(new).cast("Q"), memoryview(old).cast("Q"), strict=False)
    numbers = [number for number, (one, other) in enumerate(pairs) if one != other]
    return numbers + list(range(count, len(new) // HASH))


def record(number: int, page: Bytes) -> bytes:
    """One page of a delta."""
    return number.to_bytes(4, "big") + page


def records(delta: Bytes) -> Iterator[tuple[int, memoryview]]:
    """Page numbers and pages of ``delta``; raises :class:`DeltaError` if it is cut."""
    view = memoryview(delta)
    if len(view) % RECORD:
        raise DeltaError(f"{len(view)} bytes are no whole number of pages")
    for at in range(0, len(view), RECORD):
        yield int.from_bytes(view[at : at + 4], "big"), view[at + 4 : at + RECORD]
