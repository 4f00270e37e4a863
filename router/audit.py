"""Writes down who asked for what, and what was answered: the router's chain of the audit log (:mod:`node.audit`).

Lines are gathered, and written and flushed in a thread; several that come at the same time share the flush. Plain
deliveries have no part in it. Which requests are written down and when, their routes say (:mod:`router.record`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import falcon.asgi
import structlog

from node.audit import FOUND, LEFT_OUT, MENDED, Entry
from node.audit_chain import Chain, has_no_room, tend
from node.audit_files import chains
from node.clock import now_us
from node.config import Audit as Settings
from node.errors import DiskFull, PoboxError, Unavailable
from node.ids import is_name
from node.metrics import counter, gauge
from node.ops import Family
from router.access import Caller
from router.body import Request
from router.fairness import Limiter, take_all
from router.record import Record, is_noted, may_be_noted

Responder = Callable[..., Awaitable[None]]
NOTES_MAX = 20_000
"""lines that wait for a disk that takes none; what comes beyond that is counted"""
_GATHER_S = 0.2
_AGAIN_S = 1.0
_SUM_UP_S = 10.0
_TEND_S = 3_600.0
_REFUSALS = {"all": (20.0, 200), "address": (1.0, 20)}
"""written down a second in the long run, and at once: in all, and of one address"""
_ADDRESS_MAX = 64
"""characters; a proxy may say anything"""
_REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_WHOM = {
    "user_id": "user",
    "channel_id": "channel",
    "id": "message",
    "device": "device",
    "dead_letter_id": "deadLetter",
}
_log = structlog.get_logger()


class _Waiting(NamedTuple):
    at_us: int
    entry: Entry
    written: asyncio.Future[int] | None
    """somebody waits for it"""


class Audit:
    """For router ``index`` of the node in ``data``. Lines that come before :meth:`start` wait."""

    def __init__(self, data: Path, index: int, settings: Settings) -> None:
        self._data = data
        self._index = index
        self._settings = settings
        self._chain = Chain(data, f"router-{index}", settings, tell=_tell)
        self._waiting: list[_Waiting] = []
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, "audit")
        self._task: asyncio.Task[None] | None = None
        self._limits = {
            name: Limiter(name, rate=rate, burst=burst, keys_max=1_000) for name, (rate, burst) in _REFUSALS.items()
        }
        self._left_out: Counter[str] = Counter()
        self._tend_at = self._sum_up_at = 0.0
        self.lines = self.left_out = 0
        self.fails = False
        """the last try to write failed"""

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._news.set()  # what a kill left is mended now, not when somebody comes
        self._task = asyncio.create_task(self._run(), name="audit")
        self._task.add_done_callback(_watch)

    async def close(self) -> None:
        """Write what waits, if it can be."""
        self._stopping = True
        self._news.set()
        self._urgent.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown()
        self._chain.close()

    async def _run(self) -> None:
        time = asyncio.get_running_loop().time
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SUM_UP_S if self._left_out else _TEND_S):
                    await self._news.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._urgent.wait()
            await self._write()
            if self.fails and not self._stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await self._urgent.wait()
                self._news.set()
            if self._index == 0 and time() >= self._tend_at:
                self._tend_at = time() + _TEND_S
                await self._in_thread(self._tend)
        await self._write()

    async def _write(self) -> None:
        """All that waits, at one go."""
        self._news.clear()
        self._urgent.clear()
        self._sum_up()
        portion, self._waiting = self._waiting, []
        entries = [(waiting.at_us, waiting.entry) for waiting in portion]
        try:
            numbers = await self._in_thread(lambda: self._chain.append(entries, now_us()))
        except OSError as error:
            if not self.fails:
                _log.error("the audit log can't be written", error=str(error))
            self.fails = True
            why = DiskFull() if has_no_room(error) else Unavailable("The audit log can't be written")
            self._waiting = [waiting for waiting in portion if waiting.written is None] + self._waiting
            for waiting in portion:
                if waiting.written is not None and not waiting.written.done():
                    waiting.written.set_exception(why)
            return
        if self.fails:
            _log.info("the audit log is written again")
        self.fails = False
        self.lines += len(numbers)
        for waiting, number in zip(portion, numbers, strict=True):
            if waiting.written is not None and not waiting.written.done():
                waiting.written.set_result(number)

    def _sum_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._left_out and (self._stopping or now >= self._sum_up_at):
            self._sum_up_at = now + _SUM_UP_S
            what: dict[str, str | int] = dict(self._left_out)
            self._left_out.clear()
            self._waiting.append(_Waiting(now_us(), Entry(deed=LEFT_OUT, what=what), None))

    def _tend(self) -> None:
        """Age out what others left: the command line, and routers of a time when there were more."""
        try:
            tend(
                self._data, [name for name in chains(self._data) if name != self._chain.name], self._settings, now_us()
            )
        except OSError as error:
            _log.warning("old audit files stay", error=str(error))

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    # -- lines -------------------------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """Have it written a moment later."""
        if len(self._waiting) >= NOTES_MAX:
            self._leave_out("notes")
            return
        self._waiting.append(_Waiting(now_us(), entry, None))
        self._news.set()

    async def write(self, entry: Entry) -> int:
        """Its number, when it is on disk. Raises :class:`DiskFull`, :class:`Unavailable`."""
        written: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(now_us(), entry, written))
        self._news.set()
        self._urgent.set()
        return await written

    def refused(
        self, req: Request, error: PoboxError, route: str = "", params: Mapping[str, Any] | None = None
    ) -> None:
        """Note that somebody was turned away; or count it, when it is one of too many."""
        entry = _entry("refused", req, route, params or {}, status=error.status)
        now = asyncio.get_running_loop().time()
        asked = [(self._limits["address"], entry.address, 1), (self._limits["all"], "", 1)]
        if take_all(asked, now) is None:
            self.note(entry)
        else:
            self._leave_out(str(error.status))

    def _leave_out(self, what: str) -> None:
        if not self._left_out:
            self._news.set()  # from now on they are summed up every few seconds
        self._left_out[what] += 1
        self.left_out += 1

    def families(self) -> list[Family]:
        return [
            counter("pobox_audit_lines_total", "Lines written into the audit log", self.lines),
            counter("pobox_audit_left_out_total", "Lines left out of it, being too many, and counted", self.left_out),
            gauge("pobox_audit_fails", "Whether the audit log could not be written last time", self.fails),
        ]

    # -- requests ----------------------------------------------------------------------------------

    def around(self, record: Record, deed: str, route: str, action: Responder) -> Responder:
        """``action``, called ``deed``, written down as ``record`` says."""
        if record is Record.DEED:
            return self._around_deed(deed, route, action)
        settings = self._settings
        if not may_be_noted(record, settings):
            return action

        @wraps(action)
        async def noted(req: Request, resp: falcon.asgi.Response, **params: Any) -> None:
            if not is_noted(record, req.caller, settings):
                await action(req, resp, **params)
                return
            try:
                await action(req, resp, **params)
            except BaseException as error:
                self.note(_entry(deed, req, route, params, status=_status(error)))
                raise
            self.note(_entry(deed, req, route, params, status=status_of(resp)))

        return noted

    def _around_deed(self, deed: str, route: str, action: Responder) -> Responder:
        @wraps(action)
        async def written(req: Request, resp: falcon.asgi.Response, **params: Any) -> None:
            number = await self.write(_entry(deed, req, route, params, state="begins"))
            try:
                await action(req, resp, **params)
            except BaseException as error:
                self.note(_entry(deed, req, route, params, of=number, status=_status(error)))
                raise
            done = _entry(deed, req, route, params, of=number, status=status_of(resp))
            try:
                await self.write(done)
            except PoboxError:  # it is done, and that it was begun is on disk
                self.note(done)

        return written


def _watch(task: asyncio.Task[None]) -> None:
    """Nothing is written down any more: the process ends, and is started again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the audit log has failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(entry: Entry) -> None:
    """So the log of the process, which is kept elsewhere, has the last hash of each file."""
    if entry.deed == FOUND:
        _log.error("the audit log is not as it was left; pobox audit verify says more", **entry.what)
    elif entry.deed == MENDED:
        _log.warning("the end of an audit file was cut off by a kill", **entry.what)
    else:
        _log.info("an audit file begins", **entry.what)


