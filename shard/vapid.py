"""The node's own key pair (RFC 8292): by it a push service knows that it is the same node that sends again.

Made once, before any shard starts, and the same for all of them. Devices subscribe for this key: with another one,
every subscription is void. So it is never replaced here, and it belongs into a backup of the node.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from node import paths
from node.errors import ConfigError
from node.placement import write_durably

_VALID_S = 12 * 3600
"""of a token; a push service takes one day at most"""
_AGAIN_S = 6 * 3600
"""so old a token is made anew"""
_TOKENS_MAX = 1_000


def make(data: Path) -> None:
    """Make the key pair of ``data`` if there is none; on disk when this returns."""
    path = paths.vapid_path(data)
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Signer:
    """Signs for ``subject`` (``mailto:`` or ``https:``, whom a push service may turn to)."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str) -> None:
        self._key = key
        self._subject = subject
        self._tokens: dict[str, tuple[str, float]] = {}
        self.public_key = (
            urlsafe_b64encode(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
            .rstrip(b"=")
            .decode()
        )
        """as a browser wants it: the uncompressed point in base64url"""

    @classmethod
    def load(cls, data: Path, subject: str) -> Signer:
        """Raises :class:`ConfigError` if the key of ``data`` is missing or none."""
        path = paths.vapid_path(data)
        try:
            key: Any = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{path} is no P-256 key")
        return cls(key, subject)

    def authorization(self, origin: str) -> str:
        """The header for requests to ``origin`` (scheme, host and port). Signing takes 0.05 ms, and a token is kept for
        some hours."""
        now = time.time()
        token, made_at = self._tokens.get(origin, ("", 0.0))
        if not made_at <= now < made_at + _AGAIN_S:
            claims = {"sub": self._subject, "aud": origin, "exp": int(now) + _VALID_S}
            token = f"vapid t={jwt.encode(claims, self._key, 'ES256')},k={self.public_key}"
            if len(self._tokens) >= _TOKENS_MAX:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[origin] = (token, now)
        return token
