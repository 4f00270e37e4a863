"""The HTTP API as the command line asks it.

Every request is harmless to repeat: deliveries carry an id, the rest sets what is asked for. So
with patience it tries again, after the time the node asked for, whenever the trouble is the node's
(503, 507, or no connection at all) and not the caller's, or the caller came too soon (429).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from node.errors import Conflict, NotFound, Problem
from node.shown import authorization, shown_key, trust


class _Paged(Protocol):
    cursor: str | None


T = TypeVar("T")
P = TypeVar("P", bound=_Paged)

TOO_SOON = 429
AGAIN = frozenset({TOO_SOON, 503, 507})
"""statuses after which the same may be sent again"""
PATIENCE_S = 60.0
"""for commands that change much: a node that starts again is back by then"""
_TIMEOUT_S = 30.0
_LONG_TIMEOUT_S = 120.0
"""for an answer that takes the node a while to begin"""
_RETRY_MIN_S = 0.1
_RETRY_MAX_S = 10.0
_NAMED = 20


class ApiError(Exception):
    """The node said no, or nothing; the message is one line for people."""


class Missing(ApiError):
    """What was asked for isn't there (404)."""


class InTheWay(ApiError):
    """The state of what is there doesn't allow it (409)."""


_KINDS = {NotFound.status: Missing, Conflict.status: InTheWay}


class Api:
    """The node at ``server``, for the command that runs: it shows the key that was given.

    ``patience_s``: how long trouble of the node's own is sat out. Who has any also waits for as long as a 429 names,
    however long that is: the node is well, and takes it then.
    """

    def __init__(
        self,
        server: str,
        *,
        patience_s: float = 0.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._server = server
        self._patience_s = patience_s
        self._given_up = threading.Event()
        self._sleep = sleep or self._given_up.wait
        self._http = httpx.Client(
            base_url=server,
            timeout=_TIMEOUT_S,
            trust_env=False,
            transport=transport,
            headers=authorization(shown_key()),
            verify=trust(server),
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait; raises :class:`ApiError` if it was given up meanwhile."""
        self._sleep(seconds)
        if self._given_up.is_set():
            raise ApiError("given up")

    def give_up(self) -> None:
        """From another thread: nobody is to wait any longer."""
        self._given_up.set()

    def get(self, path: str, answer: type[T], **params: Any) -> T:
        known = {key: value for key, value in params.items() if value is not None}
        return self.ask("GET", path, answer, params=known)

    def pages(self, path: str, answer: type[P], **params: Any) -> Iterator[P]:
        """A list, page by page; each is asked for when it is wanted."""
        cursor: str | None = None
        while True:
            page = self.get(path, answer, cursor=cursor, **params)
            yield page
            if (cursor := page.cursor) is None:
                return

    def send(self, method: str, path: str, body: Any, answer: type[T]) -> T:
        """Send ``body`` (anything msgspec can encode) as JSON."""
        return self.ask(method, path, answer, content=msgspec.json.encode(body), content_type="application/json")

    def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        params: dict[str, Any] | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> T:
        """One request and the body of its answer; raises :class:`ApiError`."""
        headers = {"content-type": content_type} if content_type else {}
        request = self._http.build_request(method, path, params=params, content=content, headers=headers)
        return self._decoded(self._patiently(lambda: self._http.send(request)), answer)

    def fetch(self, path: str, out: IO[bytes]) -> None:
        """The body of the answer to a GET, however long, into ``out``; raises :class:`ApiError`, then it may hold a
        part of it."""
        request = self._http.build_request("GET", path, timeout=_LONG_TIMEOUT_S)
        response = self._patiently(lambda: self._http.send(request, stream=True))
        try:
            for portion in response.iter_bytes():
                out.write(portion)
        except httpx.TransportError as error:
            raise ApiError(f"the answer from {self._server} ended early: {error}") from error
        finally:
            response.close()

    def _patiently(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer, if it is a good one."""
        waited_s = 0.0
        attempt = 0
        while True:
            attempt += 1
            try:
                response = ask()
                if not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                trouble = f"no answer from {self._server}: {error}"
                delay_s = min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(attempt, 10))
            else:
                if response.is_success:
                    return response
                trouble = said(response)
                if response.status_code not in AGAIN:
                    raise _KINDS.get(response.status_code, ApiError)(trouble)
                named_s = _named_s(response)
                if response.status_code == TOO_SOON and named_s is not None and self._patience_s:
                    self.pause(max(_RETRY_MIN_S, named_s))
                    continue
                delay_s = retry_after_s(response)
            if waited_s + delay_s > self._patience_s:
                raise ApiError(trouble)
            self.pause(delay_s)
            waited_s += delay_s

    def _decoded(self, response: httpx.Response, answer: type[T]) -> T:
        try:
            return msgspec.json.decode(response.content or b"null", type=answer)
        except msgspec.DecodeError as error:
            raise ApiError(f"{self._server} doesn't answer like pobox: {error}") from error


def segment(name: str) -> str:
    """``name`` as one part of a path; what isn't allowed in a name is for the node to refuse."""
    return quote(name, safe="@:")


def said(response: httpx.Response) -> str:
    """A problem document in one line."""
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:
        return f"{response.status_code} {response.reason_phrase}"
    where = f" ({problem.field})" if problem.field and problem.field not in problem.detail else ""
    detail = f": {problem.detail}" if problem.detail != problem.title else ""
    if problem.users:
        more = f" and {len(problem.users) - _NAMED} more" if len(problem.users) > _NAMED else ""
        where, detail = "", f"{detail}: {', '.join(problem.users[:_NAMED])}{more}"
    return f"{problem.title}{where}{detail}"


def retry_after_s(response: httpx.Response) -> float:
    """The seconds the node asks to wait for, within reason."""
    asked_s = _named_s(response)
    return min(_RETRY_MAX_S, max(_RETRY_MIN_S, 1.0 if asked_s is None else asked_s))


def _named_s(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds; None if there is none, or a date."""
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
