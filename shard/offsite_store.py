"""Which store backups go to, with the credentials of a file or of the environment, which are shown nowhere; and what is
said of its errors."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import S3Store, from_url

from node.config import Backup
from node.errors import ConfigError
from node.listen import is_loopback

_STATUS = re.compile(r"status code: (.*?)(?:: <|$)")
_CODE, _MESSAGE = re.compile(r"<Code>(.*?)</Code>"), re.compile(r"<Message>(.*?)</Message>")
_ASKED = re.compile(r"Error performing ([A-Z]+ [^ ?]+)")
_BELOW = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SAID_MAX = 400
_NEEDED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_KEYS = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "token",
}


def store(settings: Backup, url: str | None = None, *, make: bool = True) -> Any:
    """The store at ``url``, or the one that is set; a directory is made, if it may be. Raises :class:`ConfigError`."""
    url = url or settings.store
    if not url:
        raise ConfigError("[backup] store is empty: there is no place to send backups to")
    parts = urlsplit(url)
    if parts.scheme == "file":
        if not make and not Path(unquote(parts.path)).is_dir():
            raise ConfigError(f"there is no directory {url}")
        return from_url(url, mkdir=make)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError("[backup] store must be s3://bucket/prefix or file:///directory")
    options: Any = {"region": settings.region, **_credentials(settings)}
    client: Any = {}
    if settings.endpoint:
        options |= {"endpoint": settings.endpoint, "virtual_hosted_style_request": False}
        where = urlsplit(settings.endpoint)
        if where.scheme == "http":
            if not is_loopback(where.hostname or ""):
                raise ConfigError("[backup] endpoint: plain http:// only on loopback")
            client["allow_http"] = True
    return S3Store(parts.netloc, prefix=parts.path.strip("/") or None, config=options, client_options=client)


def plainly(error: BaseException) -> str:
    """What a store's ``error`` says, in one sentence: what was asked for, and the innermost cause. Other errors in
    their own words, on one line. Pure."""
    told, _, debug = str(error).partition("Debug source:")
    told = " ".join(told.split())
    asked = _ASKED.search(told)
    if asked is None:
        return told[:_SAID_MAX]
    if status := _STATUS.search(told):
        why = [found[1] for found in (status, _CODE.search(told), _MESSAGE.search(told)) if found]
    else:  # it got no answer: the text at the bottom of the nested causes says why
        why = [told.rpartition(" - ")[2], *_BELOW.findall(debug.partition("source:")[2])[-1:]]
    return f"the store can't be used: {asked[1]}: {': '.join(why)}"[:_SAID_MAX]


def _credentials(settings: Backup) -> dict[str, str]:
    said = dict(os.environ)
    if settings.credentials:
        try:
            lines = Path(settings.credentials).read_text().splitlines()
        except OSError as error:
            raise ConfigError(f"[backup] credentials: {settings.credentials}: {error.strerror}") from error
        there = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
        if missing := [name for name in _NEEDED if not there.get(name)]:  # the client would look for them elsewhere
            raise ConfigError(f"[backup] credentials: {settings.credentials} lacks {' and '.join(missing)}")
        said |= there
    return {name: said[key].strip() for key, name in _KEYS.items() if said.get(key)}
