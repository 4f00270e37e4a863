"""A benchmark that can't be trusted ends with an error, never with a figure."""

from __future__ import annotations


class BenchError(Exception):
    """What was being measured did not start, answered wrongly, or lost something; says which."""
