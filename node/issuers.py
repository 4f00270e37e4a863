"""Who signs the tokens of people: the keys of an issuer, as files, and what a token of theirs must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jwt

from node import tokens
from node.config import Auth
from node.errors import ConfigError

_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
_LEEWAY_S = 30.0
"""how far the clock of another issuer may be off"""


class Issuer(NamedTuple):
    """A key, and what a token that it signed must say."""

    kid: str | None
    key: Any
    algorithm: str
    issuer: str
    audience: str | None
    leeway_s: float


def others(auth: Auth) -> list[Issuer]:
    """Those that ``auth`` names, beside the node itself. Raises :class:`ConfigError` for files that can't be used, and
    where it isn't said whose tokens are taken."""
    if not (auth.jwks_file or auth.jwt_secret_file):
        return []
    if not (auth.issuer and auth.audience):
        raise ConfigError("[auth] issuer and audience must say whose tokens are taken, and made for whom")
    found = from_jwks(Path(auth.jwks_file), auth) if auth.jwks_file else []
    if auth.jwt_secret_file:
        found.append(from_secret(Path(auth.jwt_secret_file), auth))
    return found


def from_secret(path: Path, auth: Auth) -> Issuer:
    """An issuer that signs with the secret in ``path``. Raises :class:`ConfigError`."""
    return Issuer(None, tokens.read_secret(path), tokens.ALGORITHM, auth.issuer, auth.audience, _LEEWAY_S)


def from_jwks(path: Path, auth: Auth) -> list[Issuer]:
    """The public keys in ``path``, a JWK Set; those that don't sign are passed over. Raises :class:`ConfigError`."""
    try:
        found = jwt.PyJWKSet.from_json(path.read_text()).keys
    except OSError as error:
        raise ConfigError(f"[auth] jwks_file: {path}: {error.strerror}") from error
    except (ValueError, jwt.PyJWTError) as error:
        raise ConfigError(f"[auth] jwks_file: {path}: {error}") from error
    made = []
    for one in found:
        if one.public_key_use not in (None, "sig"):
            continue
        if one.algorithm_name not in _ALGORITHMS:
            raise ConfigError(f"[auth] jwks_file: {path}: {one.algorithm_name} is not a public key's algorithm")
        made.append(Issuer(one.key_id, one.key, one.algorithm_name, auth.issuer, auth.audience, _LEEWAY_S))
    if len(made) > 1 and any(one.kid is None for one in made):
        raise ConfigError(f"[auth] jwks_file: {path}: of several keys each needs a kid")
    return made
