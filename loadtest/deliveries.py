"""one, hundred, accept: messages to single users, beside PostgreSQL and beside the floors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from loadtest.figures import Result, Row, number, ratio
from loadtest.rounds import Account, Run
from loadtest.settings import Settings
from loadtest.subjects import PoboxNode, directory, floor, pobox, postgresql

_WARM_UP_S = 3.0


def _turns(accounts: Sequence[Account], settings: Settings, *, targets: int) -> None:
    """A short turn each that doesn't count, then turns round by round."""
    for round_ in range(-1, settings.rounds):
        for account in accounts:
            account.turn(
                [other for other in accounts if other is not account],
                seconds=settings.seconds if round_ >= 0 else min(_WARM_UP_S, settings.seconds),
                users=settings.users,
                targets=targets,
                connections=settings.connections,
                seed=round_ + 2,
                keep=round_ >= 0,
            )


def _cpu_rows(account: Account, unit: str) -> list[Row]:
    roles = [role for role in account.runs[0].cpu_us if any(run.cpu_us[role] >= 0.05 for run in account.runs)]
    return [
        Row(
            label=f"{account.subject.name}: CPU of {role}",
            values=[r.cpu_us.get(role, 0) for r in account.runs],
            unit=unit,
        )
        for role in sorted(roles)
    ]


def _latency_rows(account: Account) -> list[Row]:
    name, loads = account.subject.name, [run.load for run in account.runs]
    return [
        Row(label=f"{name}: answer, median", values=[load.p50_us / 1000 for load in loads], unit="ms"),
        Row(label=f"{name}: answer, 99 %", values=[load.p99_us / 1000 for load in loads], unit="ms"),
    ]


def _disturbed(accounts: Sequence[Account]) -> Row:
    """What else the machine was busy with: without it a figure of a shared machine says little."""
    cores = [run.others_cores for account in accounts for run in account.runs]
    return Row(label="busy with anything else meanwhile", values=cores, unit="cores")


def _accounted(node: PoboxNode, account: Account) -> str:
    stored = node.verify(account.accepted)
    return (
        f"All {number(account.accepted)} user-messages that were accepted are in the {number(stored.mailboxes)} "
        "mailboxes: counted by another process after the node had stopped."
    )


def _stored(name: str, title: str, settings: Settings, *, targets: int, at_least: float) -> Result:
    with directory(settings.data, name) as base, contextlib.ExitStack() as stack:
        node = stack.enter_context(pobox(base, shards=settings.shards, routers=settings.routers))
        peer = stack.enter_context(postgresql(base, processes=settings.routers))
        ours, theirs = accounts = [Account(node), Account(peer)]
        for account in accounts:
            account.warm_up(settings.users)
        _turns(accounts, settings, targets=targets)

        def rates(runs: Sequence[Run]) -> list[float]:
            return [run.stored_rate for run in runs]

        unit = "msg/s" if targets == 1 else "user-msg/s"
        rows = [
            Row(label="pobox, stored", values=rates(ours.runs), unit=unit),
            Row(label="PostgreSQL, stored", values=rates(theirs.runs), unit=unit),
            ratio("pobox / PostgreSQL", rates(ours.runs), rates(theirs.runs), at_least=at_least),
            Row(label="pobox: drained after the last answer", values=[run.drain_s for run in ours.runs], unit="s"),
        ]
        for account in accounts:
            rows += _latency_rows(account) + _cpu_rows(account, "µs a request")
        rows.append(_disturbed(accounts))
        return Result(
            name=name,
            title=title,
            how=f"Messages of 600 B to {number(settings.users)} users, {targets} a request, {settings.connections} "
            f"connections, {settings.shards} shards, {settings.routers} HTTP process(es) on both sides; from the first "
            "request to the moment when all that was accepted is in the mailboxes (or committed).",
            rows=rows,
            notes=[_accounted(node, ours)],
        )


def one(settings: Settings) -> Result:
    return _stored("one", "one user a request", settings, targets=1, at_least=2.5)


def hundred(settings: Settings) -> Result:
    return _stored("hundred", "100 users a request", settings, targets=100, at_least=3.0)


def accept(settings: Settings) -> Result:
    """How near the 202 is to the least that a durable 202 can cost."""
    shards, routers = settings.shards, settings.routers
    with directory(settings.data, "accept") as base, contextlib.ExitStack() as stack:
        node = stack.enter_context(pobox(base, shards=shards, routers=routers))
        durable = stack.enter_context(floor(base / "durable", shards=shards, routers=routers, fdatasync=True))
        bare = stack.enter_context(floor(base / "bare", shards=shards, routers=routers, fdatasync=False))
        accounts = [Account(node), Account(durable), Account(bare)]
        ours = accounts[0]
        ours.warm_up(settings.users)
        _turns(accounts, settings, targets=1)
        rates = [[run.load.rate for run in account.runs] for account in accounts]
        rows = [
            Row(label="pobox, 202s", values=rates[0], unit="req/s"),
            Row(label="floor + fdatasync", values=rates[1], unit="req/s"),
            Row(label="floor: decode and answer", values=rates[2], unit="req/s"),
            ratio("pobox / (floor + fdatasync)", rates[0], rates[1], at_least=0.85),
            ratio("pobox / floor", rates[0], rates[2]),
        ]
        for account in accounts:
            rows += _latency_rows(account) + _cpu_rows(account, "µs a request")
        rows.append(_disturbed(accounts))
        return Result(
            name="accept",
            title="accepted only",
            how="One user a request as above; 202s a second while the load goes on, with pobox delivering beside it. "
            "Floor: the same router with a handler that decodes and answers. Floor + fdatasync: the same router "
            "before shards that only put each frame into a plain file, one fdatasync for all that wait.",
            rows=rows,
            notes=[_accounted(node, ours)],
        )
