"""What the rows of locust's statistics are called. Pure: who sends and who judges use the same words.

Requests are counted by phase and kind, and add up to locust's total. Rows that aren't requests stand
beside them: LETTER (of a batch each one; its time is that of its request, from when that was due) by phase,
lane and outcome, and LAG, how long after it was due each request of an open phase was begun.
"""

from __future__ import annotations

from enum import StrEnum

LETTER = "LETTER"
LAG = "LAG"
LANES = ("high", "normal", "low")
TITLES = {"deliver": "POST", "page": "GET", "check": "GET", "sync": "GET"}


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """429, 503 or 507: come again"""
    FAILED = "failed"
    """any other answer, or none"""


def lane_of(priority: int) -> str:
    return "high" if priority >= 8 else "normal" if priority >= 4 else "low"


def request(phase: str, kind: str) -> str:
    """``kind``: deliver, page, check or sync (the download that a check asks for)."""
    return f"{phase}: {kind}"


def letter(phase: str, lane: str, outcome: str) -> str:
    return f"{phase}: {lane} {outcome}"


def lag(phase: str) -> str:
    return f"{phase}: behind schedule"
