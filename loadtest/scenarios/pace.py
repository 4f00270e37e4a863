"""When requests are due. Pure.

The moments of an open phase depend on the clock alone. A sender that is late begins what is overdue at
once, and the time of an answer counts from the moment when its request was due: a node that stands
still for a second is seen to do so by everything that was due in that second, not by one request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def evenly(rate: float, seconds: float, *, process: int, processes: int) -> Iterator[float]:
    """Seconds from the beginning of a phase at which ``process`` of ``processes`` begins something; all of them
    together do so ``rate`` times a second."""
    if rate <= 0:
        return
    number = process
    while (due := number / rate) < seconds:
        yield due
        number += processes


def recorded(times: Sequence[float], seconds: float, *, process: int, processes: int) -> Iterator[float]:
    """The same for ``times`` (in ascending order, of any unit) stretched or squeezed into ``seconds``."""
    if not times:
        return
    first, span = times[0], times[-1] - times[0]
    for number in range(process, len(times), processes):
        yield (times[number] - first) / span * seconds if span else 0.0
