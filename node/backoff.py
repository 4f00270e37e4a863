"""How long a dead child waits before it is started again. Pure.

The first restart comes at once, so that a single crash costs a moment; a child that keeps dying
costs next to nothing. Whoever stayed up for a while has paid its debts.
"""

from __future__ import annotations

DELAY_MIN_S = 0.1
DELAY_MAX_S = 5.0
STEADY_S = 30.0


def after_death(deaths: int, up_s: float) -> tuple[int, float]:
    """The new number of deaths in a row, and the seconds to wait, for a child that died after ``up_s``."""
    deaths = 1 if up_s >= STEADY_S else deaths + 1
    return deaths, min(DELAY_MAX_S, DELAY_MIN_S * 2.0 ** min(deaths - 1, 16))
