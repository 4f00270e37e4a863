"""What one run of locust is to do. Pure: the starter writes it as JSON, every locust process reads it.

A phase is open or closed. In an open one requests begin on schedule, whatever the answers take; in a
closed one each of some clients sends as soon as it has its answer.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

VARIABLE = "LOADTEST_PLAN"
"""the environment variable that names the file"""
TIMEOUT_S = 30.0
"""how long an answer is waited for"""


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    seconds: float
    rate: float = 0.0
    """letters a second, of all processes together; in a catalogue it may be in units of the maximum"""
    of_maximum: bool = False
    """whether ``rate`` is in units of what a phase called ``maximum`` of an earlier run took"""
    clients: int = 0
    """of a closed phase, of all processes together; 0: it is open"""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    run: str
    """begins the key of each letter of this run"""
    url: str
    ledger: str
    """the directory for what was accepted"""
    phases: list[Phase]
    users: int
    fan: int = 1
    """targets of a letter"""
    lines: int = 1
    """letters a request; more than one go as NDJSON"""
    channel: str | None = None
    """the letters go to it, not to users; all users are its members"""
    recorded: str | None = None
    """a file of letters (NDJSON, as the API takes them) to be sent instead"""
    paced: bool = False
    """with ``recorded``: at its own pace, so that the whole fills the phase"""
    body_bytes: int = 600
    priorities: dict[int, float] = msgspec.field(default_factory=lambda: {5: 1.0})
    """weights"""
    reads: float = 0.0
    """share of the actions that read a page of a box"""
    checks: float = 0.0
    """share of the actions that ask whether a device has to sync, which it then does"""
    in_flight_max: int = 512
    """requests of one process"""
    processes: int = 1
    first: int = 0
    """the number of the first letter"""

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def load(path: Path) -> Plan:
    """The plan in the file; raises :class:`msgspec.ValidationError`."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)


def of_environment() -> Plan:
    """The one that the environment names."""
    return load(Path(os.environ[VARIABLE]))


def save(path: Path, plan: Plan) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan)))
