"""A file that only who is told its key can read: AES-256 in counter mode, from any place in it.

One key is good for one file, written once. It is never on a disk: the shard that made the file has it in memory, and
tells it to the router that is to send the file.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

_BLOCK = 16


def fresh_key() -> bytes:
    return os.urandom(32)


class Keystream:
    """Of ``key``; without one (empty) nothing is hidden."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AES(key) if key else None

    def apply(self, content: bytes, at: int) -> bytes:
        """``content``, which stands at byte ``at`` of the file, hidden; or plain, if it was."""
        if self._cipher is None:
            return content
        first, skipped = divmod(at, _BLOCK)
        stream = Cipher(self._cipher, CTR(first.to_bytes(_BLOCK, "big"))).encryptor()
        if skipped:
            stream.update(bytes(skipped))
        return stream.update(content)
