"""How long a letter that could not be stored waits before it is tried again. Pure: the luck is an argument.

The pause doubles with each failure from ``base_s`` up to ``cap_s``, and is shortened by chance by up to ``jitter`` of
itself, so that what failed together doesn't come back together.
"""

from __future__ import annotations

from typing import NamedTuple


class Policy(NamedTuple):
    base_s: float = 0.5
    cap_s: float = 600.0
    jitter: float = 0.5
    """0 to 1"""


def pause_s(policy: Policy, failures: int, luck: float) -> float:
    """Seconds to wait after failure number ``failures`` (from 1); ``luck`` is 0 to 1, 0 for the longest."""
    longest = min(policy.cap_s, policy.base_s * 2.0 ** min(failures - 1, 64))
    return longest * (1.0 - policy.jitter * luck)
