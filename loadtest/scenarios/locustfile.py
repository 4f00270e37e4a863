"""What locust runs: one user a process, which sends what the plan says at the moments it says.

Locust spawns, counts over all processes, writes CSV and HTML. A user here isn't a person who waits for answers,
but the clock of an open phase (or the clients of a closed one). In an open phase each request has a
greenlet of its own out of a bounded pool; how late it was begun is a row of the statistics.

Locust ends when every process has carried out the plan, not at a time: with ``--run-time`` its master leaves half a
second later, whatever the processes have yet to report.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent  # type: ignore[import-untyped]
import gevent.pool  # type: ignore[import-untyped]
import locust.runners
import locust.stats
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.rpc.protocol import Message
from locust.runners import MasterRunner, WorkerRunner

from loadtest.scenarios import addressing, names, pace, plan
from loadtest.scenarios.ledger import Ledger
from loadtest.scenarios.names import Outcome
from loadtest.scenarios.plan import Phase
from loadtest.scenarios.sending import Done, Requests

locust.stats.CSV_STATS_FLUSH_INTERVAL_SEC = 0  # each second, for whoever watches
locust.runners.WORKER_REPORT_INTERVAL = 1.0
_CARRIED_OUT = "carried_out"
"""what a process tells the master at its end, with all that it counted since its last report"""
_LAST_WORD_S = 3.0
"""locust writes its CSV once a second and not at its end: what was counted last has to wait for that"""
_PAUSE_MAX_S = 0.5
"""a client of a closed phase that was refused comes back after at most this, some sooner"""


@events.init.add_listener  # type: ignore[untyped-decorator]
def listen(environment: Environment, **_others: object) -> None:
    """The master ends locust when it has heard from all."""
    master = environment.runner
    if not isinstance(master, MasterRunner):
        return
    missing = set(range(plan.of_environment().processes))

    def carried_out(environment: Environment, msg: Message) -> None:
        environment.events.worker_report.fire(client_id=msg.node_id, data=msg.data["report"])  # type: ignore[no-untyped-call]
        missing.discard(msg.data["process"])
        if not missing:
            gevent.spawn(_end, environment)

    master.register_message(_CARRIED_OUT, carried_out)


def _say_carried_out(environment: Environment) -> None:
    worker = environment.runner
    if not isinstance(worker, WorkerRunner):
        gevent.spawn(_end, environment)
        return
    report: dict[str, object] = {}
    environment.events.report_to_master.fire(client_id=worker.client_id, data=report)  # type: ignore[no-untyped-call]
    worker.send_message(_CARRIED_OUT, {"process": worker.worker_index, "report": report})


def _end(environment: Environment) -> None:
    gevent.sleep(_LAST_WORD_S)
    assert environment.runner is not None
    environment.runner.quit()


class Sender(User):
    """Carries out the plan that the environment names."""

    def on_start(self) -> None:
        self._plan = plan.of_environment()
        self._process = int(self.environment.runner.worker_index)
        clients = max(phase.clients for phase in self._plan.phases)
        self._random = random.Random(f"{self._plan.run} {self._process}")
        self._requests = Requests(
            self._plan,
            self._random,
            connections=max(self._plan.in_flight_max, clients),
            device=f"phone-{self._process}",
        )
        self._ledger = Ledger(Path(self._plan.ledger))
        self._numbers = itertools.count(self._plan.first + self._process, self._plan.processes)

    @task
    def carry_out(self) -> None:
        """All phases, once."""
        begins = time.monotonic()
        pool = gevent.pool.Pool(self._plan.in_flight_max)
        clients = gevent.pool.Group()
        for phase in self._plan.phases:
            if phase.clients:
                share = range(self._process, phase.clients, self._plan.processes)
                for _ in share:
                    clients.spawn(self._client, phase, begins + phase.seconds)
                clients.join()
            else:
                self._open(phase, begins, pool)
            # Clients of a closed phase may get their last answers late: that is not the next one's time.
            begins = max(begins + phase.seconds, time.monotonic())
            gevent.sleep(max(0.0, begins - time.monotonic()))
        pool.join(timeout=plan.TIMEOUT_S)
        self._ledger.close()
        _say_carried_out(self.environment)
        raise StopUser

    def _open(self, phase: Phase, begins: float, pool: gevent.pool.Pool) -> None:
        """Begin everything on time. What is due after the pool was full for the rest of the phase isn't sent; the last
        letters of a recording are due at the very end."""
        ends = begins + phase.seconds
        for moment in self._moments(phase):
            due = begins + moment
            now = time.monotonic()
            if now >= ends > due:
                return
            if due > now:
                gevent.sleep(due - now)
            pool.spawn(self._begin, phase, due)

    def _moments(self, phase: Phase) -> Iterator[float]:
        where = {"process": self._process, "processes": self._plan.processes}
        if self._plan.paced:
            assert self._plan.recorded is not None
            times = addressing.times_of(addressing.letters_of(self._plan.recorded))
            return pace.recorded(times, phase.seconds, **where)
        return pace.evenly(phase.rate / self._plan.lines, phase.seconds, **where)

    def _begin(self, phase: Phase, due: float) -> None:
        lag_ms = max(0.0, time.monotonic() - due) * 1e3
        self.environment.stats.get(names.lag(phase.name), names.LAG).log(lag_ms, 0)
        self._act(phase, due)

    def _client(self, phase: Phase, ends: float) -> None:
        while (now := time.monotonic()) < ends:
            done = self._act(phase, now)
            if done.error is not None:
                gevent.sleep(self._random.uniform(0.0, min(_PAUSE_MAX_S, max(0.05, done.retry_after_s))))

    def _act(self, phase: Phase, since: float) -> Done:
        """One action, counted from ``since``; a device that has to sync does so at once."""
        done = self._counted(phase, since, *self._choose())
        if (user := done.outdated) is not None:
            self._counted(phase, time.monotonic(), "sync", lambda: self._requests.sync(user))
        return done

    def _counted(self, phase: Phase, since: float, kind: str, action: Callable[[], Done]) -> Done:
        """One request."""
        done = action()
        took_ms = (time.monotonic() - since) * 1e3
        self._ledger.accepted(letter.number for letter in done.letters if letter.outcome is Outcome.ACCEPTED)
        for letter in done.letters:
            name = names.letter(phase.name, letter.lane, letter.outcome)
            self.environment.stats.get(name, names.LETTER).log(took_ms, 0)
        self.environment.events.request.fire(
            request_type=names.TITLES[kind],
            name=names.request(phase.name, kind),
            response_time=took_ms,
            response_length=done.bytes,
            exception=None if done.error is None else RuntimeError(done.error),
            context={},
        )
        return done

    def _choose(self) -> tuple[str, Callable[[], Done]]:
        luck = self._random.random()
        if luck < self._plan.reads:
            return "page", self._requests.page
        if luck < self._plan.reads + self._plan.checks:
            return "check", self._requests.check
        numbers = list(itertools.islice(self._numbers, self._plan.lines))
        return "deliver", lambda: self._requests.deliver(numbers)
