"""One run of locust, headless, as a process of its own; live figures meanwhile come from its CSV files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.children import Child, kept_port, python
from loadtest.errors import BenchError
from loadtest.scenarios import names, plan, rows
from loadtest.scenarios.plan import Plan
from loadtest.scenarios.rows import Moment, Statistics
from loadtest.scenarios.watching import Sample, Watcher

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_START_S = 30.0
_END_S = 30.0
"""from the last answer until locust has written all"""
_POLL_S = 0.5
_TOTAL = "Aggregated"
"""locust's word"""
_LINE_S = 5.0
"""elsewhere than on a terminal a line is printed so often"""


class Run(NamedTuple):
    """What came of it. ``prefix`` begins the names of locust's files."""

    plan: Plan
    prefix: Path
    rows: Statistics
    history: list[Moment]
    node: list[Sample]
    locust: list[Sample]

    @property
    def ended(self) -> float:
        """When the last letter was answered, in seconds since 1970 (whole ones)."""
        last: dict[str, Moment] = {}
        for moment in self.history:
            if moment.kind == names.LETTER and moment.count != (last[moment.name].count if moment.name in last else 0):
                last[moment.name] = moment
        return float(max((moment.at for moment in last.values()), default=0))

    def began(self, phase: str) -> float | None:
        """When the first letter of ``phase`` was counted, in seconds since 1970 (whole ones)."""
        ours = [moment.at for moment in self.history if moment.name.startswith(f"{phase}: ") and moment.count]
        return float(min(ours)) if ours else None


def run(this: Plan, prefix: Path, node: Watcher, console: Console, *, cpus: list[int] | None = None) -> Run:
    """Carry out ``this``; locust's files begin with ``prefix``. ``cpus``: where locust may run.

    Raises :class:`BenchError` if locust fails. Whether the figures are good enough is not its business.
    """
    plan_path = prefix.with_suffix(".plan.json")
    plan.save(plan_path, this)
    options = ["-f", str(_LOCUSTFILE), "--headless", "--only-summary", "--exit-code-on-error", "0"]
    options += ["-u", str(this.processes), "-r", str(max(100, this.processes))]
    options += ["--csv", str(prefix), "--csv-full-history", "--html", f"{prefix}.html"]
    with kept_port() as port:  # locust's own is the same for all loads on the machine
        if this.processes > 1:
            options += ["--processes", str(this.processes), "--master-port", str(port)]
            options += ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
        command = python("locust", *options, cpus=cpus)
        child = Child("locust", command, prefix.with_suffix(".log"), environ={plan.VARIABLE: str(plan_path)})
        generators = Watcher(child.tree)
        deadline = time.monotonic() + _START_S + this.seconds + plan.TIMEOUT_S + _END_S
        try:
            with node.watching(), generators.watching(), Screen(this, prefix, node, generators, console) as screen:
                while (code := child.ended()) is None:
                    if time.monotonic() > deadline:
                        raise BenchError(f"locust has not ended in time; its log: {child.log}")
                    time.sleep(_POLL_S)
                    screen.refresh()
        finally:
            child.stop()
    if code:
        raise BenchError(f"locust ended with {code}:\n{child.text()[-4_000:]}")
    return Run(this, prefix, rows.read(prefix), rows.history(prefix), node.samples, generators.samples)


class Screen:
    """What locust counted so far: live on a terminal, elsewhere a line every few seconds."""

    def __init__(self, this: Plan, prefix: Path, node: Watcher, generators: Watcher, console: Console) -> None:
        self._plan, self._prefix = this, prefix
        self._node, self._generators = node, generators
        self._console = console
        self._began = self._said = time.monotonic()
        self._live = Live(self, console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()
        elif time.monotonic() - self._said >= _LINE_S:
            self._said = time.monotonic()
            self._console.print(str(self), highlight=False, markup=False, soft_wrap=True)

    def __str__(self) -> str:
        words = [self._time()]
        if (now := total(rows.history(self._prefix))) is not None:
            words.append(
                f"{now.count:,} requests, {now.failures:,} of them refused or failed, {now.rate:,.0f} a second, "
                f"p50 {now.p50_ms:,.0f} ms, p99 {now.p99_ms:,.0f} ms"
            )
        return "; ".join([*words, *self._machine()])

    def __rich__(self) -> Table:
        table = Table(title=self._time(), title_justify="left")
        for heading in ("", "count", "failed", "a second", "p50 ms", "p99 ms"):
            table.add_column(heading, justify="left" if not heading else "right")
        for moment in latest(rows.history(self._prefix)):
            table.add_row(
                f"{moment.kind} {moment.name}",
                f"{moment.count:,}",
                f"{moment.failures:,}",
                f"{moment.rate:,.0f}",
                f"{moment.p50_ms:,.0f}",
                f"{moment.p99_ms:,.0f}",
            )
        for words in self._machine():
            table.add_row(words, style="dim")
        return table

    def _time(self) -> str:
        return f"{time.monotonic() - self._began:.0f} of {self._plan.seconds:.0f} s"

    def _machine(self) -> list[str]:
        """What node and locust take of it just now."""
        watchers = (("node", self._node), ("locust", self._generators))
        last = [(name, watcher.samples[-1]) for name, watcher in watchers if watcher.samples]
        return [f"{name}: {sample.cores:.1f} cores, {sample.rss_mib:,.0f} MiB" for name, sample in last]


def latest(moments: list[Moment]) -> list[Moment]:
    """The newest row of each name, requests first."""
    newest = {(moment.kind, moment.name): moment for moment in moments}
    return sorted(newest.values(), key=lambda row: (row.kind in (names.LETTER, names.LAG), row.kind, row.name))


def total(moments: list[Moment]) -> Moment | None:
    """The newest row of all requests together: of this moment, but for the counts, which are of the whole run."""
    return next((moment for moment in reversed(moments) if moment.name == _TOTAL), None)


def with_rates(this: Plan, maximum: float) -> Plan:
    """``this`` with each phase's rate in letters a second, where it was in units of ``maximum``."""
    phases = [
        msgspec.structs.replace(phase, rate=phase.rate * maximum, of_maximum=False) if phase.of_maximum else phase
        for phase in this.phases
    ]
    return msgspec.structs.replace(this, phases=phases)
