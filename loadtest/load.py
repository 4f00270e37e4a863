"""wrk as the load generator, and what it counted.

wrk is compiled, so a load of 15,000 requests a second takes a small part of one core. The script
``wrk/deliver.lua`` stops sending before wrk ends, so that every request is answered and the count
of accepted messages is exact.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from loadtest.errors import BenchError
from node.model import USERS_MAX

T = TypeVar("T", bound=msgspec.Struct)

SCRIPT = Path(__file__).parent / "wrk" / "deliver.lua"
_FIGURES = re.compile(r"^figures: (\{.*\})$", re.MULTILINE)
_TAIL_S = 30
"""so long are answers waited for that are late"""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one run sent. ``first_s`` and ``last_s`` (of the last answer) are ``time.monotonic()``."""

    sent: int
    answered: int
    refused: int
    connect: int
    read: int
    write: int
    timeout: int
    first_s: float
    last_s: float
    p50_us: int
    p99_us: int
    max_us: int
    cpu_s: float = 0.0
    """of wrk itself"""

    @property
    def accepted(self) -> int:
        return self.answered - self.refused

    @property
    def rate(self) -> float:
        """Accepted requests a second, from the first request to the last answer."""
        return self.accepted / (self.last_s - self.first_s)


def figures(output: str, kind: type[T]) -> T:
    """The figures in wrk's output; raises :class:`BenchError` if there are none."""
    found = _FIGURES.search(output)
    if found is None:
        raise BenchError(f"wrk gave no figures:\n{output}")
    try:
        return msgspec.convert(json.loads(found[1]), kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise BenchError(f"wrk's figures: {error}: {found[1]}") from error


def check(load: Load) -> Load:
    """``load`` itself if each request was answered with a 2xx; raises :class:`BenchError` otherwise."""
    lost = load.sent - load.answered
    if load.refused or lost or load.connect or load.read or load.write:
        raise BenchError(
            f"of {load.sent} requests {load.refused} were refused and {lost} not answered "
            f"(connect {load.connect}, read {load.read}, write {load.write}, timeout {load.timeout})"
        )
    if not load.accepted:
        raise BenchError("nothing was accepted")
    return load


def run(
    url: str,
    *,
    seconds: float,
    users: int,
    targets: int,
    connections: int = 64,
    message_bytes: int = 600,
    seed: int = 1,
) -> Load:
    """Load ``url`` for ``seconds``; each request goes to ``targets`` of ``users`` users at random.

    Raises :class:`BenchError` if wrk is missing, fails, or anything was not accepted.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is not installed (Debian: apt-get install wrk)")
    command = [wrk, "-t1", f"-c{connections}", f"-d{int(seconds + _TAIL_S)}s", "--timeout", f"{_TAIL_S}s"]
    command += ["-s", str(SCRIPT), url, "--"]
    command += [str(value) for value in (users, targets, message_bytes, seconds, seed, connections)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "quiet\n":
                process.send_signal(signal.SIGINT)  # all is answered: no need to wait for its end
    output = "".join(lines)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise BenchError(f"wrk ended with {process.returncode}:\n{output}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return check(msgspec.structs.replace(figures(output, Load), cpu_s=cpu_s))


def user(number: int) -> str:
    """The name that the script gives to user ``number``."""
    return f"u{number:010d}"


def users(number: int) -> list[str]:
    """The names of the first ``number`` of them."""
    return [user(n) for n in range(number)]


def portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """``names``, as many at a time as a request may hold."""
    for start in range(0, len(names), USERS_MAX):
        yield names[start : start + USERS_MAX]
