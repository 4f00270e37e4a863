"""Tiny scenarios, whole: a node, locust, the count, the report. How fast they were is not judged here."""

from __future__ import annotations

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


def _tiny(name: str, **changes: object) -> Scenario:
    return msgspec.structs.replace(SCENARIOS[name], users=50, **changes)


def test_two_processes_deliver_read_and_check_on_a_node_that_runs_and_all_is_counted_over_its_api(
    tmp_path: Path, node: Node
) -> None:
    figures = _carry_out(tmp_path, "mixed", _tiny("mixed", rate=60, seconds=2), host=node.url, processes=2)
    assert figures["letters acknowledged"] == figures["accepted"] * 2 > 0
    assert figures["deliveries owed"] == figures["letters acknowledged"]
    assert {"a page, 99 %", "a check, 99 %"} <= figures.keys()
    assert figures["locust: processes"] == 2


def test_a_record_is_replayed_at_its_own_pace_to_the_members_of_its_channels(tmp_path: Path) -> None:
    figures = _carry_out(tmp_path, "replay", _tiny("replay", seconds=2), messages_max=40, members_max=5)
    assert 0 < figures["letters acknowledged"] <= 40
    assert figures["deliveries owed"] == figures["letters acknowledged"] * 5


def test_an_overload_is_refused_in_part_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    tiny = _tiny("overload", seconds=2, rate=3, fan=10, waiting_max=20, letters_before=2)
    figures = _carry_out(tmp_path, "overload", tiny)
    assert figures["maximum"] > 0
    assert figures["offered"] > 0
    assert figures["deliveries owed"] == figures["letters acknowledged"] * 10
    assert {"goodput / maximum", "refused, from 10 s after", "memory, largest"} <= figures.keys()
