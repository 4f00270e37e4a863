"""Keys and tokens for tests, good ones and bad ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt

from node import clock, keys, tokens
from node.keys import Scope

AUTH = {"mode": "keys"}
ISSUER = {"issuer": "https://id.example", "audience": "pobox"}
DAY_S = 86_400


def bearer(shown: str) -> dict[str, str]:
    return {"authorization": f"Bearer {shown}"}


def key(data: Path, name: str, *scopes: Scope, **more: Any) -> dict[str, str]:
    """The header that shows a new key."""
    return bearer(keys.create(data, name, scopes, **more))


def token(data: Path, user: str, valid_s: float = DAY_S) -> dict[str, str]:
    """The header that shows a token of the node's own."""
    return bearer(tokens.issue(data, user, valid_s))


def claims(user: str, **more: Any) -> dict[str, Any]:
    """Of a token of the company's issuer."""
    now_s = clock.now_us() // 1_000_000
    return {"iss": ISSUER["issuer"], "aud": ISSUER["audience"], "sub": user, "exp": now_s + DAY_S, **more}


def own_claims(user: str, **more: Any) -> dict[str, Any]:
    return claims(user, iss=tokens.ISSUER, **more)


def signed(secret: bytes, content: dict[str, Any], *, kid: str | None = None, algorithm: str = "HS256") -> str:
    """A JWT by whom ever."""
    return jwt.encode(content, secret, algorithm=algorithm, headers={"kid": kid} if kid else None)


def unsigned(content: dict[str, Any], *, kid: str, algorithm: str = "none") -> str:
    """A JWT that says it needs no signature."""
    parts = ({"alg": algorithm, "typ": "JWT", "kid": kid}, content)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def jwks(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    replace(path, json.dumps({"keys": list(entries)}).encode())


def replace(path: Path, content: bytes) -> None:
    """At one go: whoever looks meanwhile sees all of it or nothing."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.rename(path)
