"""Whose token this is. Every signing key has one algorithm, that of its kind, and a token must have been made with it.

What a token's own header says is used for one thing only: ``kid`` finds the key. So "none", and a public key used as if
it were a secret, find nothing. A token must name its subject and its end, and the issuer and audience of its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from node import tokens
from node.clock import now_us
from node.config import Auth
from node.errors import BadField, ConfigError
from node.ids import check_name
from router.problems import Unauthorized

_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
_LEEWAY_S = 30.0
"""how far the clock of another issuer may be off"""
_KNOWN_MAX = 10_000


class Issuer(NamedTuple):
    """A key, and what a token that it signed must say."""

    kid: str | None
    key: Any
    algorithm: str
    issuer: str
    audience: str | None
    leeway_s: float


class Tokens:
    """Knows whose tokens those of ``issuers`` are, and remembers what it has checked."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self._named = {one.kid: one for one in issuers if one.kid is not None}
        self._nameless = [one for one in issuers if one.kid is None]
        if not self._nameless and len(foreign := [one for one in issuers if one.issuer != tokens.ISSUER]) == 1:
            self._nameless = foreign  # no other can be meant
        self._known: dict[str, tuple[str, float]] = {}

    def user(self, token: str) -> str:
        """The subject of ``token``; raises :class:`Unauthorized`."""
        known = self._known.get(token)
        if known is None:
            known = self._checked(token)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[token] = known
        user, until_s = known
        if now_us() / 1e6 >= until_s:
            raise Unauthorized("invalid_token")
        return user

    def _checked(self, token: str) -> tuple[str, float]:
        """Subject, and the second in which it ends."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            issuers = [self._named[kid]] if kid in self._named else self._nameless
            for one in issuers:
                claims = jwt.decode(
                    token,
                    one.key,
                    algorithms=[one.algorithm],
                    issuer=one.issuer,
                    audience=one.audience,
                    leeway=one.leeway_s,
                    options={"require": ["exp", "sub", "iss"], "verify_aud": one.audience is not None},
                )
                return check_name(claims["sub"], "sub"), float(claims["exp"]) + one.leeway_s
        except (jwt.PyJWTError, BadField, ValueError, TypeError, OverflowError):
            pass  # whatever is wrong with it is nobody's business
        raise Unauthorized("invalid_token")


def own(secret: bytes) -> Issuer:
    """The node itself."""
    return Issuer(tokens.kid_of(secret), secret, tokens.ALGORITHM, tokens.ISSUER, None, 0.0)


def from_secret(path: Path, auth: Auth) -> Issuer:
    """An issuer that signs with the secret in ``path``. Raises :class:`ConfigError`."""
    return Issuer(None, tokens.read_secret(path), tokens.ALGORITHM, auth.issuer, auth.audience, _LEEWAY_S)


def from_jwks(path: Path, auth: Auth) -> list[Issuer]:
    """The public keys in ``path``, a JWK Set; those that don't sign are passed over. Raises :class:`ConfigError`."""
    try:
        found = jwt.PyJWKSet.from_json(path.read_text()).keys
    except (OSError, ValueError, jwt.PyJWTError) as error:
        raise ConfigError(f"{path}: {error}") from error
    made = []
    for one in found:
        if one.public_key_use not in (None, "sig"):
            continue
        if one.algorithm_name not in _ALGORITHMS:
            raise ConfigError(f"{path}: {one.algorithm_name} is not a public key's algorithm")
        made.append(Issuer(one.key_id, one.key, one.algorithm_name, auth.issuer, auth.audience, _LEEWAY_S))
    if len(made) > 1 and any(one.kid is None for one in made):
        raise ConfigError(f"{path}: of several keys each needs a kid")
    return made
