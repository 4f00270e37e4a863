"""Where no terminal is, a run says now and then in one plain line how it goes."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.scenarios import running
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.watching import Sample, Watcher

_HEAD = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,99%,Total Request Count,Total Failure Count"
_ROWS = (
    "1,1,POST,steady: deliver,5,0,3,9,10,1",
    "1,1,,Aggregated,5,0,3,9,10,1",
    "2,1,POST,steady: deliver,7,0,4,8,3000,2",
    "2,1,LAG,steady: behind schedule,9,0,0,1,3000,0",
    "2,1,,Aggregated,1000,0,4,8,3000,2",
)


def _screen(place: Path) -> tuple[running.Screen, io.StringIO]:
    printed = io.StringIO()
    node = Watcher(list)
    node.samples.append(Sample(2.0, 345.6, 0.5, 1.25))
    plan = Plan(run="r", url="http://x", ledger="/x", users=10, phases=[Phase(name="steady", seconds=30)])
    console = Console(file=printed, force_terminal=False, width=20)
    return running.Screen(plan, place / "locust", node, Watcher(list), console), printed


def test_a_line_has_what_all_requests_came_to_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_LINE_S", 0.0)
    screen, printed = _screen(tmp_path)
    with screen:
        screen.refresh()
        (tmp_path / "locust_stats_history.csv").write_text("\n".join([_HEAD, *_ROWS]))
        screen.refresh()
    first, second = printed.getvalue().splitlines()
    assert first.endswith(" of 30 s; node: 1.2 cores, 346 MiB")
    assert "; 3,000 requests, 2 of them refused or failed, 1,000 a second, p50 4 ms, p99 8 ms; node: " in second


def test_between_two_lines_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_LINE_S", math.inf)
    screen, printed = _screen(tmp_path)
    with screen:
        screen.refresh()
    assert printed.getvalue() == ""
