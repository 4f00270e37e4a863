"""Signs requests to push services with the node's own key pair (RFC 8292, :mod:`shard.vapid`)."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_VALID_S = 12 * 3600
"""of a token; a push service takes one day at most"""
_AGAIN_S = 6 * 3600
"""so old a token is made anew"""
_TOKENS_MAX = 1_000


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
