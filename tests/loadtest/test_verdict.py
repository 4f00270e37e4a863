"""The verdict is that of locust's CSV: counts and percentiles by phase, against the limits of the catalogue."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from loadtest.errors import BenchError
from loadtest.figures import Result
from loadtest.scenarios import names, rows, verdict
from loadtest.scenarios.catalogue import SCENARIOS, Limit, Scenario
from loadtest.scenarios.names import Outcome
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.running import Run, latest, with_rates
from loadtest.scenarios.tally import Tally
from loadtest.scenarios.verdict import Figures
from loadtest.scenarios.watching import Sample

_HEAD = ["Type", "Name", "Request Count", "Failure Count", "50%", "99%"]
_WHOLE = Tally(letters=10, owed=10, found=10)


def _plan(*phases: Phase, processes: int = 1) -> Plan:
    return Plan(run="r", url="http://x", ledger="/x", users=10, phases=list(phases), processes=processes)


def _run(tmp_path: Path, plan: Plan, cells: list[list[object]], *, busiest: float = 0.3) -> Run:
    prefix = tmp_path / "locust"
    with (tmp_path / "locust_stats.csv").open("w", newline="") as file:
        csv.writer(file).writerows([_HEAD, *cells, ["", "Aggregated", 1, 0, 1, 1]])
    samples = [Sample(at, 100, busiest, busiest) for at in range(4)]
    return Run(plan, prefix, rows.read(prefix), [], samples, samples)


def _steady(tmp_path: Path, *, accepted: int = 1_000, refused: int = 0, p99: object = 20, lag: int = 2) -> Figures:
    phase = Phase(name="steady", seconds=10, rate=100)
    cells: list[list[object]] = [
        ["POST", "steady: deliver", accepted + refused, refused, 3, p99],
        ["LETTER", "steady: normal accepted", accepted, 0, 3, p99],
        ["LETTER", "steady: normal refused", refused, 0, 1, 1],
        ["LAG", "steady: behind schedule", 1_000, 0, 0, lag],
    ]
    run = _run(tmp_path, _plan(phase), cells)
    figures = verdict.of_phase(run, phase) | verdict.of_boxes(_WHOLE) | {"all stored after, at most": (1.0, "s")}
    return figures | verdict.of_generator(run)[0]


def _judge(figures: Figures, name: str = "steady") -> Result:
    return verdict.judge(name, SCENARIOS[name], "how", figures, [])


def _missed(result: Result) -> set[str]:
    return {row.label for row in result.rows if row.met is False}


def test_the_headline_has_the_figures_of_this_very_run() -> None:
    steady, peak = SCENARIOS["steady"], SCENARIOS["peak"]
    assert steady.headline == "1,000 messages a second, one user each"
    assert msgspec.structs.replace(steady, rate=200.0, fan=3).headline == "200 messages a second, 3 users each"
    assert peak.headline == "5,000 messages a second, one user each, 50 a request"
    assert all("{" not in scenario.headline for scenario in SCENARIOS.values())
    assert verdict.judge("x", msgspec.structs.replace(steady, rate=0.5), "how", {}, []).title.startswith("0.5 messages")


def test_boxes_are_kept_for_what_is_wrong_in_them_only(tmp_path: Path) -> None:
    slow = _judge(_steady(tmp_path, p99=5_000))
    assert not verdict.passed(slow)
    assert verdict.is_sound(slow)
    for fault in ({"lost": (1.0, "")}, {"doubled": (1.0, "")}, {"in a wrong box": (1.0, "")}):
        assert not verdict.is_sound(_judge(_steady(tmp_path) | fault))


def test_a_run_that_did_what_was_due_passes(tmp_path: Path) -> None:
    result = _judge(_steady(tmp_path))
    assert verdict.passed(result)
    assert {row.label: row.median for row in result.rows}["accepted"] == 100


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"accepted": 980}, {"done, of what was due"}),
        ({"accepted": 999, "refused": 1}, {"refused"}),
        ({"p99": 2_000}, {"202, 99 %"}),
        ({"p99": "N/A"}, {"202, 99 %"}),
    ],
)
def test_what_is_missed_is_named(tmp_path: Path, changes: Mapping[str, int], missed: set[str]) -> None:
    assert _missed(_judge(_steady(tmp_path, **changes))) == missed  # type: ignore[arg-type]


def test_a_sync_is_shown_and_may_fail_but_was_not_due_by_itself(tmp_path: Path) -> None:
    phase = Phase(name="mixed", seconds=10, rate=100)
    cells: list[list[object]] = [
        ["POST", "mixed: deliver", 800, 0, 3, 20],
        ["GET", "mixed: check", 100, 0, 3, 30],
        ["GET", "mixed: sync", 90, 2, 3, 40],
    ]
    figures = verdict.of_phase(_run(tmp_path, _plan(phase), cells), phase)
    assert figures["a sync, 99 %"] == (40, "ms")
    assert figures["failed"][0] == 2
    assert figures["done, of what was due"][0] == 90


@pytest.mark.parametrize(
    ("tally", "missed"),
    [
        (Tally(letters=10, owed=10, found=9), "lost"),
        (Tally(letters=10, owed=10, found=10, doubled=1), "doubled"),
        (Tally(letters=10, owed=10, found=10, wrong=1), "in a wrong box"),
    ],
)
def test_a_letter_lost_doubled_or_misplaced_is_missed(tmp_path: Path, tally: Tally, missed: str) -> None:
    assert _missed(_judge(_steady(tmp_path) | verdict.of_boxes(tally))) == {missed}


def test_a_figure_that_is_wanted_and_was_not_found_is_missed(tmp_path: Path) -> None:
    figures = _steady(tmp_path)
    del figures["lost"]
    assert _missed(_judge(figures)) == {"lost"}


@pytest.mark.parametrize(("busiest", "lag_ms", "limited"), [(0.3, 2, False), (0.97, 2, True), (0.3, 900, True)])
def test_it_is_said_when_locust_was_the_limit(tmp_path: Path, busiest: float, lag_ms: int, limited: bool) -> None:
    cells: list[list[object]] = [["LAG", names.lag("steady"), 10, 0, 1, lag_ms]]
    run = _run(tmp_path, _plan(Phase(name="steady", seconds=1)), cells, busiest=busiest)
    assert (verdict.of_generator(run)[1] is not None) == limited


def _overloaded(tmp_path: Path, *, high_ms: int = 20, accepted: int = 5_400, after: int = 900) -> Figures:
    closed = _plan(Phase(name="maximum", seconds=10, clients=4))
    maxima = [_run(tmp_path, closed, [["LETTER", "maximum: normal accepted", n, 0, 5, 9]]) for n in (1_100, after)]
    phases = [Phase(name=name, seconds=60, rate=1) for name in ("unloaded", "overload", "settling", "after")]
    cells: list[list[object]] = [
        ["POST", "unloaded: deliver", 600, 0, 4, 10],
        ["POST", "after: deliver", 600, 0, 4, 12],
        ["LETTER", "overload: high accepted", 600, 0, 9, high_ms],
        ["LETTER", "overload: normal accepted", accepted - 600, 0, 9, 30],
        ["LETTER", "overload: normal refused", 30_000 - accepted, 0, 2, 5],
    ]
    run = _run(tmp_path, _plan(*phases), cells)
    samples = verdict.of_memory(run.node)
    return verdict.of_overload(maxima, run, targets=100) | verdict.of_boxes(_WHOLE) | samples


def test_an_overload_is_measured_against_the_maximum_and_the_unloaded_node(tmp_path: Path) -> None:
    figures = _overloaded(tmp_path)
    assert figures["offered / maximum"][0] == 5
    assert figures["goodput / maximum"][0] == pytest.approx(0.9)
    assert figures["priority 8 and above: 202, 99 % / unloaded"][0] == 2
    found = [figures[name][0] for name in ("maximum before", "maximum after", "maximum")]
    assert found == [11_000, 9_000, 10_000], (
        "boxes that grew meanwhile cost more: it counts what was possible in between"
    )
    assert verdict.passed(_judge(figures, "overload"))


def test_an_overload_that_leaves_the_node_slower_is_missed(tmp_path: Path) -> None:
    assert _missed(_judge(_overloaded(tmp_path, after=400), "overload")) == {"maximum after / before"}


def test_an_overload_that_starves_the_important_or_the_goodput_is_missed(tmp_path: Path) -> None:
    assert _missed(_judge(_overloaded(tmp_path, high_ms=31), "overload")) == {
        "priority 8 and above: 202, 99 % / unloaded"
    }
    assert _missed(_judge(_overloaded(tmp_path, accepted=4_700), "overload")) == {"goodput / maximum"}


def test_rates_in_units_of_the_maximum_become_letters_a_second() -> None:
    plan = _plan(Phase(name="a", seconds=1, rate=5, of_maximum=True), Phase(name="b", seconds=1, rate=7))
    assert [phase.rate for phase in with_rates(plan, 300).phases] == [1_500, 7]


def test_statistics_that_are_not_locust_s_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "locust_stats.csv").write_text("Type,Name\nPOST,x\n")
    with pytest.raises(BenchError, match="can't be read"):
        rows.read(tmp_path / "locust")


def test_a_line_of_the_history_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    head = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,99%,Total Request Count,Total Failure Count"
    lines = ["1,1,POST,a,5,0,3,9,10,1", "2,1,POST,a,6,0,N/A,N/A,20,2", "3,1,POST,a"]
    (tmp_path / "locust_stats_history.csv").write_text("\n".join([head, *lines]))
    moments = rows.history(tmp_path / "locust")
    assert [moment.count for moment in moments] == [10, 20]
    assert latest(moments)[0].at == 2
    assert rows.history(tmp_path / "another") == []


def test_every_limit_can_be_told() -> None:
    for scenario in SCENARIOS.values():
        assert all((limit.at_least is None) != (limit.at_most is None) for limit in scenario.limits.values())
    assert verdict.passed(verdict.judge("x", Scenario(title="", seconds=1, rate=1, limits={}), "", {}, []))
    assert Limit() == Limit(at_least=None)


def test_a_letter_without_a_row_counts_nothing() -> None:
    empty = rows.Statistics([])
    assert empty.letters("steady", Outcome.ACCEPTED) == 0
    assert empty.letter_ms("steady", "99%", "high") is None
