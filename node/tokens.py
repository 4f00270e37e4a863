"""User tokens of the node's own: signed JWTs that say who somebody is, for a while.

The secret lies in the data directory, for its owner only, and both who issues (``pobox token``) and who checks (the
routers) read it there. Removing the file makes every token that it signed worthless; the next ``pobox token`` makes
another one. The header names the secret (``kid``), so that it isn't mixed up with keys of another issuer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from hashlib import sha256
from pathlib import Path

from node import paths
from node.clock import now_us
from node.errors import ConfigError
from node.ids import check_name
from node.placement import sync_directory

ALGORITHM = "HS256"
ISSUER = "pobox"
SECRET_BYTES_MIN = 32


def issue(data: Path, user: str, valid_s: float) -> str:
    """A token for ``user``, from now on. Raises :class:`node.errors.BadField`, :class:`ConfigError`."""
    import jwt  # whoever only asks for the secret does without

    check_name(user, "user")
    secret = load(data) or _made(data)
    now_s = now_us() / 1e6
    claims = {"iss": ISSUER, "sub": user, "iat": int(now_s), "exp": int(now_s + valid_s)}
    return jwt.encode(claims, secret, algorithm=ALGORITHM, headers={"kid": kid_of(secret)})


def load(data: Path) -> bytes | None:
    """The node's secret, None if it has none; raises :class:`ConfigError` for a file that can't be used."""
    path = paths.token_secret_path(data)
    return read_secret(path) if path.exists() else None


def read_secret(path: Path) -> bytes:
    """What is in ``path``, without the end of its line. Raises :class:`ConfigError` if it is short or anybody may
    read it."""
    try:
        if path.stat().st_mode & 0o007:
            raise ConfigError(f"{path}: a secret that everybody on this machine may read (chmod o-rwx)")
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"{path}: a secret has {SECRET_BYTES_MIN} bytes or more")
    return secret


def kid_of(secret: bytes) -> str:
    """The name of ``secret`` in the tokens that it signs."""
    return f"pobox-{sha256(b'pobox token ' + secret).hexdigest()[:16]}"


def _made(data: Path) -> bytes:
    """A new secret, on disk; that of another process if it was faster."""
    path = paths.token_secret_path(data)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, secrets.token_urlsafe(48).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    sync_directory(data)
    return read_secret(path)
