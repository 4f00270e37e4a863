"""What a run of locust amounts to, and whether it is what is wanted. Pure.

Counts and times are those of locust's CSV; memory and processor time were sampled; what lies in the boxes was
counted. A figure that is wanted and can't be told (nothing was accepted, say) counts as missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtest.figures import Result, Row
from loadtest.scenarios.catalogue import BOXES, Limit, Scenario
from loadtest.scenarios.names import LANES, Outcome
from loadtest.scenarios.plan import Phase
from loadtest.scenarios.running import Run
from loadtest.scenarios.tally import Tally
from loadtest.scenarios.watching import Sample

Figures = dict[str, tuple[float, str]]
"""what → (how much, its unit); NaN where nobody can tell"""

_READS = ("page", "check", "sync")

BUSY = 0.9
"""a locust process that has so much of a core is what limits the load"""
LATE_MS = 100.0
"""and so is one that begins one request in a hundred later than this"""


def of_phase(run: Run, phase: Phase) -> Figures:
    """Of an ordinary scenario: its one open phase."""
    this, rows, name = run.plan, run.rows, phase.name
    due = phase.rate / this.lines * phase.seconds
    asked = [rows.requests(name, kind) for kind in ("deliver", "page", "check")]  # a sync is due when a check says so
    done = sum(count - failures for count, failures in asked)
    accepted = rows.letters(name, Outcome.ACCEPTED)
    figures: Figures = {
        "accepted": (accepted / phase.seconds, "msg/s"),
        "done, of what was due": (_share(done, due), "%"),
        "refused": (rows.letters(name, Outcome.REFUSED), "letters"),
        "failed": (_failed(run, [phase]), ""),
        "202, 50 %": (_or_nan(rows.request_ms(name, "deliver", "50%")), "ms"),
        "202, 99 %": (_or_nan(rows.request_ms(name, "deliver", "99%")), "ms"),
    }
    for kind in _READS:
        if rows.requests(name, kind)[0]:
            figures[f"a {kind}, 99 %"] = (_or_nan(rows.request_ms(name, kind, "99%")), "ms")
    return figures


def of_overload(maxima: Sequence[Run], run: Run, *, targets: int) -> Figures:
    """Of the runs that found the maximum, before and after, and of the one between that exceeded it."""
    phases = {phase.name: phase for phase in run.plan.phases}
    rows = run.rows
    before, after = (maximum_rate([one]) for one in maxima)
    taken = maximum_rate(maxima)
    over_s = phases["overload"].seconds
    offered = sum(rows.letters("overload", outcome) for outcome in Outcome) / over_s
    goodput = rows.letters("overload", Outcome.ACCEPTED) / over_s
    calm_ms = _or_nan(rows.request_ms("unloaded", "deliver", "99%"))
    high_ms = _or_nan(rows.letter_ms("overload", "99%", "high"))
    after_ms = _or_nan(rows.request_ms("after", "deliver", "99%"))
    refusing_ms = [_or_nan(rows.letter_ms("overload", "50%", lane, Outcome.REFUSED)) for lane in ("normal", "low")]
    figures: Figures = {
        "maximum before": (before * targets, "user-msg/s"),
        "maximum after": (after * targets, "user-msg/s"),
        "maximum after / before": (_ratio(after, before), "x"),
        "maximum": (taken * targets, "user-msg/s"),
        "offered": (offered * targets, "user-msg/s"),
        "offered / maximum": (_ratio(offered, taken), "x"),
        "goodput": (goodput * targets, "user-msg/s"),
        "goodput / maximum": (_ratio(goodput, taken), "x"),
        "unloaded: 202, 99 %": (calm_ms, "ms"),
        "priority 8 and above: 202, 99 %": (high_ms, "ms"),
        "priority 8 and above: 202, 99 % / unloaded": (_ratio(high_ms, calm_ms), "x"),
        "a refusal, 50 %": (min(refusing_ms), "ms"),
        "refused, from 10 s after": (rows.letters("after", Outcome.REFUSED), "letters"),
        "202, 99 % from 10 s after": (after_ms, "ms"),
        "202, 99 % from 10 s after / unloaded": (_ratio(after_ms, calm_ms), "x"),
        "failed": (_failed(run, run.plan.phases), ""),
    }
    for lane in LANES:
        accepted, refused = (rows.letters("overload", o, [lane]) for o in (Outcome.ACCEPTED, Outcome.REFUSED))
        figures[f"{lane}: accepted"] = (_share(accepted, accepted + refused), "%")
    return figures


def maximum_rate(runs: Sequence[Run]) -> float:
    """Letters a second that the phases ``maximum`` had accepted, on the average."""
    rates = []
    for run in runs:
        [phase] = [phase for phase in run.plan.phases if phase.name == "maximum"]
        rates.append(run.rows.letters("maximum", Outcome.ACCEPTED) / phase.seconds)
    return sum(rates) / len(rates)


def of_memory(samples: Sequence[Sample]) -> Figures:
    """Of the node while the load was on."""
    rss = [sample.rss_mib for sample in samples]
    if len(rss) < 2:
        return {}
    half = len(rss) // 2
    return {
        "memory, largest": (max(rss), "MiB"),
        "memory, second half / first": (_ratio(max(rss[half:]), max(rss[:half])), "x"),
    }


def of_boxes(tally: Tally) -> Figures:
    return {
        "letters acknowledged": (tally.letters, ""),
        "deliveries owed": (tally.owed, ""),
        "lost": (tally.lost, ""),
        "doubled": (tally.doubled, ""),
        "in a wrong box": (tally.wrong, ""),
    }


def of_generator(run: Run) -> tuple[Figures, str | None]:
    """How locust itself did, and a warning if the load was not the node's limit but locust's."""
    lags = [lag for phase in run.plan.phases if (lag := run.rows.lag_ms(phase.name, "99%")) is not None]
    lag_ms = max(lags, default=math.nan)
    working = sorted(sample.busiest for sample in run.locust)
    busiest = working[len(working) * 3 // 4] if working else math.nan
    figures: Figures = {
        "locust: processes": (run.plan.processes, ""),
        "locust: the busiest of them": (busiest, "cores"),
        "locust: begun behind schedule, 99 %": (lag_ms, "ms"),
    }
    if busiest < BUSY and not lag_ms > LATE_MS:
        return figures, None
    return figures, (
        "locust, or the machine under it, was at its limit: the rate above is the true one, but what was meant may "
        "have been more. More --processes, or larger requests (--lines, --fan), get it further."
    )


def judge(name: str, scenario: Scenario, how: str, figures: Figures, notes: list[str]) -> Result:
    """The figures with what is wanted of them."""
    rows = []
    for label in (*figures, *(missing for missing in scenario.limits if missing not in figures)):
        value, unit = figures.get(label, (math.nan, ""))
        limit = scenario.limits.get(label, Limit())
        if limit == Limit() and math.isnan(value):
            continue
        rows.append(Row(label=label, values=[value], unit=unit, at_least=limit.at_least, at_most=limit.at_most))
    return Result(name=name, title=scenario.headline, how=how, rows=rows, notes=notes)


def passed(result: Result) -> bool:
    """Whether nothing that is wanted was missed."""
    return all(row.met is not False for row in result.rows)


def is_sound(result: Result) -> bool:
    """Whether what was acknowledged lies where it belongs, once; else the boxes are evidence."""
    return all(row.met is not False for row in result.rows if row.label in BOXES)


def _failed(run: Run, phases: Sequence[Phase]) -> float:
    """Answers that are neither what was asked for nor a refusal, and requests without an answer."""
    failed = 0
    for phase in phases:
        failed += run.rows.letters(phase.name, Outcome.FAILED)
        failed += sum(run.rows.requests(phase.name, kind)[1] for kind in _READS)
    return failed


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.nan


def _share(part: float, whole: float) -> float:
    return 100.0 * _ratio(part, whole)
