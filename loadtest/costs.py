"""profile: where each microsecond of a message goes.

Two sources that check each other: the CPU time that the kernel counted for each process, a message,
and a sampling profiler that says which function had it. The share of the samples times the CPU time
of the process is what a function costs. C code (SQLite, msgspec, the event loop's system calls)
counts for the Python function that called it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtest.children import Child
from loadtest.errors import BenchError
from loadtest.figures import Result, Row
from loadtest.rounds import Account
from loadtest.settings import Settings
from loadtest.subjects import directory, pobox

_RATE_HZ = 250
_SHARE_MIN = 0.01
"""of a process's samples; what has less is added up as other"""
_OWN = re.compile(r"(?:^|/)((?:node|router|shard)/\w+)\.py")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")
_LIBRARIES = (
    ("falcon", "falcon"),
    ("uvicorn/", "uvicorn: HTTP in and out"),
    ("asyncio/", "event loop: asyncio"),
    ("concurrent/futures", "handing over to threads"),
    ("threading", "handing over to threads"),
    ("uuid_utils", "ids"),
    ("structlog", "logging"),
    ("logging/", "logging"),
)
_LOOP = "event loop: sockets, epoll, timers"


def family(stack: str) -> str:
    """What a sampled stack (``outer;…;inner``) was busy with: the innermost frame that has a name
    here: ``shard/journal Journal.commit`` for our code, a library's name for what is not ours.

    A runner with nothing above it is the loop itself, in C.
    """
    for frame in reversed(stack.split(";")):
        parts = _FRAME.match(frame)
        if parts is None:
            continue
        file, function = parts["file"], parts["function"]
        own = _OWN.search(file)
        if own is not None:
            return f"{own[1]} {function}"
        if function.rpartition(".")[2] in ("run", "run_until_complete") and "threading" not in file:
            return _LOOP
        for part, name in _LIBRARIES:
            if part in file:
                return name
    return "other"


def families(raw: str) -> Counter[str]:
    """Samples by family, from py-spy's raw format: ``stack count`` a line."""
    counted: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        if stack and samples.isdecimal():
            counted[family(stack)] += int(samples)
    return counted


def _profiler() -> str | None:
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


@contextlib.contextmanager
def _sampling(processes: dict[str, psutil.Process], base: Path) -> Iterator[dict[str, Path]]:
    """Sample each process while the block runs; the files are complete after it."""
    tool, files, samplers = _profiler(), {}, []
    if tool is None:
        yield {}
        return
    for name, process in processes.items():
        files[name] = base / f"{name}.raw"
        command = [
            tool,
            "record",
            "--nonblocking",
            "--format",
            "raw",
            "--rate",
            str(_RATE_HZ),
            "--duration",
            "unlimited",
        ]
        command += ["--output", str(files[name]), "--pid", str(process.pid)]
        samplers.append(Child(f"py-spy {name}", command, base / f"py-spy-{name}.log"))
    try:
        yield files
    finally:
        for sampler in samplers:
            sampler.interrupt()


def _breakdown(prefix: str, cost_us: float, samples: Counter[str], unit: str) -> list[Row]:
    """``cost_us`` divided as the samples are, the most expensive first."""
    total = samples.total()
    shown = Counter({name: count for name, count in samples.items() if count >= total * _SHARE_MIN})
    ordered = shown.most_common()
    if rest := total - shown.total():
        ordered.append((f"other, each less than {_SHARE_MIN:.0%}", rest))
    return [Row(label=prefix + name, values=[cost_us * count / total], unit=unit) for name, count in ordered]


def profile(settings: Settings) -> Result:
    rows: list[Row] = []
    notes: list[str] = []
    for targets in (1, 100):
        with (
            directory(settings.data, "profile") as base,
            pobox(base, shards=settings.shards, routers=settings.routers) as node,
        ):
            account = Account(node)
            account.warm_up(settings.users)
            load = {
                "users": settings.users,
                "targets": targets,
                "connections": settings.connections,
                "seconds": settings.seconds,
            }
            account.turn([], **load, seed=1, keep=False)  # type: ignore[arg-type]
            plain = account.turn([], **load, seed=2)  # type: ignore[arg-type]
            processes = {role: found[0] for role in ("router", "shard") if (found := node.processes(role))}
            with _sampling(processes, base) as files:
                account.turn([], **load, seed=3)  # type: ignore[arg-type]
            counted = {}
            for role, file in files.items():
                if not file.exists():
                    log = (base / f"py-spy-{role}.log").read_text(errors="replace")
                    notes.append(f"py-spy could not sample the {role}: {' '.join(log.split())[:300]}")
                else:
                    counted[role] = families(file.read_text())
            if not files:
                notes.append("py-spy is not installed, so there is no breakdown by function.")
            node.verify(account.accepted)
        unit = "µs/msg"
        for role, cpu_us in sorted(plain.cpu_us.items(), key=lambda item: -item[1]):
            cost_us = cpu_us / targets
            if cost_us < 0.02:
                continue
            rows.append(Row(label=f"{targets} a request: {role}, whole", values=[cost_us], unit=unit))
            rows += _breakdown(f"{targets} a request: {role}: ", cost_us, counted.get(role, Counter()), unit)
    if not rows:
        raise BenchError("no CPU time was counted")
    return Result(
        name="profile",
        title="where the time of a message goes",
        how="CPU microseconds a user-message, user and system, counted by the kernel until all was stored (all shards, "
        "all routers); below each process how py-spy's samples of one of them divide that.",
        rows=rows,
        notes=notes,
    )
