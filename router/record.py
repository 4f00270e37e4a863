"""What is written into the audit log of a request: by the rule that its route declares.

Refusals (401, 403) are written down whatever the route, as many as a log can bear. Pure.
"""

from __future__ import annotations

from enum import Enum

from node.config import Audit
from router.access import EVERYBODY, Caller


class Record(Enum):
    NEVER = "never"
    """it is about nobody"""
    DELIVERY = "delivery"
    """if ``[audit] deliveries`` says so: the mail itself is the record"""
    READ = "read"
    """who looks into somebody's box or list; a person's own box only if ``[audit] own_reads`` says so"""
    NOTE = "note"
    """always, a moment later: a kill takes the last of these along"""
    DEED = "deed"
    """always: a line is on disk before it is done, another before it is answered. What can't be undone, takes all there
    is of somebody away, or decides who hears of it. With no room for the line it is refused (507)"""


def is_noted(record: Record, caller: Caller, settings: Audit) -> bool:
    """Whether what ``caller`` asks for is written down a moment later."""
    if record is Record.READ:
        return caller.key is not None or settings.own_reads
    if record is Record.DELIVERY:
        return settings.deliveries
    return record is Record.NOTE


def may_be_noted(record: Record, settings: Audit) -> bool:
    """Whether anybody's asking is."""
    return record is Record.READ or is_noted(record, EVERYBODY, settings)
