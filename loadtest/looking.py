"""Looking at something again and again while something else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def looking(look: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Call ``look`` in a thread, again and again, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
