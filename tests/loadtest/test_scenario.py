"""Tiny scenarios, whole: a node, locust, the count, the report. How fast they were is not judged here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from loadtest import scenario
from loadtest.figures import Result
from loadtest.scenario import Options
from loadtest.scenarios.catalogue import SCENARIOS, Scenario
from tests.support import Node

pytestmark = pytest.mark.slow


def _carry_out(tmp_path: Path, name: str, tiny: Scenario, **options: object) -> dict[str, float]:
    """The figures; nothing may be lost, doubled, misplaced or failed."""
    arguments = {"place": tmp_path, "shards": 1} | options
    result: Result = scenario.run(name, tiny, Options(**arguments), Console(quiet=True))  # type: ignore[arg-type]
    figures = {row.label: row.median for row in result.rows}
    for fault in ("lost", "doubled", "in a wrong box", "failed"):
        assert figures[fault] == 0, result.notes
    assert "<html" in (tmp_path / "locust.html").read_text()
    return figures


def _as_many_processes_as_cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """However low the rate; their number."""
    monkeypatch.setattr(scenario, "_REQUESTS_A_PROCESS", 1e-3)
    monkeypatch.setattr(scenario, "cores_apart", lambda: None)
    return len(os.sched_getaffinity(0))


def _tiny(name: str, **changes: object) -> Scenario:
    return msgspec.structs.replace(SCENARIOS[name], users=50, **changes)


def test_two_processes_deliver_read_and_sync_on_a_node_that_runs_and_all_is_counted_over_its_api(
    tmp_path: Path, node: Node
) -> None:
    figures = _carry_out(tmp_path, "mixed", _tiny("mixed", rate=60, seconds=2), host=node.url, processes=2)
    assert figures["letters acknowledged"] == figures["accepted"] * 2 > 0
    assert figures["deliveries owed"] == figures["letters acknowledged"]
    assert {"a page, 99 %", "a check, 99 %", "a sync, 99 %"} <= figures.keys()
    assert figures["locust: processes"] == 2


def test_a_record_is_squeezed_into_the_time_for_the_members_of_its_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = _as_many_processes_as_cores(monkeypatch)
    figures = _carry_out(tmp_path, "replay", _tiny("replay", seconds=2), messages_max=40, members_max=5)
    assert 0 < figures["letters acknowledged"] <= 40
    assert figures["deliveries owed"] == figures["letters acknowledged"] * 5
    assert figures["locust: processes"] == cores


def test_a_record_at_twice_its_pace_takes_half_its_time_and_is_sent_to_its_last_letter(tmp_path: Path) -> None:
    record, members = tmp_path / "record.ndjson", tmp_path / "members.json"
    letter = {"channel_id": "c", "title": "t", "content": "", "sender": "s"}
    seconds = (0, 1, 4, 4, 4, 4)  # the last ones share a moment, so no letter is left out if locust is late for it
    record.write_text(
        "".join(
            json.dumps({"id": f"m{n}", "created_at": f"2026-01-05T08:00:0{at}+00:00"} | letter) + "\n"
            for n, at in enumerate(seconds)
        )
    )
    members.write_text(json.dumps({"c": ["ann", "bob"]}))
    figures = _carry_out(tmp_path, "replay", _tiny("replay"), record=record, members=members, pace=2.0)
    assert figures["letters acknowledged"] == len(seconds)
    assert figures["done, of what was due"] == 100
    assert figures["accepted"] == len(seconds) / 2


@pytest.mark.long
def test_an_overload_is_refused_in_part_and_nothing_acknowledged_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = _as_many_processes_as_cores(monkeypatch)
    tiny = _tiny("overload", seconds=2, rate=3, fan=10, waiting_max=20, letters_before=2)
    figures = _carry_out(tmp_path, "overload", tiny)
    assert figures["maximum"] > 0
    assert figures["offered"] > 0
    assert figures["deliveries owed"] == figures["letters acknowledged"] * 10
    assert {"goodput / maximum", "refused, from 10 s after", "memory, largest"} <= figures.keys()
    assert figures["locust: processes"] == cores
