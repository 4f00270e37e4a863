"""One supervised process: started, listened to, started again when it dies, stopped in order.

Until the node was ready once, a child that dies ``DEATHS_MAX`` times in a row is given up on: such
a node doesn't come up by trying. After that it is started again for ever, less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from node.backoff import after_death
from node.lean import structlog
from node.process import pin

DEATHS_MAX = 5
STOP_MAX_S = 10.0
_LINE_MAX = 65_536
_LAST_WORDS = 20
_DRAIN_S = 1.0

_log = structlog.get_logger()


class GaveUp(Exception):
    """A child died again and again before the node was ready; the message holds its last output."""


class Child:
    """A process of this node, by ``name``. ``on_line(name, line)`` gets its output, line by line;
    ``on_change`` is called whenever :attr:`pid` changed."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str, str], None],
        on_change: Callable[[], None],
        fds: Sequence[int] = (),
        cores: set[int] | None = None,
    ) -> None:
        self.name = name
        self.settled = False
        """the node was ready once: from now on this child is never given up on"""
        self._command = list(command)
        self._environ = dict(environ)
        self._on_line = on_line
        self._on_change = on_change
        self._fds = tuple(fds)
        self._cores = cores
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | asyncio.Task[int] | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def keep(self) -> asyncio.Task[None]:
        """Start it, and again whenever it dies. The task raises :class:`GaveUp`."""
        self._task = task = asyncio.create_task(self._keep(), name=self.name)
        return task

    def once(self) -> asyncio.Task[int]:
        """Run it to its end; the task's result is the exit code (negative: the signal)."""
        self._task = task = asyncio.create_task(self._run(), name=self.name)
        return task

    async def stop(self, hurry: asyncio.Event, bound_s: float = STOP_MAX_S) -> None:
        """SIGTERM, and SIGKILL after ``bound_s`` or when ``hurry`` is set; returns when it is gone."""
        self._stopping.set()
        if self._task is None:
            return
        self._signal(signal.SIGTERM)
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({self._task, hurried}, timeout=bound_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not self._task.done():
            _log.warning("killed: it did not stop in time", child=self.name)
            self._signal(signal.SIGKILL)
        with contextlib.suppress(Exception):  # it was reported when it happened
            await self._task

    def hang_up(self) -> None:
        """SIGHUP, if it runs: what it has read of files it is to read again."""
        self._signal(signal.SIGHUP)

    def last_words(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._last_words)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep(self) -> None:
        deaths = 0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run()
            if self._stopping.is_set():
                return
            deaths, delay_s = after_death(deaths, loop.time() - began)
            if not self.settled and deaths >= DEATHS_MAX:
                raise GaveUp(
                    f"{self.name} ended {deaths} times before the node was ready ({ending(code)}); "
                    f"its last output:\n{self.last_words()}"
                )
            _log.warning("child ended", child=self.name, ending=ending(code), restart_in_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run(self) -> int:
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environ,
                pass_fds=self._fds,
                # A group of its own: Ctrl-C is for the supervisor, which stops its children in order.
                process_group=0,
            )
        except OSError as error:  # no memory, no files: it may pass, like a death
            self._say(f"can't be started: {error}".encode())
            return 1
        if self._cores is not None:
            pin(process.pid, self._cores)
        self._on_change()
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        listening = asyncio.create_task(self._listen(process))
        code = await process.wait()
        self._process = None
        self._on_change()
        # Its end ends its output, unless it left somebody behind who holds the pipe.
        await asyncio.wait({listening}, timeout=_DRAIN_S)
        listening.cancel()
        return code

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(_LINE_MAX):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._say(line)
            if len(rest) > _LINE_MAX:
                self._say(rest)
                rest = b""
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._last_words.append(text)
        self._on_line(self.name, text)


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
