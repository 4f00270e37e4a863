"""Whose token this is. Every signing key has one algorithm, that of its kind, and a token must have been made with it.

What a token's own header says is used for one thing only: ``kid`` finds the key. So "none", and a public key used as if
it were a secret, find nothing. A token must name its subject and its end, and the issuer and audience of its key.
"""

from __future__ import annotations

from collections.abc import Sequence

import jwt

from node import tokens
from node.clock import now_us
from node.errors import BadField
from node.ids import check_name
from node.issuers import Issuer
from router.problems import Unauthorized

_KNOWN_MAX = 10_000


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
