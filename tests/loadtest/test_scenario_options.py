"""What the command line says has to make sense together; how many processes of locust it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest import scenario
from loadtest.errors import BenchError
from loadtest.scenario import Options
from loadtest.scenarios.catalogue import SCENARIOS
from loadtest.scenarios.plan import Phase, Plan


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("replay --even", "--even needs --rate"),
        ("replay --pace 2 --even --rate 5", "--even sends at --rate"),
        ("replay --pace 2 --seconds 9", "and so does --seconds"),
        ("replay --rate 500", "sent --even"),
        ("replay --lines 50", "sent --even"),
        (f"replay --record {__file__}", "--record and --members belong together"),
        ("steady --pace 2", "steady has none"),
        ("steady --even", "steady has none"),
        ("replay --pace 0", "--pace"),
        ("steady --rate 0", "--rate"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_begun(tmp_path: Path, arguments: str, words: str) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(scenario.main, [*arguments.split(), "--out", str(out)], env={"COLUMNS": "1000"})
    assert result.exit_code == 2
    assert words in result.output
    assert not out.exists()


def _plan(*phases: Phase, lines: int = 1) -> Plan:
    return Plan(run="r", url="http://x", ledger="/x", users=10, phases=list(phases), lines=lines)


@pytest.mark.parametrize(
    ("rate", "lines", "cpus", "processes"),
    [
        (0.5, 1, None, 1),
        (1_500, 1, None, 1),
        (1_501, 1, None, 2),
        (15_000, 50, None, 1),
        (9_000, 1, None, 4),
        (9_000, 1, [2, 3, 5], 3),
        (1, 1, [2, 3], 1),
    ],
)
def test_the_busiest_phase_says_how_many_processes_and_cores_how_many_at_most(
    monkeypatch: pytest.MonkeyPatch, rate: float, lines: int, cpus: list[int] | None, processes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    this = _plan(Phase(name="calm", seconds=1, rate=0.1), Phase(name="busy", seconds=1, rate=rate), lines=lines)
    assert scenario.with_processes(this, Options(place=Path("/x")), cpus).processes == processes
    assert scenario.with_processes(this, Options(place=Path("/x"), processes=7), cpus).processes == 7


@pytest.mark.parametrize(("cpus", "processes"), [(None, 1), ([2], 1), ([2, 3, 4], 3)])
def test_clients_who_wait_get_all_cores_that_are_locust_s_own(cpus: list[int] | None, processes: int) -> None:
    this = _plan(Phase(name="maximum", seconds=1, clients=48))
    assert scenario.with_processes(this, Options(place=Path("/x")), cpus).processes == processes


def _recorded(place: Path, **options: float | bool) -> tuple[float, float, str]:
    """(seconds, letters a second, headline) of three letters: at once, after 10 s, and after 40 s."""
    recorded = place / "recorded.ndjson"
    recorded.write_text("".join(f'{{"createdAt": "2026-01-05T08:00:{at:02}+00:00"}}\n' for at in (0, 10, 40)))
    arguments = {"place": place} | options
    this = scenario.of_recording(SCENARIOS["replay"], Options(**arguments), recorded)  # type: ignore[arg-type]
    return this.seconds, this.rate, this.headline


def test_a_recording_fills_the_seconds_or_takes_what_its_pace_makes_of_it(tmp_path: Path) -> None:
    assert _recorded(tmp_path) == (30, 0.1, "recorded traffic, its days in 30 s")
    assert _recorded(tmp_path, pace=1.0)[:2] == (40, 3 / 40)
    assert _recorded(tmp_path, pace=4.0) == (10, 0.3, "recorded traffic, 4 times as fast as it was recorded")
    assert _recorded(tmp_path, paced=False)[2] == "recorded traffic, 0 messages a second"


def test_a_recording_of_nothing_or_of_one_moment_has_no_pace(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded.ndjson"
    options = Options(place=tmp_path, pace=1.0)
    for text, words in (("", "empty"), ('{"createdAt": "2026-01-05T08:00:00+00:00"}\n', "one moment")):
        recorded.write_text(text)
        with pytest.raises(BenchError, match=words):
            scenario.of_recording(SCENARIOS["replay"], options, recorded)


def test_made_up_traffic_is_replayed_if_nothing_was_recorded(tmp_path: Path) -> None:
    recorded = scenario.prepare_recording(Options(place=tmp_path, messages_max=7))
    assert len(recorded.read_bytes().splitlines()) == 7
    assert scenario.of_recording(SCENARIOS["replay"], Options(place=tmp_path), recorded).rate == 7 / 30
