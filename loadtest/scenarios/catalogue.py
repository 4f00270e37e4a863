"""The scenarios, and what is wanted of each: all thresholds stand here.

Rates are letters a second (of ``mixed`` and ``soak`` actions a second, reads and checks among them); a letter may have
many targets. ``steady`` is meant for ten postmen. The words of the limits are those of
:mod:`loadtest.scenarios.verdict`.
"""

from __future__ import annotations

import msgspec

from loadtest.scenarios.plan import Phase

_LANES = {9: 0.1, 5: 0.6, 2: 0.3}


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    at_least: float | None = None
    at_most: float | None = None


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    """with figures in braces, which the command line may change: :attr:`headline` has the true ones"""
    seconds: float
    rate: float
    limits: dict[str, Limit]
    users: int = 10_000
    fan: int = 1
    lines: int = 1
    channel: bool = False
    recorded: bool = False
    priorities: dict[int, float] = msgspec.field(default_factory=lambda: {5: 1.0})
    reads: float = 0.0
    checks: float = 0.0
    waiting_max: int | None = None
    """of the whole node, in letters times targets; None: the node's default"""
    letters_before: int = 1
    """so many lie in each box before anything is measured: a letter for a box that has had few is cheaper"""
    apart: bool = False
    """whether node and locust get processor cores of their own: where what is measured is how the node does without
    the time that the load takes"""

    @property
    def headline(self) -> str:
        """What is done, with the figures of this very run."""
        targets = "one user" if self.fan == 1 else f"{self.fan:,} users"
        figures = {name: f"{getattr(self, name):,.10g}" for name in ("rate", "users", "lines", "seconds")}
        return self.title.format(**figures, targets=targets)


BOXES = {"lost": Limit(at_most=0), "doubled": Limit(at_most=0), "in a wrong box": Limit(at_most=0)}
"""what is wanted of all boxes"""
_SAFE = {"failed": Limit(at_most=0), **BOXES}
"""what is wanted of every scenario"""
_READS = {
    "a page, 99 %": Limit(at_most=250),
    "a check, 99 %": Limit(at_most=500),
    "a sync, 99 %": Limit(at_most=1_000),
}


def _whole(p99_ms: float, **more: Limit) -> dict[str, Limit]:
    """All that was due was sent and accepted, in time, and lies where it belongs."""
    return {
        **_SAFE,
        "done, of what was due": Limit(at_least=99.0),
        "refused": Limit(at_most=0),
        "202, 99 %": Limit(at_most=p99_ms),
        "all stored after, at most": Limit(at_most=15.0),
        **more,
    }


SCENARIOS: dict[str, Scenario] = {
    "steady": Scenario(
        title="{rate} messages a second, {targets} each",
        seconds=30,
        rate=1_000,
        limits=_whole(100),
    ),
    "peak": Scenario(
        title="{rate} messages a second, {targets} each, {lines} a request",
        seconds=20,
        rate=5_000,
        lines=50,
        limits=_whole(1_000),
    ),
    "fanout": Scenario(
        title="messages to {targets} each",
        seconds=20,
        rate=150,
        fan=100,
        limits=_whole(250),
    ),
    "channel": Scenario(
        title="messages to a channel of {users} members",
        seconds=20,
        rate=15,
        users=1_000,
        channel=True,
        limits=_whole(250),
    ),
    "mixed": Scenario(
        title="deliveries, reads of boxes, and devices that check and sync",
        seconds=30,
        rate=500,
        users=2_000,
        reads=0.2,
        checks=0.2,
        priorities=_LANES,
        limits=_whole(150, **_READS),
    ),
    "replay": Scenario(
        title="recorded traffic, its days in {seconds} s",
        seconds=30,
        rate=0,
        recorded=True,
        limits=_whole(500),
    ),
    "soak": Scenario(
        title="{seconds} s of deliveries, reads and syncs, with a flat memory",
        seconds=3_600,
        rate=300,
        users=2_000,
        reads=0.2,
        checks=0.2,
        priorities=_LANES,
        limits=_whole(
            250,
            **{
                **_READS,
                "memory, second half / first": Limit(at_most=1.15),
            },
        ),
    ),
    "overload": Scenario(
        title="{rate} times what the node can take",
        seconds=60,
        rate=5,
        users=10_000,
        fan=100,
        priorities=_LANES,
        waiting_max=50_000,
        letters_before=100,
        apart=True,
        limits={
            **_SAFE,
            "offered / maximum": Limit(at_least=4.5),
            "goodput / maximum": Limit(at_least=0.8),
            "maximum after / before": Limit(at_least=0.5),
            "priority 8 and above: 202, 99 % / unloaded": Limit(at_most=3.0),
            "memory, second half / first": Limit(at_most=1.15),
            "memory, largest": Limit(at_most=1_536),
            "refused, from 10 s after": Limit(at_most=0),
            "202, 99 % from 10 s after / unloaded": Limit(at_most=3.0),
        },
    ),
}

SETTLING_S = 10.0
"""so long may it take after an overload until everything is as before"""


def maximum_phases(seconds: float) -> list[Phase]:
    """Before and after an overload: what the node can take from clients who wait for their answers."""
    filling_s = min(5.0, seconds / 4)
    return [
        Phase(name="filling", seconds=filling_s, clients=48),
        Phase(name="maximum", seconds=max(1.0, min(15.0, seconds / 4)), clients=48),
    ]


def overload_phases(seconds: float, times: float) -> list[Phase]:
    """Unloaded, then ``seconds`` of ``times`` the maximum, then the time to settle, then as it should be again."""
    calm_s = max(1.0, min(15.0, seconds / 4))
    return [
        Phase(name="unloaded", seconds=calm_s, rate=0.2, of_maximum=True),
        Phase(name="overload", seconds=seconds, rate=times, of_maximum=True),
        Phase(name="settling", seconds=min(SETTLING_S, seconds), rate=0.2, of_maximum=True),
        Phase(name="after", seconds=calm_s, rate=0.2, of_maximum=True),
    ]
