"""The node, as a device asks it: one attempt each, and what its answer means for the next.

Everything a device asks may be asked again. An answer is either what was asked for, or a no that stays
one (:class:`NoBox`, :class:`Refused`), or :class:`Trouble`: no answer, a server's own failure, or
something that isn't pobox's at all, as when the way there damages it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from client.errors import BadCall, NoBox, Refused, Trouble
from client.patience import Patience
from node.apiclient import retry_after_s, said, segment
from node.errors import Problem
from node.shown import authorization, trust

T = TypeVar("T")

_AGAIN = frozenset({408, 425, 429})
_CONNECT_S = 10.0


class Server:
    """The node at ``url`` (http or https), shown ``key``. A context manager; used by one thread at a time."""

    def __init__(self, url: str, user: str, *, key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url = address(url)
        self.user = user
        self._base = f"/api/v3/sync/{segment(user)}/"
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            trust_env=False,
            verify=trust(self.url),
            headers=authorization(key),
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @contextmanager
    def asked(
        self,
        method: str,
        name: str,
        *,
        params: dict[str, str | int | None] | None = None,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[httpx.Response]:
        """One attempt at ``…/sync/{user}/{name}``; inside the block its body may be streamed. Statuses below 400
        and 416 are the caller's to judge."""
        known = {key: value for key, value in (params or {}).items() if value is not None}
        headers = {"accept-encoding": "identity"} | (headers or {})
        try:
            with self._http.stream(
                method, self._base + name, params=known, headers=headers, content=content
            ) as response:
                if response.status_code >= 400 and response.status_code != 416:
                    response.read()
                    self._complain(response)
                yield response
        except httpx.TransportError as error:
            raise Trouble(f"no answer from {self.url}: {error or type(error).__name__}") from error
        except httpx.DecodingError as error:
            raise Trouble(f"the answer of {self.url} is damaged: {error}") from error

    def ask(
        self,
        method: str,
        name: str,
        answer: type[T],
        patience: Patience,
        *,
        params: dict[str, str | int | None] | None = None,
        body: Callable[[], Any] | None = None,
    ) -> T:
        """Attempts until there is an answer, of type ``answer``. ``body`` is called anew for each of them."""
        while True:
            headers, content = {}, None
            if body is not None:
                headers, content = {"content-type": "application/json"}, msgspec.json.encode(body())
            try:
                with self.asked(method, name, params=params, headers=headers, content=content) as response:
                    decoded = self._decoded(response, answer)
            except Trouble as trouble:
                patience.wait(trouble)
                continue
            patience.progress()
            return decoded

    def _decoded(self, response: httpx.Response, answer: type[T]) -> T:
        content = response.read()
        if response.is_redirect:
            raise Refused(f"{self.url} has moved to {response.headers.get('location')}", response.status_code)
        try:
            return msgspec.json.decode(content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Trouble(f"{self.url} doesn't answer like pobox: {error}") from error

    def _complain(self, response: httpx.Response) -> None:
        status = response.status_code
        if status >= 500 or status in _AGAIN:
            after_s = retry_after_s(response) if "retry-after" in response.headers else None
            raise Trouble(f"{self.url}: {said(response)}", after_s)
        if status == 404:
            raise NoBox(f"{self.url} has no box for {self.user}: {said(response)}")
        try:
            field = msgspec.json.decode(response.content, type=Problem).field
        except (msgspec.DecodeError, UnicodeDecodeError):
            field = None
        raise Refused(f"{self.url}: {said(response)}", status, field)


def address(url: str) -> str:
    """``url`` as it is compared and stored; raises :class:`BadCall` if it is none."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadCall(f"{url} is no address of a server: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadCall(f"{url} is no address of a server: it should be like http://127.0.0.1:8080")
    return url.rstrip("/")
