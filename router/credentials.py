"""What callers show in ``Authorization: Bearer``: a service key, or a person's token (JWT).

The files behind it are looked at once a second, by inode, time and size, so a key that is revoked is refused everywhere
a moment later, and nothing is asked of anybody in between. A file that became unusable changes nothing, and is one
line in the log. Before a start it keeps the router from starting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from node import issuers, keys, paths, tokens
from node.clock import now_us
from node.config import Auth
from node.errors import ConfigError
from node.issuers import Issuer
from router.access import Caller, Share
from router.jwts import Tokens, own
from router.problems import Unauthorized

_SCHEME = b"bearer "
_SHOWN_MAX = 8_192
_KEY_PREFIX = "pobox_"
_log = structlog.get_logger()
_Mark = tuple[int, int, int] | None


class _File:
    """``path``, and what was read from it last."""

    def __init__(self, path: Path, read: Callable[[], None]) -> None:
        self._path = path
        self._read = read
        self._seen = self._mark()
        read()

    def look(self) -> None:
        """Read it again if it is another one."""
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark  # before it is read: what changes meanwhile is seen next time
        try:
            self._read()
        except ConfigError as error:
            _log.error("what was read before stays", error=str(error))

    def _mark(self) -> _Mark:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return 0, 0, 0
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


class FileCredentials:
    """Keys and tokens of the node in ``data``; ``routers``: how many share what a key may ask for.

    Raises :class:`ConfigError` for settings and files that can't be used.
    """

    def __init__(self, data: Path, auth: Auth, *, routers: int) -> None:
        self._data = data
        self._auth = auth
        self._routers = routers
        self._ring = keys.Ring([])
        self._callers: dict[str, Caller] = {}
        self._own: list[Issuer] = []
        self._theirs: list[Issuer] = []
        self._tokens = Tokens([])
        self._files = [
            _File(paths.keys_path(data), self._read_keys),
            _File(paths.token_secret_path(data), self._read_own),
        ]
        self._files += [_File(Path(name), self._read_theirs) for name in (auth.jwks_file, auth.jwt_secret_file) if name]

    def look(self) -> None:
        """See whether any file has changed; once a second."""
        for file in self._files:
            file.look()

    def caller(self, shown: bytes | None) -> Caller:
        """See :class:`router.access.Credentials`."""
        if shown is None:
            raise Unauthorized()
        if shown[: len(_SCHEME)].lower() != _SCHEME or len(shown) > _SHOWN_MAX:
            raise Unauthorized("invalid_request")
        text = shown[len(_SCHEME) :].strip().decode("latin-1")
        if not text.startswith(_KEY_PREFIX):
            return Caller(user=self._tokens.user(text))
        key = self._ring.find(text)
        if key is None or key.expired(now_us()):
            raise Unauthorized("invalid_token")
        return self._callers[key.id]

    def _read_keys(self) -> None:
        known = keys.load(self._data)
        # A key that stays keeps its share: another one's coming is no fresh start for it.
        self._callers = {key.id: self._callers.get(key.id) or self._caller(key) for key in known}
        self._ring = keys.Ring(known)

    def _caller(self, key: keys.Key) -> Caller:
        share = None
        if key.rate:  # each router counts for itself: each has its part
            share = Share(rate=key.rate / self._routers, burst=max(1, key.burst // self._routers))
        return Caller(key=key.id, scopes=tuple(key.scopes), share=share)

    def _read_own(self) -> None:
        secret = tokens.load(self._data)
        self._own = [] if secret is None else [own(secret)]
        self._tokens = Tokens([*self._own, *self._theirs])

    def _read_theirs(self) -> None:
        self._theirs = issuers.others(self._auth)
        self._tokens = Tokens([*self._own, *self._theirs])
