"""What leaves the machine, so that only who has the keyring can read it: portions, each encrypted by itself.

A sealed stream begins with ``pbxs``; then each portion: its length (4 bytes, little endian), nonce (12), what
AES-256-GCM made of it. Whether a stream is whole is for its reader to know, by the hash of what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"pbxs"
_LENGTH = Struct("<I")
_NONCE = 12
_PORTION_MAX = 64 * 1024 * 1024


class Unreadable(Exception):
    """It was sealed with another key, or changed since."""


def is_sealed(head: bytes) -> bool:
    """Whether a stream that begins with ``head`` is."""
    return head.startswith(_MAGIC)


def seal(portions: Iterable[bytes], sealer: AESGCM | None) -> Iterator[bytes]:
    """``portions`` for somebody else to keep; as they are without a ``sealer``."""
    if sealer is None:
        yield from portions
        return
    yield _MAGIC
    for portion in portions:
        nonce = os.urandom(_NONCE)
        sealed = sealer.encrypt(nonce, portion, None)
        yield _LENGTH.pack(len(sealed)) + nonce + sealed


def unseal(portions: Iterable[bytes], sealer: AESGCM | None) -> Iterator[bytes]:
    """What :func:`seal` was given, whether or not it was sealed. Raises :class:`Unreadable`."""
    rest = iter(portions)
    held = bytearray()
    while len(held) < len(_MAGIC) and (more := next(rest, b"")):
        held += more
    if not held.startswith(_MAGIC):
        yield bytes(held)
        yield from rest
        return
    if sealer is None:
        raise Unreadable("it is encrypted: [encryption] must be on, with the master key")
    del held[: len(_MAGIC)]
    while True:
        if len(held) < _LENGTH.size + _NONCE or len(held) < _LENGTH.size + _NONCE + _LENGTH.unpack_from(held)[0]:
            more = next(rest, b"")
            if not more and held:
                raise Unreadable("it is cut off")
            if not more:
                return
            held += more
            continue
        (length,) = _LENGTH.unpack_from(held)
        if length > _PORTION_MAX:
            raise Unreadable("it isn't what was sealed")
        begin = _LENGTH.size + _NONCE
        try:
            yield sealer.decrypt(bytes(held[_LENGTH.size : begin]), bytes(held[begin : begin + length]), None)
        except InvalidTag as error:
            raise Unreadable("it was sealed with another key, or changed since") from error
        del held[: begin + length]