def _entry(deed: str, req: Request, route: str, params: Mapping[str, Any], **more: Any) -> Entry:
    client = req.scope.get("client")
    request = req.header(_REQUEST_ID)
    return Entry(
        deed=deed,
        who=who(req.caller),
        address=client[0][:_ADDRESS_MAX] if client else "",
        method=req.method,
        route=route,
        whom=whom(req, params),
        request=request.decode() if request is not None and _ID.fullmatch(request) else "",
        **more,
    )


def who(caller: Caller) -> dict[str, str]:
    """By what is no secret of theirs. Pure."""
    if caller.key is not None:
        return {"key": caller.key}
    return {"user": caller.user} if caller.user is not None else {}


def whom(req: Request, params: Mapping[str, Any]) -> dict[str, str]:
    """Whose or which, by the path, and by what the responder says it made of the body. What is no name may be anything:
    it is left out."""
    found = {kind: params[name] for name, kind in _WHOM.items() if name in params}
    if req.concerns:
        found["message"] = req.concerns
    return {kind: name if all(map(is_name, name.split("~"))) else "?" for kind, name in found.items()}


def status_of(resp: falcon.asgi.Response) -> int:
    """200 and "200 OK" are one."""
    return int(str(resp.status)[:3])


def _status(error: BaseException) -> int:
    """Of the answer that is made of ``error``."""
    return error.status if isinstance(error, PoboxError) else PoboxError.status
