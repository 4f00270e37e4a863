"""Tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


def played(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """``test``, played on a loop of its own."""

    @functools.wraps(test)
    def play(*args: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*args, **named))

    return play
